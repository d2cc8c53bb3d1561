"""Settings of the demonstration, and what they make of the presets."""

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from dtag_fast.algorithms import preset_config
from dtag_fast.data.pointmaze import maze_of
from dtag_fast.experiments.toy import ToyConfig

SIZE = "umaze"
POLICIES = {"dt": "Decision Transformer", "reinformer": "Reinformer"}
CRITIC = "iql"


@dataclass(frozen=True)
class DemoConfig:
    """Sizes of the demonstration; the defaults take a few minutes on two cores."""

    seed: int = 0  # of data, weights and batches
    toy: ToyConfig = field(default_factory=ToyConfig)
    toy_seeds: int = 3
    collect_steps: int = 150_000
    context_len: int = 5  # K of both policies
    d_model: int = 64
    n_layer: int = 2
    n_head: int = 1
    dropout: float = 0.0  # so few updates do not overfit
    timestep_std: float = 0.02  # at 1, timesteps drown the return token for as long as this training lasts
    policy_batch: int = 64
    dt_lr: float = 1e-3  # AdamW
    reinformer_lr: float = 3e-3  # LAMB, whose steps are relative to the weights
    policy_warmup: int = 500
    dt_updates: int = 4_000
    reinformer_updates: int = 6_000  # it has to learn the returns as well
    critic_batch: int = 128
    critic_updates: int = 25_000
    episodes: int = 50
    evaluation_seed: int = 10_000  # of the first reported episode
    ag_steps: int = 10
    ag_lr: float = 0.03
    sweep_steps: tuple[int, ...] = (0, 1, 2, 5, 10, 20, 40)
    sweep_episodes: int = 30
    sweep_seed: int = 20_000  # of the first episode of the sweep over n


def quick_config() -> DemoConfig:
    """A minute's worth of everything: shows that all parts work; its numbers mean nothing."""
    return DemoConfig(
        toy=ToyConfig(episodes=256, imitator_updates=300, critic_updates=400, batch_size=64),
        toy_seeds=1,
        collect_steps=30_000,
        d_model=32,
        n_layer=2,
        policy_warmup=50,
        dt_updates=400,
        reinformer_updates=400,
        critic_updates=1_000,
        episodes=8,
        sweep_steps=(0, 5, 10),
        sweep_episodes=4,
    )


def training_settings(config: DemoConfig, metadata: dict) -> dict[str, tuple[Any, int]]:
    """Algorithm -> its config and updates: the presets for maze2d, in the demonstration's size.

    Args:
        metadata: of the dataset's store.
    """
    maze = maze_of(SIZE)
    network = {
        "context_len": config.context_len,
        "d_model": config.d_model,
        "n_layer": config.n_layer,
        "n_head": config.n_head,
        "dropout": config.dropout,
        "max_timestep": maze.max_episode_steps,
        "timestep_std": config.timestep_std,
        "return_scale": 100.0,
        "batch_size": config.policy_batch,
        "warmup": config.policy_warmup,
    }
    dt = {"lr": config.dt_lr, "target_returns": (maze.ref_max_score,)}
    settings = {
        CRITIC: ({"batch_size": config.critic_batch}, config.critic_updates),
        "reinformer": (network | {"lr": config.reinformer_lr}, config.reinformer_updates),
        "dt": (network | dt, config.dt_updates),
    }
    return {
        name: (dataclasses.replace(preset_config(name, metadata), **changes), updates)
        for name, (changes, updates) in settings.items()
    }
