"""A problem whose optimum is known, with actions of A dimensions: how near does Action Gradient get?

    r(s, a) = 1 - |a - g(s)|^2 / A,        g(s) = 0.2 tanh(s W) in (-0.2, 0.2)^A

The data are actions on a shell around the optimum, a = g(s) + rho sqrt(A) u with |u| = 1 and rho in
(0.25, 0.45): in every direction, none nearer. The imitator is a perfect one: it draws new actions as the data
were drawn. The critic learns r by regression; a bandit has nothing to bootstrap from. The gradient of each
dimension is -2 (a_k - g_k) / A, so that a step size is taken as it is and times A: with the latter the exact
critic's actions have a_n - g = (1 - 2 lr)^n (a_0 - g) for every A.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dtag_fast.experiments.reproduction.work import Progress, Shelf, Work
from dtag_fast.models import TwinCritic
from dtag_fast.ops.refine import refine
from dtag_fast.training.files import write_json

NEAREST, FARTHEST = 0.25, 0.45  # rho: root mean square distance per dimension
STATE_DIM = 8
_UPDATE_SECONDS = 0.005  # on one core, 256 rows, [256, 256]


@dataclass(frozen=True)
class DimensionGain(Work):
    """A critic trained for one A, and what its gradient does to the imitator's actions.

    Attributes:
        action_dim: A. activation: of the critic. seed: of W, data and critic. samples: of the data.
        updates, batch_size, learning_rate: of the critic; the rate falls to 0 along a cosine.
        tested: states that are acted in. steps: n. lr: each taken as it is and times A.
    """

    action_dim: int
    activation: str
    seed: int
    updates: int
    samples: int = 50_000
    batch_size: int = 256
    learning_rate: float = 1e-3
    hidden: tuple[int, ...] = (256, 256)
    tested: int = 512
    steps: tuple[int, ...] = (10, 30)
    lr: tuple[float, ...] = (0.03, 0.1, 0.3)

    folder: ClassVar[str] = "dimension-gains"
    code: ClassVar[tuple[str, ...]] = ("ops", "models", "experiments/reproduction/dimension_gain.py")

    @property
    def label(self) -> str:
        return f"shell-{self.action_dim}-{self.activation}-s{self.seed}"

    @property
    def seconds(self) -> float:
        return _UPDATE_SECONDS * self.updates

    def do(self, path: Path, shelf: Shelf, progress: Progress) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)  # of the critic's weights
            generator = torch.Generator().manual_seed(self.seed)
            problem = Shell(self.action_dim, generator)
            critic = train_critic(self, problem, generator, progress)
            states, actions = problem.demonstrate(self.tested, generator)
            write_json(path, measure(self, problem, critic, states, actions))


class Shell:
    """g and the data around it.

    Args:
        generator: of W (STATE_DIM, A).
    """

    def __init__(self, action_dim: int, generator: torch.Generator):
        self.action_dim = action_dim
        self.weights = 2 / STATE_DIM**0.5 * torch.randn(STATE_DIM, action_dim, generator=generator)

    def optimum(self, states: Tensor) -> Tensor:
        """g of states (N, STATE_DIM), (N, A)."""
        return 0.2 * torch.tanh(states @ self.weights)

    def reward(self, states: Tensor, actions: Tensor) -> Tensor:
        """r (N, 1)."""
        return 1 - (actions - self.optimum(states)).square().mean(dim=1, keepdim=True)

    def demonstrate(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """States (N, STATE_DIM), uniform in (-1, 1), and actions (N, A) on the shell, in [-1, 1]."""
        states = 2 * torch.rand(count, STATE_DIM, generator=generator) - 1
        # Uniform in a cube, then of length sqrt(A): no dimension is so long that many had to be cut at 1.
        directions = 2 * torch.rand(count, self.action_dim, generator=generator) - 1
        directions /= directions.square().mean(dim=1, keepdim=True).sqrt()
        rho = NEAREST + (FARTHEST - NEAREST) * torch.rand(count, 1, generator=generator)
        return states, (self.optimum(states) + rho * directions).clamp(-1, 1)


class ExactCritic(nn.Module):
    """Q = r."""

    def __init__(self, problem: Shell):
        super().__init__()
        self.problem = problem

    def forward(self, states: Tensor, actions: Tensor) -> Tensor:
        return self.problem.reward(states, actions)


def train_critic(
    work: DimensionGain, problem: Shell, generator: torch.Generator, progress: Progress = lambda share: None
) -> TwinCritic:
    """A twin critic by regression on the rewards of demonstrations."""
    states, actions = problem.demonstrate(work.samples, generator)
    rewards = problem.reward(states, actions)
    critic = TwinCritic(STATE_DIM, work.action_dim, work.hidden, activation=work.activation)
    optimizer = torch.optim.Adam(critic.parameters(), lr=work.learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, work.updates)
    for update in range(1, 1 + work.updates):
        rows = torch.randint(work.samples, (work.batch_size,), generator=generator)
        loss = sum(F.mse_loss(q, rewards[rows]) for q in critic(states[rows], actions[rows]))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        if update % 100 == 0:
            progress(update / work.updates)
    return critic.eval()


def measure(
    work: DimensionGain, problem: Shell, critic: nn.Module, states: Tensor, actions: Tensor
) -> dict[str, Any]:
    """Refine the imitator's actions (N, A) with the critic and with the exact one.

    Returns:
        imitator_reward: mean true one. imitator_distance: root mean square of a - g over rows and dimensions.
        critic_error: RMSE of the members' mean Q in units of the rewards' standard deviation, on these rows.
        rows: for each setting and critic steps, lr, scaled (whether lr was taken times A), critic ("trained"
        or "exact"), reward, distance, q_gain, and closed: 1 - |a - g|^2 / |a_0 - g|^2, summed over all rows.
    """
    optimum, before = problem.optimum(states), problem.reward(states, actions)
    with torch.no_grad():
        q = torch.stack(critic(states, actions)).mean(dim=0)
    rows = []
    for name, judge, backend in (("trained", critic, None), ("exact", ExactCritic(problem), "torch")):
        for scaled in (False, True):
            for lr in work.lr:
                for steps in work.steps:
                    ends, info = refine(
                        judge,
                        states,
                        actions,
                        steps=steps,
                        lr=lr * work.action_dim if scaled else lr,
                        backend=backend,
                        return_info=True,
                    )
                    reward = float(problem.reward(states, ends).mean())
                    rows.append(
                        {
                            "critic": name,
                            "scaled": scaled,
                            "lr": lr,
                            "steps": steps,
                            "reward": reward,
                            "distance": float((ends - optimum).square().mean().sqrt()),
                            "q_gain": float((info.q_best - info.q_0).mean()),
                            "closed": 1 - (1 - reward) / (1 - float(before.mean())),
                        }
                    )
    return {
        "imitator_reward": float(before.mean()),
        "imitator_distance": float((actions - optimum).square().mean().sqrt()),
        "critic_error": float((q - before).square().mean().sqrt() / before.std()),
        "rows": rows,
    }
