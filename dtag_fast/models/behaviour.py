"""What actions the data hold at a state, how far apart a critic values them, and Action Gradient in their
units."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from dtag_fast.models.critics import Networks, mlp_layers
from dtag_fast.models.normalizer import InputNormalizer
from dtag_fast.ops.refine import Prior, Radius

MIN_LOG_STD, MAX_LOG_STD = -5.0, 1.0


@dataclass(frozen=True)
class Behaviour:
    """Behaviour-regularised Action Gradient in the units of the data, see `BehaviourModel.options`.

    Args:
        weight: >= 0, what leaving the data costs: in every dimension by one deviation, `weight` * sqrt(A)
            spreads of Q over the data's actions.
        radius: >= 0, largest distance from the policy's action, in deviations of the data's actions.
    """

    weight: float = 0.4
    radius: float = 1.0

    def __post_init__(self) -> None:
        for name in ("weight", "radius"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
                raise ValueError(f"behaviour: {name}: expected a finite number of at least 0, got {value!r}")

    def options(self, steps: int, action_dim: int) -> dict[str, Any]:
        """What `refine` takes at every state: unit steps, n / 2 of which one way reach the radius."""
        reach = self.radius * action_dim**0.5
        lr = 2 * reach / max(steps, 2)
        return {"steps": steps, "lr": lr, "gradient": "unit", "radius": Radius(reach, "l2")}


class LocalBehaviour(NamedTuple):
    """The data's actions at B states.

    Attributes:
        mean: (B, A) of the actions.
        std: (B, A) their deviation, never more than that of all actions of the data.
        q_spread: (B,) >= 0, from the median to the 90 % quantile of their Q.
    """

    mean: Tensor
    std: Tensor
    q_spread: Tensor

    def cost(self, weight: float | Tensor) -> Tensor:
        """weight of `Prior` (B,): what a distance of one deviation in every dimension costs."""
        return weight * self.mean.shape[-1] ** 0.5 * self.q_spread


class BehaviourModel(nn.Module):
    """A Gaussian behaviour policy, and the spread of a critic's Q over its actions, at a state.

    Made by `dtag_fast.training.fit_behaviour` for one critic and its dataset. With it Action Gradient needs
    no step size: see `options`. States are standardised inside; what lies beyond the data's range is taken
    as its edge, because a network's deviations grow without bound out there.

    Args:
        state_dim, action_dim: S, A.
        hidden: widths of the hidden layers.
        state_mean, state_std: (S,) statistics of the data's states; identity when absent.
    """

    def __init__(
        self,
        state_dim: int,
        action_dim: int,
        hidden: Sequence[int] = (128, 128),
        state_mean: Tensor | None = None,
        state_std: Tensor | None = None,
    ):
        super().__init__()
        self.config = {"state_dim": state_dim, "action_dim": action_dim, "hidden": list(hidden)}
        self.normalizer = InputNormalizer(state_dim, state_mean, state_std)
        self.net = mlp_layers(state_dim, hidden, 2 * action_dim + 2)
        self.register_buffer("state_low", torch.full((state_dim,), -torch.inf))
        self.register_buffer("state_high", torch.full((state_dim,), torch.inf))
        self.register_buffer("action_std", torch.ones(action_dim))
        self.register_buffer("q_mean", torch.zeros(()))
        self.register_buffer("q_std", torch.ones(()))

    @property
    def sizes(self) -> tuple[int, int]:
        """(S, A)."""
        return self.config["state_dim"], self.config["action_dim"]

    def raw(self, states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """states (B, S) -> mean (B, A), log deviation (B, A), median and 90 % quantile of the standardised Q
        (B, 2): what `fit_behaviour` trains."""
        states = states.clamp(self.state_low, self.state_high)
        out = Networks((self.net,), "relu", self.normalizer)(states)
        out = self.net(self.normalizer(states)) if out is None else out[0]
        width = self.sizes[1]
        mean, log_std, quantiles = out.split((width, width, 2), dim=-1)
        return mean, log_std.clamp(MIN_LOG_STD, MAX_LOG_STD), quantiles

    def forward(self, states: Tensor) -> LocalBehaviour:
        """states (B, S) raw -> the data's actions there."""
        mean, log_std, quantiles = self.raw(states)
        spread = (quantiles[..., 1] - quantiles[..., 0]).clamp_min(0) * self.q_std
        return LocalBehaviour(mean, torch.minimum(log_std.exp(), self.action_std), spread)

    @torch.no_grad()
    def regularisation(self, states: Tensor, weight: float) -> dict[str, Any]:
        """scale and prior of `refine` at raw states (B, S) or (S,); see `options`."""
        local = self(states.float())
        cost = local.cost(weight)
        return {"scale": local.std, "prior": Prior(local.mean, cost if states.ndim > 1 else float(cost))}

    def options(
        self,
        states: Tensor,
        *,
        steps: int = 10,
        weight: float = Behaviour.weight,
        radius: float = Behaviour.radius,
    ) -> dict[str, Any]:
        """What `refine` takes at these states for behaviour-regularised Action Gradient:

            refine(critic, states, actions, bounds=bounds, **behaviour.options(states))

        In the coordinate u, a = a_0 + std(s) u, unit steps climb Q less what leaving the data costs,

            Q(s, a) - weight * q_spread(s) / sqrt(A) * sum_k ((a_k - mean_k(s)) / std_k(s))^2,

        within ||u||_2 <= radius * sqrt(A). All of it has the units of the data. If Q is linear over them and
        all of its spread comes from the actions, the best action lies 1 / (2.56 weight) deviations from the
        mean, as the root of the mean square over the dimensions, whatever A is. The idea is that of BRAC
        (arXiv 1911.11361), at evaluation time.

        Args:
            states: (B, S) or (S,), raw. steps: n >= 0; n / 2 of them in one direction reach the radius.
            weight, radius: >= 0, without units.
        """
        options = Behaviour(weight, radius).options(steps, self.sizes[1])
        return options | self.regularisation(states, weight)
