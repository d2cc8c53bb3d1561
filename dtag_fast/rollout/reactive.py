"""A policy of the present state acting in N environments at once: there is nothing to remember."""

import numpy as np

from dtag_fast.models.policies import StatePolicy
from dtag_fast.rollout.batches import fill_up
from dtag_fast.rollout.policy import check_finite, pytorch_precision
from dtag_fast.rollout.transfers import Transfers


class ReactivePolicy:
    """Acts for N rollouts as `SequencePolicy` does, without a history.

    Args:
        model: a StatePolicy; put into eval mode.
        num_envs: N >= 1.
        batch_invariant: as for `SequencePolicy`: batches are filled up, so that an action's bits do not
            depend on the other rollouts.
    """

    def __init__(self, model: StatePolicy, num_envs: int, batch_invariant: bool = False):
        self.model, self.device = model.eval(), next(model.parameters()).device
        self.num_envs, self.batch_invariant = num_envs, batch_invariant
        self.transfers = Transfers(self.device)

    @property
    def precision(self) -> str:
        """As of `SequencePolicy`."""
        return pytorch_precision()

    def reset(
        self,
        which: np.ndarray,
        target_return: float | np.ndarray | None = None,
        seed: int | np.ndarray | None = None,
    ) -> None:
        """Start new episodes in `which` (N,) bool; no return can be asked for, and nothing is drawn."""
        if target_return is not None:
            raise ValueError(
                f"target_return: {type(self.model).__name__} looks at the present state alone, got "
                f"{target_return}; leave it out"
            )

    def use(self, transfers: Transfers) -> None:
        """Copy to the device and back by `transfers`, which may time it."""
        self.transfers = transfers

    def act(self, observations: np.ndarray, active: np.ndarray) -> np.ndarray:
        """Actions (N, A) float32 for raw observations (N, S), zeros where `active` (N,) is False.

        Raises:
            ValueError: an action that is not finite.
        """
        rows = np.flatnonzero(active)
        actions = np.zeros((self.num_envs, self.model.config["action_dim"]), np.float32)
        if rows.size == 0:
            return actions
        batch = fill_up(rows) if self.batch_invariant else rows
        states = self.transfers.to_device(np.asarray(observations[batch], np.float32))
        actions[rows] = self.transfers.to_host(self.model.act(states)[: rows.size].float())
        check_finite(actions)
        return actions

    def record(self, executed_actions: np.ndarray, rewards: np.ndarray, active: np.ndarray) -> None:
        """Arguments as for `SequencePolicy.record`; what happened changes nothing."""
