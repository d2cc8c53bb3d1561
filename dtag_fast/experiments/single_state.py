"""One state, one step: why a return-conditioned policy needs the gradient of a critic to improve online.

The reward r(a) peaks at a = 0, the data lie at both ends of the action's range and nowhere near the peak
(TD3+ODT, arXiv 2410.24108, section 3.1 and appendix F). Three learners start from the same data and the same
actor and collect more of it with their own policy:

    DDPG        critic Q(a) by regression on r, actor by -Q(mu(1))
    ODT         actor by (mu(r) - a)^2, acting with mu(1): asks for the peak's reward
    ODT + DDPG  critic Q(1, a), actor by 0.02 (mu(r) - a)^2 - Q(1, mu(r))

The paper's equation 2 gives the actor the reward of the data in both terms; that the return is fixed at 1 is
read as the critic's input and as what is asked for when acting.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

METHODS = {"ddpg": "DDPG", "odt": "ODT", "odt-ddpg": "ODT + DDPG"}
LOW, HIGH = (-1.0, -0.95), (0.5, 1.0)  # intervals of the data's actions
PEAK_DISTANCE, PEAK_REWARD = 0.05, 0.95  # |a| at most this and a reward above that count as reaching the peak
GRID_POINTS = 101
VALUE_DIGITS = 5  # decimals of Q that are kept over the grid; it is only drawn


@dataclass(frozen=True)
class SingleStateConfig:
    """Sizes and schedule. As published but for online_epochs, which goes on beyond the published 16."""

    low_actions: int = 100  # uniform in LOW
    high_actions: int = 28  # uniform in HIGH
    hidden: tuple[int, ...] = (128, 128)
    lr: float = 1e-3  # Adam's, of actor and critic
    batch_size: int = 32
    pretrain_epochs: int = 5
    published_epochs: int = 16
    online_epochs: int = 32
    rollouts: int = 64  # actions collected before each online epoch
    noise: float = 0.01  # exploration: uniform in [-noise, noise]
    imitation_weight: float = 0.02
    target_return: float = 1.0

    def __post_init__(self) -> None:
        if not 1 <= self.published_epochs <= self.online_epochs:
            raise ValueError(
                f"online_epochs: expected at least published_epochs = {self.published_epochs} >= 1, "
                f"got {self.online_epochs}"
            )


def reward(action: Tensor) -> Tensor:
    """r(a) = (a + 1)^2 for a <= 0, else 1 - 2a; at most 1, at a = 0."""
    return torch.where(action <= 0, (action + 1) ** 2, 1 - 2 * action)


def demonstrations(config: SingleStateConfig, generator: Generator) -> Tensor:
    """Actions (low_actions + high_actions, 1) of the data, float64."""
    parts = []
    for (low, high), count in ((LOW, config.low_actions), (HIGH, config.high_actions)):
        parts.append(low + (high - low) * _uniform((count, 1), generator))
    return torch.cat(parts)


def distance_from_data(action: float) -> float:
    """How far an action is from the nearer of the data's two intervals."""
    return min(max(low - action, action - high, 0.0) for low, high in (LOW, HIGH))


def reaches_peak(action: float) -> bool:
    """Whether |a| <= PEAK_DISTANCE and r(a) > PEAK_REWARD; the second is the narrower."""
    return abs(action) <= PEAK_DISTANCE and float(reward(torch.tensor(action))) > PEAK_REWARD


def imitation_loss(actor: nn.Module, actions: Tensor, returns: Tensor) -> Tensor:
    """Mean of (mu(r) - a)^2 over a batch; actions, returns (B, 1)."""
    return F.mse_loss(actor(returns), actions)


class Learner:
    """Actor, and critic where the method has one, float64.

    Args:
        method: key of METHODS.
        generator: of the initial weights, PyTorch's default distribution for linear layers.
    """

    def __init__(self, method: str, config: SingleStateConfig, generator: Generator):
        if method not in METHODS:
            raise ValueError(f"method: expected one of {', '.join(METHODS)}, got {method!r}")
        self.method, self.config = method, config
        self.actor = nn.Sequential(*_layers(1, config.hidden, generator), nn.Tanh())
        self.critic = None
        if method != "odt":
            inputs = 2 if method == "odt-ddpg" else 1
            self.critic = nn.Sequential(*_layers(inputs, config.hidden, generator))
        self.begin_phase()

    def begin_phase(self) -> None:
        """New optimizers: pretraining and the online phase have one each."""
        networks = (self.actor, self.critic)
        self._optimizers = [
            torch.optim.Adam(network.parameters(), lr=self.config.lr, fused=True)
            if network is not None
            else None
            for network in networks
        ]

    @torch.no_grad()
    def act(self) -> Tensor:
        """The policy's action (1, 1) when asked for the target return."""
        return self.actor(torch.full((1, 1), self.config.target_return, dtype=torch.float64))

    def value(self, actions: Tensor) -> Tensor:
        """Q (B, 1) of actions (B, 1)."""
        if self.method == "odt-ddpg":
            return self.critic(torch.cat([torch.full_like(actions, self.config.target_return), actions], 1))
        return self.critic(actions)

    def critic_loss(self, actions: Tensor, rewards: Tensor) -> Tensor:
        """Mean of (Q - r)^2: an episode of one step has nothing to bootstrap from."""
        return F.mse_loss(self.value(actions), rewards)

    def actor_loss(self, actions: Tensor, rewards: Tensor) -> Tensor:
        """The method's loss of the actor, as the module's docstring has it."""
        if self.method == "ddpg":
            return -self.value(self.actor(torch.full_like(rewards, self.config.target_return))).mean()
        imitation = imitation_loss(self.actor, actions, rewards)
        if self.method == "odt":
            return imitation
        return self.config.imitation_weight * imitation - self.value(self.actor(rewards)).mean()

    def update(self, actions: Tensor, rewards: Tensor) -> None:
        """One gradient step of the critic, then one of the actor; actions, rewards (B, 1)."""
        actor, critic = self._optimizers
        if critic is not None:
            _step(critic, self.critic_loss(actions, rewards))
        _step(actor, self.actor_loss(actions, rewards))


def run_method(method: str, seed: int, config: SingleStateConfig | None = None) -> dict[str, Any]:
    """Pretrain one learner, then let it collect and learn.

    Returns:
        method; action and reward: (1 + epochs,) lists of the policy before training and after each epoch;
        updates: gradient steps of each epoch; critic: {"pretrained", "published", "end"} -> (GRID_POINTS,) Q
        over [-1, 1], None without a critic. Same seed, same numbers.
    """
    config = config or SingleStateConfig()
    generator = torch.Generator().manual_seed(seed)
    actions = demonstrations(config, generator)
    learner = Learner(method, config, generator)
    path, updates, values = [learner.act().item()], [], {}
    moments = {0: "pretrained", config.published_epochs: "published", config.online_epochs: "end"}
    for _ in range(config.pretrain_epochs):
        updates.append(_epoch(learner, actions, generator))
        path.append(learner.act().item())
    for epoch in range(config.online_epochs + 1):
        if epoch == 0:
            learner.begin_phase()
        else:
            actions = torch.cat([actions, _explore(learner, generator)])
            updates.append(_epoch(learner, actions, generator))
            path.append(learner.act().item())
        if epoch in moments and learner.critic is not None:
            values[moments[epoch]] = _over_grid(learner)
    return {
        "method": method,
        "action": path,
        "reward": reward(torch.tensor(path, dtype=torch.float64)).tolist(),
        "updates": updates,
        "critic": values or None,
    }


def run_single_state(seed: int = 0, config: SingleStateConfig | None = None) -> dict[str, Any]:
    """All methods on the data of one seed: {"seed", "config", "methods": results of run_method}."""
    config = config or SingleStateConfig()
    methods = [run_method(method, seed, config) for method in METHODS]
    return {"seed": seed, "config": asdict(config), "methods": methods}


def action_grid() -> Tensor:
    """The actions (GRID_POINTS, 1) the critic is shown over."""
    return torch.linspace(-1, 1, GRID_POINTS, dtype=torch.float64)[:, None]


def _epoch(learner: Learner, actions: Tensor, generator: Generator) -> int:
    """One pass over the data in random order; returns the number of gradient steps."""
    batches = list(_batches(len(actions), learner.config.batch_size, generator))
    for rows in batches:
        learner.update(actions[rows], reward(actions[rows]))
    return len(batches)


def _batches(count: int, size: int, generator: Generator) -> Iterator[Tensor]:
    yield from torch.randperm(count, generator=generator).split(size)


def _explore(learner: Learner, generator: Generator) -> Tensor:
    """Actions (rollouts, 1): the policy's with noise, kept in [-1, 1]."""
    config = learner.config
    noise = config.noise * (2 * _uniform((config.rollouts, 1), generator) - 1)
    return (learner.act() + noise).clamp(-1, 1)


@torch.no_grad()
def _over_grid(learner: Learner) -> list[float]:
    return [round(value, VALUE_DIGITS) for value in learner.value(action_grid())[:, 0].tolist()]


def _layers(inputs: int, hidden: tuple[int, ...], generator: Generator) -> list[nn.Module]:
    """Linear layers to one output with ReLU between them; weights and biases uniform within 1 / sqrt(inputs
    of the layer)."""
    layers: list[nn.Module] = []
    for fan_in, fan_out in zip((inputs, *hidden), (*hidden, 1), strict=True):
        linear = nn.utils.skip_init(nn.Linear, fan_in, fan_out, dtype=torch.float64)
        for parameter in linear.parameters():
            nn.init.uniform_(parameter, -(fan_in**-0.5), fan_in**-0.5, generator=generator)
        layers += [linear, nn.ReLU()]
    return layers[:-1]


def _step(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()


def _uniform(shape: tuple[int, ...], generator: Generator) -> Tensor:
    return torch.rand(shape, generator=generator, dtype=torch.float64)
