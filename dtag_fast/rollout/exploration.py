"""How collected episodes leave the policy's mean action: noise on what is executed, or draws from the policy.

An episode's random numbers come from its own seed alone, one vector of A standard normal numbers a step, so
that they do not depend on what is collected beside it.
"""

import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from torch import Tensor, nn

from dtag_fast.models import OnlineDecisionTransformer
from dtag_fast.models.decoder import Decoder
from dtag_fast.rollout.batches import Step
from dtag_fast.rollout.distributions import squashed_gaussian
from dtag_fast.rollout.draws import Draws
from dtag_fast.rollout.policy import SequencePolicy

Kind = Literal["none", "noise", "sample"]


@dataclass(frozen=True)
class Exploration:
    """One way to explore.

    Args:
        kind: "none", the policy's mean action; "noise", Gaussian noise on the executed action, after any
            Action Gradient, then clipped to the bounds (TD3+ODT, arXiv 2410.24108, Table 8); "sample", a draw
            from the policy's distribution (Online Decision Transformer, arXiv 2202.05607), which Action
            Gradient then refines.
        std: of the noise, in units of half an action's range, >= 0; of no meaning for the other kinds.

    Raises:
        ValueError: naming the argument.
    """

    kind: Kind
    std: float = 0.1

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise ValueError(f"exploration: expected one of {', '.join(get_args(Kind))}, got {self.kind!r}")
        number = isinstance(self.std, int | float) and not isinstance(self.std, bool)
        if not number or not 0 <= self.std < math.inf:
            raise ValueError(
                f"std: expected a finite number of at least 0, in units of half an action's range, got "
                f"{self.std!r}"
            )


class ActionNoise:
    """a + std * half range * e, e ~ N(0, 1), clipped to the bounds.

    Args:
        std: in units of half an action's range. bounds: (low, high), each (A,) finite.
        num_envs: N.
    """

    def __init__(self, std: float, bounds: tuple[np.ndarray, np.ndarray], num_envs: int):
        self._low, self._high = (np.asarray(bound, np.float32) for bound in bounds)
        self._std = np.float32(std) * (self._high - self._low) / 2  # (A,) in units of actions
        self._draws = Draws(num_envs, len(self._low), "exploration")

    def start(self, row: int, seed: int) -> None:
        """An episode begins in slot `row`."""
        self._draws.start(row, seed)

    def add(self, rows: np.ndarray, actions: np.ndarray, where: np.ndarray) -> None:
        """Change actions (N, A) in those of `rows` (R,) where (N,) bool says so; the others draw too."""
        noise = self._std * self._draws.of(rows)  # (R, A)
        noisy = np.clip(actions[rows] + noise, self._low, self._high)
        actions[rows] = np.where(where[rows, None], noisy, actions[rows])


class SamplingPolicy(SequencePolicy):
    """A SequencePolicy that acts with tanh(mu + sigma e), e ~ N(0, 1), mapped onto the action bounds.

    mu and sigma are those of `OnlineDecisionTransformer.distribution` at the present step of the window.
    Where steps are not those of the compiled module the window is gone over as a whole at every step.

    Args:
        model: an OnlineDecisionTransformer. num_envs: N.
        target_return, reward_scale, reward_shift, batch_invariant: as for `SequencePolicy`.

    Raises:
        ValueError: a model without a distribution.
    """

    def __init__(
        self,
        model: OnlineDecisionTransformer,
        num_envs: int,
        target_return: float | np.ndarray | None = None,
        reward_scale: float = 1.0,
        reward_shift: float = 0.0,
        batch_invariant: bool = False,
    ):
        expect_distribution(model)
        self._draws = Draws(num_envs, model.config.action_dim, "exploration")
        self._noise = np.zeros((num_envs, model.config.action_dim), np.float32)  # of the present step
        scales = target_return, reward_scale, reward_shift
        super().__init__(model, num_envs, *scales, batch_invariant=batch_invariant, incremental=False)
        decoder = Decoder(model, num_envs, deviations=True)
        self.decoder = decoder if decoder.compiled else None

    def reset(
        self,
        which: np.ndarray,
        target_return: float | np.ndarray | None = None,
        seed: int | np.ndarray | None = None,
    ) -> None:
        """As of `SequencePolicy`; the draws of each restarted rollout n begin with its seed, None: with n."""
        super().reset(which, target_return, seed)
        rows = np.flatnonzero(which)
        seeds = rows if seed is None else np.broadcast_to(seed, rows.shape)
        for row, own in zip(rows.tolist(), seeds.tolist(), strict=True):
            self._draws.start(row, own)

    def begin(self, observations: np.ndarray, active: np.ndarray) -> Step:
        """As of `SequencePolicy`; also draws for the step."""
        step = super().begin(observations, active)
        self._noise[step.rows] = self._draws.of(step.rows)
        return step

    def _compute(self, step: Step) -> tuple[Tensor, None]:
        mean, log_std = squashed_gaussian(self, self.decoder, step)
        return self.model.drawn(mean, log_std, self._tensor(self._noise[step.rows])), None


def expect_distribution(model: nn.Module) -> None:
    """Refuse a model that actions cannot be drawn from."""
    if not isinstance(model, OnlineDecisionTransformer):
        raise ValueError(
            "exploration: sample draws from the distribution of an OnlineDecisionTransformer, "
            f"{type(model).__name__} has none; take noise"
        )
