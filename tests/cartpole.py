"""Gymnasium's CartPole-v1 played by a script: the discrete data of the tests."""

import gymnasium
import numpy as np

from dtag_fast.data import Episode, TrajectoryStore

ENV_ID = "CartPole-v1"
FACTS = {
    "dataset_id": "test/cartpole-v0",
    "env_id": ENV_ID,
    "env_spec": {"id": ENV_ID, "kwargs": {}, "max_episode_steps": 500},
    "max_episode_steps": 500,
    "discrete_actions": {"n": 2, "start": 0},
}


def scripted_action(state: np.ndarray) -> int:
    """Push to where the pole falls; keeps it up for 500 steps."""
    position, velocity, angle, turning = state
    return int(angle + 0.3 * turning + 0.02 * position + 0.05 * velocity > 0)


def play(env: gymnasium.Env, seed: int, choose, steps: int = 500) -> Episode:
    """One episode of at most `steps`, actions (T,) int64 from `choose(state)`."""
    states, actions, rewards, over, seen = [env.reset(seed=seed)[0]], [], [], [], False
    while not seen and len(actions) < steps:
        actions.append(choose(states[-1]))
        state, reward, terminated, truncated, _ = env.step(actions[-1])
        states.append(state)
        rewards.append(reward)
        over.append((terminated, truncated))
        seen = terminated or truncated
    terminations, truncations = np.array(over).T
    if not seen:
        truncations[-1] = True
    return Episode(
        np.array(states), np.array(actions, np.int64), np.array(rewards), terminations, truncations
    )


def record(episodes: int, steps: int = 500, first_seed: int = 1000) -> list[Episode]:
    """Episodes of the script."""
    env = gymnasium.make(ENV_ID)
    return [play(env, first_seed + n, scripted_action, steps) for n in range(episodes)]


def scripted_store(episodes: int, steps: int = 500, **facts) -> TrajectoryStore:
    """A store of them."""
    return TrajectoryStore.from_episodes(record(episodes, steps), FACTS | facts)
