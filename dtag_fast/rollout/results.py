"""What an evaluation found, and the JSON it is kept in."""

import dataclasses
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium

from dtag_fast.rollout.faults import FailedEpisode
from dtag_fast.rollout.settings import AGSetting
from dtag_fast.rollout.statistics import Summary

FORMAT_VERSION = 1


@dataclass(frozen=True)
class Normalized:
    """Score in percent of the way from ref_min to ref_max: mean, std and ci95 over episodes, and the
    references."""

    mean: float
    std: float
    ci95: tuple[float, float]
    ref_min: float
    ref_max: float
    source: str
    note: str


@dataclass(frozen=True)
class Paired:
    """Difference to the setting `baseline` on the same seeds: episode by episode, then summarised.

    episodes: how many seeds both settings finished.
    """

    baseline: str
    episodes: int
    difference: Summary


@dataclass(frozen=True)
class SettingResult:
    """The episodes of one Action Gradient setting and one target return that were finished, all lists in
    the order of `seeds`. Those that failed are in `EvaluationResult.failures`.

    Attributes:
        label: name for tables and plots.
        returns: undiscounted, in the environment's units. lengths: steps. terminated: ended by the
            environment, not by the time limit.
        mean, std, ci95, iqm: of `returns` (see statistics.Summary); None where no episode was finished.
        normalized: None where the task has no reference scores that hold, or no episode was finished.
        mean_q_0, mean_q_gain: per episode, Q of the policy's action and what refinement added, averaged
            over its steps, in the critic's units; None without a critic. A step whose Q is not finite (a
            gate) has no part in the first, which is None of an episode without any other, and adds 0 to the
            second.
        paired: against the plain policy with the same target, over the seeds that both finished. None for
            that policy itself, where it was not asked for, and where they have no seed in common.
    """

    label: str
    setting: AGSetting
    target_return: float | None
    seeds: list[int]
    returns: list[float]
    lengths: list[int]
    terminated: list[bool]
    mean: float | None
    std: float | None
    ci95: tuple[float, float] | None
    iqm: float | None
    normalized: Normalized | None
    mean_q_0: list[float | None] | None
    mean_q_gain: list[float] | None
    paired: Paired | None


@dataclass(frozen=True)
class WallTime:
    """seconds: from first reset to last step. split: share of the workers' time, adding up to 1.
    not_captured: why policy and Action Gradient were not one CUDA graph; None where they were, and "policy"
    is the time of both. env_processes: child processes that stepped the environments, 0 for none;
    env_processes_reason: why so."""

    seconds: float
    workers: int
    split: dict[str, float]
    not_captured: str | None
    env_processes: int
    env_processes_reason: str


@dataclass(frozen=True)
class EvaluationResult:
    """One checkpoint under all settings.

    Attributes:
        settings: one entry per Action Gradient setting and target return, in the order asked for.
        failures: episodes that their environments did not let finish, setting by setting.
        steps: environment steps of the finished episodes. steps_per_second: of all settings together.
        precision: of the products of "policy" and "refine" (None without a critic), such as "fp32".
        policy, critic: what the checkpoints say of themselves (algorithm, step, dataset, seed).
        versions: of the libraries that the numbers depend on.
        not_normalized: why no setting has a normalised score; None where the task has references that hold.
    """

    env_id: str
    seed: int
    episodes: int
    settings: list[SettingResult]
    failures: list[FailedEpisode]
    steps: int
    steps_per_second: float
    precision: dict[str, str | None]
    wall_time: WallTime
    policy: dict[str, Any]
    critic: dict[str, Any] | None
    versions: dict[str, str]
    not_normalized: str | None = None
    format_version: int = FORMAT_VERSION

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, lists and strings."""
        content = dataclasses.asdict(self)
        for result, mine in zip(content["settings"], self.settings, strict=True):
            result["setting"] = mine.setting.to_dict()
        return content

    def to_json(self, path: str | os.PathLike) -> None:
        """Write `to_dict` as JSON; the file appears whole or not at all."""
        write_json(path, self.to_dict())


class EpisodesFailed(gymnasium.error.Error):
    """Too few episodes could be finished for what was asked.

    Attributes:
        result: what there is; its `failures` have the tracebacks.
    """

    def __init__(self, result: EvaluationResult):
        failures, total = result.failures, result.episodes * len(result.settings)
        super().__init__(
            f"environment: {len(failures)} of {total} episodes of {result.env_id} could not be finished, the "
            f"first: {failures[0]}"
        )
        self.result = result


def write_json(path: str | os.PathLike, content: dict[str, Any]) -> None:
    """Write JSON beside `path` and rename it there. NaN and infinity are refused: they are not JSON."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    text = json.dumps(content, indent=1, allow_nan=False) + "\n"
    try:
        temporary.write_text(text)
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
