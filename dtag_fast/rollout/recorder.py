"""What a collecting worker does beside playing: it perturbs what is executed and keeps whole episodes."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from dtag_fast.data import Episode
from dtag_fast.data.delayed_rewards import delay_rewards
from dtag_fast.rollout.env_processes import EnvironmentProcesses
from dtag_fast.rollout.environments import Environments
from dtag_fast.rollout.exploration import ActionNoise
from dtag_fast.rollout.guided import GuidedPolicy
from dtag_fast.rollout.runner import Played, Task

LEARNER, GUIDE = 0, 1  # positions of the settings that their actions are refined under


@dataclass(frozen=True)
class GuidedTask(Task):
    """A Task, and for how many steps the guide acts in it, >= 0."""

    guide_steps: int = 0


class Recording(NamedTuple):
    """A finished episode: what was seen and done in it, and what it came to."""

    episode: Episode
    played: Played


class EpisodeRecorder:
    """The `runner.Recorder` of collection, for N slots.

    Args:
        num_envs: N.
        noise: added to the learner's actions, not to the guide's; None adds none.
        guided: the worker's policy where it has a guide, whose tasks are `GuidedTask`s; else None.
        reward_delay: M >= 1, rewards are given out every M steps, see `data.delayed_rewards`.
    """

    def __init__(
        self,
        num_envs: int,
        noise: ActionNoise | None = None,
        guided: GuidedPolicy | None = None,
        reward_delay: int = 1,
    ):
        self._noise, self._guided, self._every = noise, guided, reward_delay
        self._owed = np.zeros(num_envs)  # rewards that are not given out yet
        # Of the episode in each slot, an entry per step, and an observation more.
        self._observations: list[list[np.ndarray]] = [[] for _ in range(num_envs)]
        self._steps: list[list[tuple[np.ndarray, float, bool, bool]]] = [[] for _ in range(num_envs)]

    def start(self, row: int, task: Task, observation: np.ndarray) -> None:
        """As `Recorder.start`."""
        self._observations[row], self._steps[row] = [observation.copy()], []
        self._owed[row] = 0.0
        if self._noise is not None:
            self._noise.start(row, task.seed)
        if self._guided is not None:
            self._guided.set_guide_steps(row, task.guide_steps)

    def begin_step(self, rows: np.ndarray, settings: np.ndarray) -> None:
        """As `Recorder.begin_step`: Action Gradient leaves the guide's actions as they are."""
        if self._guided is not None:
            settings[rows] = np.where(self._guided.guided[rows], GUIDE, LEARNER)

    def execute(self, rows: np.ndarray, actions: np.ndarray) -> None:
        """As `Recorder.execute`."""
        if self._noise is not None:
            everywhere = np.ones(len(actions), bool)
            self._noise.add(rows, actions, everywhere if self._guided is None else ~self._guided.guided)

    def end_step(
        self, rows: np.ndarray, actions: np.ndarray, environments: Environments | EnvironmentProcesses
    ) -> np.ndarray:
        """As `Recorder.end_step`."""
        seen = environments
        for row in rows.tolist():
            ends = bool(seen.terminated[row]), bool(seen.truncated[row])
            self._observations[row].append(seen.observations[row].copy())
            self._steps[row].append((actions[row].copy(), float(seen.rewards[row]), *ends))
        if self._every == 1:
            return seen.rewards
        return self._given_out(rows, seen)

    def finish(self, row: int, played: Played) -> Recording:
        """As `Recorder.finish`."""
        actions, rewards, terminations, truncations = zip(*self._steps[row], strict=True)
        rewards = np.array(rewards, np.float32)
        if self._every > 1:
            rewards = delay_rewards(rewards, np.array([0, len(rewards)]), self._every)
        episode = Episode(
            np.stack(self._observations[row]),
            np.stack(actions),
            rewards,
            np.array(terminations),
            np.array(truncations),
        )
        self._observations[row], self._steps[row] = [], []
        return Recording(episode, played)

    def _given_out(self, rows: np.ndarray, seen: Environments | EnvironmentProcesses) -> np.ndarray:
        """(N,) rewards with those that are not due yet held back."""
        self._owed[rows] += seen.rewards[rows]
        taken = np.array([len(self._steps[row]) for row in rows])
        over = seen.terminated[rows] | seen.truncated[rows]
        due = rows[(taken % self._every == 0) | over]
        given = np.zeros_like(self._owed)
        given[due], self._owed[due] = self._owed[due], 0.0
        return given
