"""A pendulum on a cart, some episodes of random actions in it, and settings of small runs on them.

For the tests of this folder and for the processes that they kill.
"""

import dataclasses

import gymnasium
import numpy as np

from dtag_fast.algorithms import preset_config
from dtag_fast.data import Episode, TrajectoryStore
from dtag_fast.finetuning import OnlineConfig

ENV_ID, LIMIT = "InvertedPendulum-v5", 12
SMALL = {"context_len": 4, "d_model": 8, "n_layer": 1, "n_head": 2, "max_timestep": 32, "batch_size": 4}
CRITIC = {"critic_hidden": (8,)}
QUICK = OnlineConfig(
    target_return=24.0,
    episodes_per_iteration=2,
    updates_per_iteration=3,
    buffer_capacity=5,
    offline_episodes=4,
)


def play(seed: int) -> Episode:
    """An episode of random actions."""
    env = gymnasium.make(ENV_ID, max_episode_steps=LIMIT)
    env.action_space.seed(seed)
    observations, rows, over = [env.reset(seed=seed)[0]], [], False
    while not over:
        action = env.action_space.sample()
        observation, reward, terminated, truncated, _ = env.step(action)
        observations.append(observation)
        rows.append((action, reward, terminated, truncated))
        over = terminated or truncated
    env.close()
    actions, rewards, terminations, truncations = (np.array(column) for column in zip(*rows, strict=True))
    return Episode(np.array(observations), actions, rewards, terminations, truncations)


def make_store() -> TrajectoryStore:
    facts = {"dataset_id": "toy/pendulum-v0", "env_id": ENV_ID, "action_low": [-3.0], "action_high": [3.0]}
    spec = {"id": ENV_ID, "kwargs": {}, "max_episode_steps": LIMIT}
    return TrajectoryStore.from_episodes(
        [play(seed) for seed in range(6)], facts | {"env_spec": spec, "max_episode_steps": LIMIT}
    )


def small_config(store: TrajectoryStore, algorithm: str, **settings):
    """The preset of an algorithm, with networks as small as can be."""
    config = preset_config(algorithm, store.metadata)
    names = {field.name for field in dataclasses.fields(config)}
    sizes = SMALL | CRITIC | {"eval_context_len": 2}
    return dataclasses.replace(config, **{k: v for k, v in sizes.items() if k in names} | settings)
