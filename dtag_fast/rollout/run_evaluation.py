"""Evaluation of a training run at one or several of its checkpoints: every score, the last and the best."""

import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from dtag_fast.rollout.evaluation import evaluate
from dtag_fast.rollout.faults import FailedEpisode
from dtag_fast.rollout.latency import LatencyResult, measure_latency
from dtag_fast.rollout.results import (
    FORMAT_VERSION,
    EpisodesFailed,
    EvaluationResult,
    SettingResult,
    write_json,
)
from dtag_fast.training.checkpoint import (
    LoadedCritic,
    find_checkpoint,
    load_critic,
    load_policy,
    read_checkpoint_config,
)


@dataclass(frozen=True)
class RunEvaluation:
    """Results of the checkpoints of one run, in the order of their steps; `latency` where it was measured."""

    run: str
    checkpoints: list[EvaluationResult]
    latency: LatencyResult | None = None

    @property
    def last(self) -> list[SettingResult]:
        """The settings' results at the last checkpoint."""
        return self.checkpoints[-1].settings

    @property
    def failures(self) -> list[tuple[int, FailedEpisode]]:
        """(step of the checkpoint, episode) of all episodes that their environments did not let finish."""
        return [(result.policy["step"], f) for result in self.checkpoints for f in result.failures]

    def best(self, setting: int) -> tuple[int, SettingResult]:
        """(step, result) of the checkpoint with the highest mean return under the setting of this position.

        The earliest on ties, the last where no checkpoint finished an episode of it. It was chosen by these
        same episodes, so it flatters; report it beside the last.
        """
        scored = [result for result in self.checkpoints if result.settings[setting].mean is not None]
        found = max(scored or self.checkpoints[-1:], key=lambda result: result.settings[setting].mean)
        return found.policy["step"], found.settings[setting]

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, lists and strings: every checkpoint in full, and last and best by label."""
        best = [self.best(i) for i in range(len(self.last))]
        measured = {} if self.latency is None else {"latency": self.latency.to_dict()}
        return {
            "format_version": FORMAT_VERSION,
            "run": self.run,
            "last": {s.label: _score(self.checkpoints[-1].policy["step"], s) for s in self.last},
            "best": {s.label: _score(step, s) for step, s in best},
            "checkpoints": [result.to_dict() for result in self.checkpoints],
            **measured,
        }

    def to_json(self, path: str | os.PathLike) -> None:
        """Write `to_dict` as JSON; the file appears whole or not at all."""
        write_json(path, self.to_dict())


def evaluate_run(
    run: str | os.PathLike,
    *,
    checkpoints: Literal["last", "all"] | Sequence[int] = "last",
    device: str = "cpu",
    critic: LoadedCritic | None = None,
    progress: Callable[[int, int], None] | None = None,
    **options: Any,
) -> RunEvaluation:
    """Evaluate checkpoints of a run, all on the same seeds.

    A checkpoint that could not finish any episode is among the results too: `failures` says why.

    Args:
        run: run folder, or one checkpoint folder.
        checkpoints: "last", "all", or the steps of some.
        device: where the policies go.
        critic, options: as in `evaluate`. Candidates without a critic are chosen by the one that a checkpoint
            holds beside its policy.
        progress: called as progress(episodes done, episodes in all) over all checkpoints.

    Raises:
        FileNotFoundError: no such run or checkpoint.
        ValueError: as `evaluate`.
    """
    folders = find_checkpoints(Path(run), checkpoints)
    results = []
    for number, folder in enumerate(folders):

        def report(done: int, total: int, number: int = number) -> None:
            if progress is not None:
                progress(number * total + done, len(folders) * total)

        policy, chooser = load_policy(folder, device), critic
        if critic is None and options.get("candidates") is not None:
            chooser = _own_critic(folder, device)
        try:
            results.append(evaluate(policy, critic=chooser, progress=report, **options))
        except EpisodesFailed as error:  # the other checkpoints' results are not lost for it
            results.append(error.result)
    return RunEvaluation(Path(run).name, results)


def measure_run(
    run: str | os.PathLike,
    *,
    checkpoints: Literal["last", "all"] | Sequence[int] = "last",
    device: str = "cpu",
    critic: LoadedCritic | None = None,
    **options: Any,
) -> LatencyResult:
    """Latency of the last of a run's checkpoints; arguments as for `evaluate_run` and `measure_latency`."""
    folder = find_checkpoints(Path(run), checkpoints)[-1]
    if critic is None and options.get("candidates") is not None:
        critic = _own_critic(folder, device)
    return measure_latency(load_policy(folder, device), critic=critic, **options)


def _own_critic(checkpoint: Path, device: str) -> LoadedCritic | None:
    """The critic beside a policy, or None."""
    held = "critic" in read_checkpoint_config(checkpoint)["networks"]
    return load_critic(checkpoint, device) if held else None


def find_checkpoints(run: Path, which: Literal["last", "all"] | Sequence[int] = "last") -> list[Path]:
    """Checkpoint folders of a run, in the order of their steps.

    Raises:
        FileNotFoundError: no such run, or no checkpoint of a step asked for.
        ValueError: `which` is something else.
    """
    last = find_checkpoint(run)
    if which == "last":
        return [last]
    found = {int(p.name): p for p in last.parent.iterdir() if p.name.isdecimal() and p.is_dir()}
    if which == "all":
        return [found[step] for step in sorted(found)]
    if isinstance(which, str) or not which:
        raise ValueError(f'checkpoints: expected "last", "all" or steps, got {which!r}')
    missing = sorted(set(which) - set(found))
    if missing:
        raise FileNotFoundError(
            f"checkpoints: {run} has none of step {missing[0]}; it has {', '.join(map(str, sorted(found)))}"
        )
    return [found[step] for step in sorted(set(which))]


def evaluation_scores(checkpoint: Path, device: str, options: dict[str, Any]) -> dict[str, float]:
    """Scores of a checkpoint for the log, by target return and Action Gradient setting where there are any.

    Episodes that their environments did not let finish are warned of and counted as failed_episodes; the
    training goes on.

    Args:
        options: of `rollout.evaluate`; Action Gradient climbs the checkpoint's own critic.
    """
    refined = any(not setting.is_plain for setting in options.get("settings", ()))
    critic = load_critic(checkpoint, device) if refined else None
    try:
        result = evaluate(load_policy(checkpoint, device), critic=critic, **options)
    except EpisodesFailed as error:
        result = error.result
    scores: dict[str, float] = {}
    if result.failures:
        scores["failed_episodes"] = float(len(result.failures))
        warnings.warn(
            f"evaluation at step {checkpoint.name}: {EpisodesFailed(result)}; the scores are over the others",
            RuntimeWarning,
            stacklevel=2,
        )
    for setting in result.settings:
        if setting.mean is None:
            continue
        target = [] if setting.target_return is None else [f"{setting.target_return:g}"]
        refined_by = [] if setting.setting.is_plain else [setting.setting.label]
        prefix = "".join(f"{part}/" for part in [*target, *refined_by])
        scores[f"{prefix}return_mean"] = setting.mean
        scores[f"{prefix}return_std"] = setting.std
        if setting.normalized is not None:
            scores[f"{prefix}normalized_score"] = setting.normalized.mean
    return scores


def _score(step: int, setting: SettingResult) -> dict[str, Any]:
    normalized = setting.normalized and setting.normalized.mean
    return {
        "step": step,
        "mean": setting.mean,
        "std": setting.std,
        "ci95": setting.ci95,
        "normalized": normalized,
    }
