"""A critic that has no say where the members of its ensemble disagree."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from dtag_fast.ops.refine.critic import CriticCall


class GatedCritic(nn.Module):
    """Q of every member where their standard deviation is at most `limit`, -inf of all where it is more.

    `refine` with select="best" then ends the climb of a row at its first iterate beyond the limit: the
    gradient is zero there, and an iterate of -inf is not executed. A row whose own action lies beyond it
    comes back as it was. No kernel has the gate, so that `refine` takes its autograd reference.

        critic = GatedCritic(ensemble, limit)
        refine(critic, states, actions, steps=100, lr=0.03)

    A limit that fits the critic's data: `training.gated`.

    Args:
        critic: an ensemble of E >= 2 members, as `refine` takes it.
        limit: >= 0, in units of Q; the deviation has the divisor E - 1.

    Raises:
        ValueError: a limit that is negative or NaN; when called, a critic of one member.
    """

    def __init__(self, critic: nn.Module, limit: float):
        super().__init__()
        if isinstance(limit, bool) or not isinstance(limit, int | float) or not limit >= 0:
            raise ValueError(f"limit: expected a number of at least 0, in units of Q, got {limit!r}")
        self.critic, self.limit = critic, float(limit)
        self._calls: dict[tuple[int, int], CriticCall] = {}  # by S and A

    def forward(self, states: Tensor, actions: Tensor) -> Tensor:
        """states (B, S), actions (B, A) -> (E, B)."""
        q = self.members(states, actions)
        return torch.where(deviation(q) <= self.limit, q, -math.inf)

    def members(self, states: Tensor, actions: Tensor) -> Tensor:
        """Q of every member, (E, B), whether they agree or not."""
        sizes = states.shape[-1], actions.shape[-1]
        if sizes not in self._calls:
            call = CriticCall([self.critic], *sizes)
            if call.members < 2:
                raise ValueError(
                    "critic: a gate needs two members or more that can disagree, this one has one; train it "
                    "with more (members)"
                )
            self._calls[sizes] = call
        return self._calls[sizes]([self.critic], states, actions)


def deviation(q: Tensor) -> Tensor:
    """Standard deviation over members, (E, B) -> (B,); its gradient is not asked for."""
    return q.detach().std(dim=0)
