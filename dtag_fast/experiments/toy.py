"""The one-dimensional sanity check: reward r(a) = 1 - a^2, data only at 0.5 < |a| <= 1.

A bandit with a constant state. Demonstrators stay on one side for a whole episode, so an imitator can tell
from its history which side to copy, and the best it can copy is |a| = 0.5. A critic that has seen both sides,
and no reward in between, bridges the gap; following its gradient must lead to the optimum a = 0 that nobody
showed (Action Gradient, arXiv 2510.05285, its toy experiment).
"""

from dataclasses import asdict, dataclass

import numpy as np
import torch
import torch.nn.functional as F

from dtag_fast.data.samplers import WindowSampler
from dtag_fast.data.store import Episode, TrajectoryStore
from dtag_fast.models import DecisionTransformer, DecisionTransformerConfig, TwinCritic
from dtag_fast.ops.refine import refine

NEAREST_SEEN = 0.5  # no demonstrated action is nearer to the optimum
BEST_SEEN = 1 - NEAREST_SEEN**2  # the return the imitator is asked for: the best of the data


@dataclass(frozen=True)
class ToyConfig:
    """Sizes of the toy. All of them small: the whole experiment takes a few seconds on one core."""

    episodes: int = 512
    episode_len: int = 4  # also the imitator's context
    d_model: int = 32
    n_layer: int = 2
    imitator_updates: int = 500
    critic_hidden: tuple[int, ...] = (64, 64)
    critic_activation: str = "silu"  # smooth: the value in the gap comes from curvature learnt at its edges
    critic_updates: int = 1000
    batch_size: int = 128
    lr: float = 3e-3
    prompts: int = 64  # histories the imitator continues
    ag_steps: int = 30
    ag_lr: float = 0.1  # with the exact Q, a_n = a_0 (1 - 2 * 0.1)^30 = 0.001 a_0


@dataclass(frozen=True)
class ToyResult:
    """What one seed gave, in numbers a JSON file can hold.

    imitated: (P,) actions of the imitator. refined: (P,) after Action Gradient. paths: (n + 1, P) iterates.
    grid: (G,) actions with true_reward (G,) and critic (G,), the smallest Q of the ensemble.
    demonstrated: (N,) actions of the data.
    """

    config: dict
    seed: int
    imitated: list[float]
    refined: list[float]
    paths: list[list[float]]
    grid: list[float]
    true_reward: list[float]
    critic: list[float]
    demonstrated: list[float]

    @property
    def imitator_distance(self) -> float:
        """Smallest |a| of the imitator."""
        return float(np.abs(self.imitated).min())

    @property
    def refined_distance(self) -> float:
        """Greatest |a| after Action Gradient."""
        return float(np.abs(self.refined).max())


def reward(action):
    """r(a) = 1 - a^2."""
    return 1 - action**2


def demonstrations(episodes: int, episode_len: int, rng: np.random.Generator) -> TrajectoryStore:
    """Episodes of constant state 0 whose actions lie in 0.5 < |a| <= 1, all on one side within an episode."""
    side = rng.choice([-1.0, 1.0], size=(episodes, 1))
    actions = side * (1 - (1 - NEAREST_SEEN) * rng.random((episodes, episode_len)))  # (E, T)
    over = np.arange(episode_len) == episode_len - 1
    return TrajectoryStore.from_episodes(
        [
            Episode(
                observations=np.zeros((episode_len + 1, 1), np.float32),
                actions=row[:, None].astype(np.float32),
                rewards=reward(row).astype(np.float32),
                terminations=over,
                truncations=np.zeros(episode_len, bool),
            )
            for row in actions
        ],
        {"dataset_id": "toy", "action_low": [-1.0], "action_high": [1.0]},
    )


def train_imitator(
    store: TrajectoryStore, config: ToyConfig, generator: torch.Generator
) -> DecisionTransformer:
    """A small Decision Transformer by mean squared error on the demonstrated actions."""
    torch.manual_seed(generator.initial_seed())
    model = DecisionTransformer(
        DecisionTransformerConfig(
            state_dim=1,
            action_dim=1,
            context_len=config.episode_len,
            d_model=config.d_model,
            n_layer=config.n_layer,
            dropout=0.0,
            max_timestep=config.episode_len,
        )
    )
    sampler = WindowSampler(store, config.episode_len, config.batch_size)
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.lr, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.imitator_updates)
    for _ in range(config.imitator_updates):
        batch = sampler.sample(generator)
        loss = F.mse_loss(model(*batch).actions[batch.mask], batch.actions[batch.mask])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
    return model.eval()


def train_critic(store: TrajectoryStore, config: ToyConfig, generator: torch.Generator) -> TwinCritic:
    """A twin critic by regression on the demonstrated rewards (a bandit has nothing to bootstrap from)."""
    torch.manual_seed(generator.initial_seed())
    critic = TwinCritic(1, 1, config.critic_hidden, activation=config.critic_activation)
    actions = torch.from_numpy(np.array(store.actions))  # (N, 1)
    rewards = torch.from_numpy(np.array(store.rewards))[:, None]
    states = torch.zeros_like(actions)
    optimizer = torch.optim.Adam(critic.parameters(), lr=config.lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.critic_updates)
    for _ in range(config.critic_updates):
        rows = torch.randint(len(actions), (config.batch_size,), generator=generator)
        loss = sum(F.mse_loss(q, rewards[rows]) for q in critic(states[rows], actions[rows]))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
    return critic.eval()


@torch.no_grad()
def imitate(model: DecisionTransformer, prompts: TrajectoryStore) -> torch.Tensor:
    """Continue demonstrated histories: the action (P, 1) in place of each episode's last one.

    The returns-to-go say that the last step is to earn BEST_SEEN, on top of what the history earned.
    """
    count, length = prompts.num_episodes, int(prompts.episode_lengths[0])
    actions = torch.from_numpy(np.array(prompts.actions)).view(count, length, 1)
    rewards = torch.from_numpy(np.array(prompts.rewards)).view(count, length, 1)
    rewards[:, -1] = BEST_SEEN
    returns_to_go = rewards.flip(1).cumsum(1).flip(1)
    states = torch.zeros(count, length, 1)
    timesteps = torch.arange(length).expand(count, length)
    chosen, _ = model.act(states, actions, returns_to_go, timesteps, torch.ones(count, length, dtype=bool))
    return chosen


def run_toy(seed: int = 0, config: ToyConfig | None = None) -> ToyResult:
    """Train imitator and critic on the demonstrations of one seed, then follow the critic's gradient.

    Same seed and config, same numbers (on one machine).
    """
    config = config or ToyConfig()
    rng = np.random.default_rng(seed)
    generator = torch.Generator().manual_seed(seed)
    store = demonstrations(config.episodes, config.episode_len, rng)
    imitator = train_imitator(store, config, generator)
    critic = train_critic(store, config, generator)

    imitated = imitate(imitator, demonstrations(config.prompts, config.episode_len, rng))  # (P, 1)
    refined, info = refine(
        critic,
        torch.zeros_like(imitated),
        imitated,
        steps=config.ag_steps,
        lr=config.ag_lr,
        return_info="trace",
    )
    grid = torch.linspace(-1, 1, 201)[:, None]
    with torch.no_grad():
        value = torch.cat(critic(torch.zeros_like(grid), grid), dim=1).amin(dim=1)
    return ToyResult(
        config=asdict(config),
        seed=seed,
        imitated=imitated[:, 0].tolist(),
        refined=refined[:, 0].tolist(),
        paths=info.trace_actions[:, :, 0].tolist(),
        grid=grid[:, 0].tolist(),
        true_reward=reward(grid[:, 0]).tolist(),
        critic=value.tolist(),
        demonstrated=store.actions[:, 0].tolist(),
    )
