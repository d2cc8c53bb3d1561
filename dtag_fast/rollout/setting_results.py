"""From episodes to the results of their settings."""

from collections.abc import Sequence

import numpy as np

from dtag_fast.data import normalized_score
from dtag_fast.rollout.faults import FailedEpisode
from dtag_fast.rollout.results import Normalized, Paired, SettingResult
from dtag_fast.rollout.runner import Failed, Played, Task
from dtag_fast.rollout.settings import AGSetting
from dtag_fast.rollout.statistics import paired_difference, summarize


def setting_results(
    settings: Sequence[AGSetting],
    targets: Sequence[float | None],
    episodes: int,
    tasks: Sequence[Task],
    outcomes: Sequence[Played | Failed],
    task,
    with_critic: bool,
) -> list[SettingResult]:
    """One result per setting and target, of the episodes that were finished.

    Args:
        tasks, outcomes: `episodes` for each target of each setting, in this order.
        task: what reference scores are looked up by.
    """
    blocks = [(setting, target) for setting in settings for target in targets]
    finished: list[dict[int, Played]] = []  # by seed
    for start in range(0, len(tasks), episodes):
        chunk = zip(tasks[start : start + episodes], outcomes[start : start + episodes], strict=True)
        finished.append({t.seed: outcome for t, outcome in chunk if isinstance(outcome, Played)})
    plain: dict[float | None, tuple[str, dict[int, Played]]] = {}
    for (setting, target), mine in zip(blocks, finished, strict=True):
        if setting.is_plain:
            plain.setdefault(target, (setting.label, mine))
    results = []
    for (setting, target), mine in zip(blocks, finished, strict=True):
        returns = np.array([p.episode_return for p in mine.values()])
        summary = summarize(returns) if mine else None
        baseline = None if setting.is_plain else plain.get(target)
        results.append(
            SettingResult(
                label=setting.label if target is None else f"{setting.label} target={target:g}",
                setting=setting,
                target_return=target,
                seeds=list(mine),
                returns=returns.tolist(),
                lengths=[p.length for p in mine.values()],
                terminated=[p.terminated for p in mine.values()],
                mean=summary and summary.mean,
                std=summary and summary.std,
                ci95=summary and summary.ci95,
                iqm=summary and summary.iqm,
                normalized=_normalized(returns, task) if mine else None,
                mean_q_0=[p.mean_q_0 for p in mine.values()] if with_critic else None,
                mean_q_gain=[p.mean_q_gain for p in mine.values()] if with_critic else None,
                paired=baseline and _paired(mine, *baseline),
            )
        )
    return results


def failed_episodes(
    tasks: Sequence[Task], outcomes: Sequence[Played | Failed], labels: Sequence[str]
) -> list[FailedEpisode]:
    """The episodes that were not finished; `labels` are those of the tasks' settings."""
    return [
        FailedEpisode(label, task.target_return, task.seed, outcome.step, **vars(outcome.fault))
        for task, outcome, label in zip(tasks, outcomes, labels, strict=True)
        if isinstance(outcome, Failed)
    ]


def _paired(mine: dict[int, Played], baseline: str, theirs: dict[int, Played]) -> Paired | None:
    """Difference over the seeds that both have; None where there are none."""
    common = [seed for seed in mine if seed in theirs]
    if not common:
        return None
    returns, others = ([played[seed].episode_return for seed in common] for played in (mine, theirs))
    return Paired(baseline, len(common), paired_difference(returns, others))


def _normalized(returns: np.ndarray, task) -> Normalized | None:
    found = normalized_score(returns, task)
    if found is None:
        return None
    scores = summarize(found.score)
    return Normalized(
        scores.mean, scores.std, scores.ci95, found.ref_min, found.ref_max, found.source, found.note
    )
