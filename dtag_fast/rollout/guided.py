"""A policy that another one acts for in the first steps of an episode (Jump-Start RL; TD3+ODT, arXiv
2410.24108, Figure 24)."""

import numpy as np

from dtag_fast.rollout.policy import SequencePolicy
from dtag_fast.rollout.reactive import ReactivePolicy


class GuidedPolicy:
    """Acts for N rollouts as `SequencePolicy` does: the guide in the first steps, then the learner.

    Each keeps a history of its own over the same rollouts, with the states, executed actions and rewards of
    all steps from the first on, so that the learner takes over with its context full. The learner computes an
    action at every step, the guided ones too: what it draws, and what its decoder and its history hold, is
    what they hold without a guide.

    Args:
        learner, guide: over the same rollouts, on the same device. A guide that asks for no target return is
            given none.
    """

    def __init__(self, learner: SequencePolicy | ReactivePolicy, guide: SequencePolicy | ReactivePolicy):
        self.learner, self.guide = learner, guide
        self.device, self.num_envs = learner.device, learner.num_envs
        self._taken = np.zeros(self.num_envs, np.int64)  # steps of the present episode
        self._guide_steps = np.zeros(self.num_envs, np.int64)

    @property
    def guided(self) -> np.ndarray:
        """(N,) bool: the guide acts in the step that comes next."""
        return self._taken < self._guide_steps

    def set_guide_steps(self, row: int, steps: int) -> None:
        """How long the guide acts in the episode that has just begun in slot `row`; without this, never."""
        self._guide_steps[row] = steps

    def reset(
        self,
        which: np.ndarray,
        target_return: float | np.ndarray | None = None,
        seed: int | np.ndarray | None = None,
    ) -> None:
        """Arguments as for `SequencePolicy.reset`."""
        self.learner.reset(which, target_return, seed)
        asked = target_return if self.guide.model.takes_target_return else None
        self.guide.reset(which, asked, seed)
        self._taken[which] = self._guide_steps[which] = 0

    def act(self, observations: np.ndarray, active: np.ndarray) -> np.ndarray:
        """Arguments, result and errors as for `SequencePolicy.act`."""
        actions = self.learner.act(observations, active)
        guided = self.guided & active
        if guided.any():
            actions[guided] = self.guide.act(observations, guided)[guided]
        return actions

    def record(self, executed_actions: np.ndarray, rewards: np.ndarray, active: np.ndarray) -> None:
        """Arguments as for `SequencePolicy.record`."""
        self.learner.record(executed_actions, rewards, active)
        guided = self.guided & active
        if guided.any():
            self.guide.record(executed_actions, rewards, guided)
        self._taken[active] += 1
