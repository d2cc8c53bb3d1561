"""Settings of the online part, which every algorithm shares, and their presets per environment."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, Literal

from dtag_fast.algorithms.registry import config_from_dict, family_settings
from dtag_fast.algorithms.settings import at_least_zero, between_0_and_1, from_0_to_1, positive_integers
from dtag_fast.rollout.settings import AGSetting


@dataclass(frozen=True)
class OnlineConfig:
    """Defaults: the published schedule for locomotion (ODT, and TD3+ODT's tables 8 and 9)."""

    target_return: float | None = None  # to ask for while collecting; None: twice the largest of evaluation's
    episodes_per_iteration: int = 1  # played side by side
    steps_per_iteration: int = 0  # rounds of so many episodes go on until they have as many steps
    updates_per_iteration: int = 300  # of the policy; a critic that moves more often makes its own besides
    overlap: bool = False  # play while learning from what there was before; episodes are one iteration older
    buffer_capacity: int = 1_000  # episodes; the offline ones of lowest return go first
    offline_episodes: int | None = None  # of highest return to begin with; None: as many as fit
    exploration: Literal["default", "sample", "noise", "none"] = "default"  # "default": the algorithm's own
    exploration_noise: float = 0.1  # sigma of "noise", in units of half an action's range
    explore_ag_steps: int = 0  # Action Gradient on the way: steps up the learner's critic
    explore_ag_lr: float = 0.03
    reward_delay: int = 1  # M: rewards are given out in sums, every M-th step and at the end
    guide_steps: int = 0  # JSRL: the pretrained policy acts for the first steps of an episode ...
    guide_decay: float = 0.99  # ... which become fewer by this factor with every episode
    curriculum_decay: float | None = None  # the target return approaches its value by this factor an episode

    def __post_init__(self) -> None:
        positive_integers(
            self, "episodes_per_iteration", "updates_per_iteration", "buffer_capacity", "reward_delay"
        )
        at_least_zero(self, "steps_per_iteration", "exploration_noise", "guide_steps")
        from_0_to_1(self, "guide_decay")
        if self.offline_episodes is not None:
            at_least_zero(self, "offline_episodes")
        if self.curriculum_decay is not None:
            between_0_and_1(self, "curriculum_decay")
        known = ("default", "sample", "noise", "none")
        if self.exploration not in known:
            raise ValueError(f"exploration: expected one of {', '.join(known)}, got {self.exploration!r}")
        AGSetting(self.explore_ag_steps, self.explore_ag_lr)

    @property
    def ag(self) -> AGSetting | None:
        """Of the actions of exploration; None where they are not refined."""
        return AGSetting(self.explore_ag_steps, self.explore_ag_lr) if self.explore_ag_steps else None

    def asked_return(self, full: float, of_data: float, episodes: int) -> float:
        """The return to ask for in an episode.

        With a curriculum full - decay^N (full - of_data) after N episodes (Yan et al. 2024, figure 24).

        Args:
            full: the target return of collection. of_data: mean return of the data's episodes.
            episodes: N, played before it.
        """
        if self.curriculum_decay is None:
            return full
        return full - self.curriculum_decay**episodes * (full - of_data)

    def guided_steps(self, episodes: int) -> int:
        """Steps of an episode that the guide acts for, N episodes having been played before it."""
        return round(self.guide_steps * self.guide_decay**episodes)


def online_preset(metadata: dict[str, Any]) -> OnlineConfig:
    """Settings for a dataset: defaults, then the family's, then those of its kind (presets/online.toml)."""
    return config_from_dict(OnlineConfig, family_settings(_presets(), metadata))


def doubled(targets: Sequence[float]) -> float:
    """The return to ask for in exploration where none is given: twice the largest one of evaluation's.

    Zheng et al. 2022 do so in locomotion. Of a negative one: 0.
    """
    highest = max(targets)
    return highest + abs(highest)


@cache
def _presets() -> dict[str, dict[str, Any]]:
    file = resources.files("dtag_fast.finetuning").joinpath("presets", "online.toml")
    return tomllib.loads(file.read_text())
