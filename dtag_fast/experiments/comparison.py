"""Policies with and without Action Gradient on the same episodes: one row of numbers per policy and n."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from dtag_fast.rollout import AGSetting, SettingResult, evaluate
from dtag_fast.rollout.results import EpisodesFailed, Normalized
from dtag_fast.rollout.statistics import Summary, paired_difference
from dtag_fast.training import load_critic, load_policy

LABELS = {"dt": "Decision Transformer", "reinformer": "Reinformer"}


def compare_policies(
    policies: dict[str, Path],
    critic: Path,
    *,
    steps: tuple[int, ...],
    lr: float,
    episodes: int,
    seed: int,
    progress: Callable[[str, int, int], None],
) -> list[dict]:
    """Evaluate each policy with every number of Action Gradient steps.

    Args:
        policies: algorithm name -> run folder.
        critic: run folder of the critic.
        steps: values of n; the first must be 0, which is the policy alone.
        lr: step size.
        episodes: episodes per policy and n; episode k has the same seed, `seed` + k, in all of them.
        progress: called with (policy label, episodes done, episodes in all).

    Returns:
        Rows of JSON values: policy, label, steps, lr, returns and seeds (E,), and the summaries return, score
        (in percent of D4RL's references), return_gain (over n = 0, episode by episode) and q_gain (mean over
        steps of Q(executed) - Q(a_0)).

    Raises:
        EpisodesFailed: an episode could not be finished; every row needs all of them.
    """
    if steps[0] != 0:
        raise ValueError(f"steps: expected 0 first, for the policy alone, got {steps}")
    loaded_critic = load_critic(critic)
    settings = [AGSetting(steps=n, lr=lr) for n in steps]
    rows = []
    for name, run in policies.items():
        label = LABELS.get(name, name)
        policy = load_policy(run)
        result = evaluate(
            policy,
            critic=loaded_critic,
            settings=settings,
            episodes=episodes,
            seed=seed,
            progress=lambda done, total, label=label: progress(label, done, total),
        )
        if result.failures:
            raise EpisodesFailed(result)
        alone = result.settings[0].returns
        for n, measured in zip(steps, result.settings, strict=True):
            rows.append(
                {
                    "policy": name,
                    "label": label,
                    "steps": n,
                    "lr": lr,
                    "seeds": measured.seeds,
                    "returns": measured.returns,
                    "return": _spread(measured),
                    "score": _spread(measured.normalized),
                    "return_gain": _spread(paired_difference(measured.returns, alone)),
                    "q_gain": float(np.mean(measured.mean_q_gain)) if n else 0.0,
                }
            )
    return rows


def _spread(summary: Summary | Normalized | SettingResult) -> dict:
    return {"mean": summary.mean, "std": summary.std, "ci95": list(summary.ci95)}
