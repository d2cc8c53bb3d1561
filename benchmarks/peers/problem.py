"""The refinement that every variant computes."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn


class TwinCritic(nn.Module):
    """Two independent Q networks over [state | action], as TD3, SAC and IQL code has them."""

    def __init__(self, state_dim: int, action_dim: int, hidden: int):
        super().__init__()

        def member() -> nn.Sequential:
            return nn.Sequential(
                nn.Linear(state_dim + action_dim, hidden),
                nn.ReLU(),
                nn.Linear(hidden, hidden),
                nn.ReLU(),
                nn.Linear(hidden, 1),
            )

        self.q1, self.q2 = member(), member()

    def forward(self, states: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        inputs = torch.cat([states, actions], dim=-1)  # (B, S + A)
        return self.q1(inputs), self.q2(inputs)  # (B, 1) each


@dataclass(frozen=True)
class Problem:
    """n steps of gradient ascent on min(Q1, Q2), actions within [-1, 1], the best iterate returned."""

    critic: TwinCritic
    states: Tensor  # (B, S)
    actions: Tensor  # (B, A)
    steps: int
    lr: float

    @staticmethod
    def make(
        batch: int,
        *,
        state_dim: int = 17,
        action_dim: int = 6,
        hidden: int = 256,
        steps: int = 10,
        lr: float = 0.03,
        device: str = "cpu",
    ) -> "Problem":
        generator = torch.Generator().manual_seed(0)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            critic = TwinCritic(state_dim, action_dim, hidden).to(device)
        states = torch.randn(batch, state_dim, generator=generator).to(device)
        actions = (2 * torch.rand(batch, action_dim, generator=generator) - 1).to(device)
        return Problem(critic, states, actions, steps, lr)

    def q(self, actions: Tensor) -> Tensor:
        with torch.no_grad():
            return torch.minimum(*self.critic(self.states, actions)).squeeze(-1)  # (B,)
