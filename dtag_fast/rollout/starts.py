"""Where Action Gradient begins: at the policy's own action, and at draws from its distribution.

With M starts at a step, a_0 the policy's action and e_i standard normal,

    a_i = draw(mu, sigma, spread e_i),  i = 1, ..., M - 1

where mu and sigma are those of the step and the spread is the setting's: Normal(mu, sigma) in the units of
actions, clipped to the bounds (Reinformer, the policies of IQL and AWAC), or tanh of a normal number, mapped
onto the bounds (Online Decision Transformer, the policies of SAC and CQL). `Refinement` climbs from each
start and takes the best end.
"""

from collections.abc import Sequence

import numpy as np
from torch import nn

from dtag_fast.rollout.candidates import Candidates
from dtag_fast.rollout.distributions import STOCHASTIC, OwnDistribution
from dtag_fast.rollout.draws import Draws
from dtag_fast.rollout.policy import SequencePolicy, check_finite
from dtag_fast.rollout.reactive import ReactivePolicy
from dtag_fast.rollout.settings import AGSetting


class Starts:
    """The starts of N rollouts beside the policy's own action.

    A rollout draws from a generator of its own: what it draws follows from its episode's seed and from M and
    spread of its own setting.

    Args:
        policy: of the rollouts; one that `check_starts` lets pass. action_dim: A.
        settings: those that episodes may ask for, by position.
    """

    def __init__(
        self, policy: SequencePolicy | ReactivePolicy, action_dim: int, settings: Sequence[AGSetting]
    ):
        self._draws_of = np.array([setting.starts - 1 for setting in settings])
        self._spread = np.array([setting.spread for setting in settings], np.float32)
        self._draws = Draws(policy.num_envs, action_dim, "starts")
        self._distribution = OwnDistribution(policy) if self._draws_of.any() else None

    def begin(self, row: int, seed: int) -> None:
        """An episode begins in slot `row`."""
        if self._distribution is not None:
            self._draws.start(row, seed)
            self._distribution.reset(row)

    def draw(
        self, rows: np.ndarray, observations: np.ndarray, actions: np.ndarray, settings: np.ndarray
    ) -> np.ndarray | None:
        """What else is climbed from in the slots `rows` (R,) that have just acted.

        Args:
            observations: (N, S) raw, what they saw. actions: (N, A), what the policy did.
            settings: (N,) positions in the list of settings.

        Returns:
            (D, A) float32, M - 1 for each row, in their order; None where no row has more than one start.

        Raises:
            ValueError: a draw that is not finite.
        """
        counts = self._draws_of[settings[rows]]
        if not counts.any():
            return None
        several = rows[counts > 0]
        counts = counts[counts > 0]
        spread = np.repeat(self._spread[settings[several]], counts)
        noise = spread[:, None] * self._draws.several(several, counts)
        drawn = self._distribution.draw(several, observations[several], actions[several], counts, noise)
        check_finite(drawn)
        return drawn


def check_starts(settings: Sequence[AGSetting], model: nn.Module, candidates: Candidates | None) -> None:
    """Refuse several starts where the policy cannot draw them; ValueError."""
    several = next((setting for setting in settings if setting.starts > 1), None)
    if several is None:
        return
    if not isinstance(model, STOCHASTIC):
        raise ValueError(
            f"starts: {several.label} draws from the policy's distribution, and {type(model).__name__} has "
            "none; leave starts out, or take a reinformer, an odt, or a policy of iql, awac or cql"
        )
    if candidates is not None:
        raise ValueError(
            f"starts: {several.label} draws from the distribution of the policy's own action, and candidates "
            "act with another; leave one of them out"
        )
