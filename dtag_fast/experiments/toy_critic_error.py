"""The toy (toy.py) with critics of known error: how much of it does Action Gradient bear?

The imitator's actions are refined under

    Q(a) = 1 - a^2 + e sqrt(2) sin(k pi a + phi)

the true reward and a wave. Over |a| <= 1 and all phases phi the root mean square of the error is e in Q and
e k pi in dQ/da, so that e and k set the two errors apart. e = 0 is the exact critic.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dtag_fast.experiments.toy import ToyResult, reward
from dtag_fast.ops.refine import SGD, refine

# name -> optimizer and a step size with which it reaches the optimum of the exact critic
OPTIMIZERS: dict[str, tuple[Any, float]] = {
    "SGD": ("sgd", 0.1),
    "momentum 0.9": (SGD(momentum=0.9), 0.03),
    "Adam": ("adam", 0.05),
    "RMSprop": ("rmsprop", 0.02),
}


@dataclass(frozen=True)
class CriticErrorConfig:
    """Attributes: q_rmse: e > 0. waves: k, half-waves in an action of length 1. phases: drawn for each of
    them. steps: n, ascending."""

    q_rmse: tuple[float, ...] = (0.03, 0.1, 0.2, 0.4, 0.8)
    waves: tuple[int, ...] = (1, 4)
    phases: int = 16
    steps: tuple[int, ...] = (3, 10, 30)


class WavyCritic(nn.Module):
    """Q of states (B, 3), which hold e, k and phi, and actions (B, 1); (B,)."""

    def forward(self, states: Tensor, actions: Tensor) -> Tensor:
        e, k, phi = states.unbind(-1)
        a = actions[:, 0]
        return reward(a) + e * math.sqrt(2) * torch.sin(k * math.pi * a + phi)


def run_critic_error(
    seed: int, imitated: Sequence[float], config: CriticErrorConfig | None = None
) -> list[dict[str, Any]]:
    """Refine the imitator's actions under critics of every error, with every optimizer and n.

    Args:
        seed: of the phases. imitated: (P,) actions.

    Returns:
        A dict for each: waves, q_rmse, gradient_rmse, optimizer, steps; distance, the mean |a| over phases
        and actions, and farthest, the greatest; reward, the mean true one; q_gain, the mean rise of Q.
    """
    config = config or CriticErrorConfig()
    generator = torch.Generator().manual_seed(seed)
    phases = 2 * math.pi * torch.rand(config.phases, generator=generator)
    starts = torch.tensor(imitated)[:, None].repeat(config.phases, 1)  # (phases * P, 1)
    rows = []
    for waves, q_rmse in [(0, 0.0), *((k, e) for k in config.waves for e in config.q_rmse)]:
        states = torch.stack(
            [torch.full_like(phases, q_rmse), torch.full_like(phases, waves), phases], dim=1
        ).repeat_interleave(len(imitated), dim=0)  # (phases * P, 3)
        for name, (optimizer, lr) in OPTIMIZERS.items():
            for steps in config.steps:
                ends, info = refine(
                    WavyCritic(),
                    states,
                    starts,
                    steps=steps,
                    lr=lr,
                    optimizer=optimizer,
                    backend="torch",
                    return_info=True,
                )
                rows.append(
                    {
                        "waves": waves,
                        "q_rmse": q_rmse,
                        "gradient_rmse": q_rmse * waves * math.pi,
                        "optimizer": name,
                        "steps": steps,
                        "distance": float(ends.abs().mean()),
                        "farthest": float(ends.abs().max()),
                        "reward": float(reward(ends).mean()),
                        "q_gain": float((info.q_best - info.q_0).mean()),
                    }
                )
    return rows


def trained_critic_error(result: ToyResult) -> dict[str, float]:
    """Where the critic that the toy trains lies on the same scale.

    Returns:
        q_rmse, gradient_rmse: over the grid on |a| <= 1, the gradient by differences of neighbours.
    """
    error = np.array(result.critic) - np.array(result.true_reward)
    gradient = np.gradient(error, np.array(result.grid))
    return {
        "q_rmse": float(np.sqrt(np.mean(error**2))),
        "gradient_rmse": float(np.sqrt(np.mean(gradient**2))),
    }


def critic_error_of(result: ToyResult, config: CriticErrorConfig) -> dict[str, Any]:
    """All of this for a seed of the toy: config, imitator_reward, refined_reward, trained and rows."""
    return {
        "config": asdict(config),
        "imitator_reward": float(reward(np.array(result.imitated)).mean()),
        "refined_reward": float(reward(np.array(result.refined)).mean()),
        "trained": trained_critic_error(result),
        "rows": run_critic_error(result.seed, result.imitated, config),
    }
