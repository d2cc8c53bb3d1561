"""The same list of keys flattens the dataset's observations and those of the environment."""

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box
from gymnasium.spaces import Dict as DictSpace

from dtag_fast.data import flatten_observation, load_dataset

OBSERVATION = {
    "observation": np.arange(4.0),
    "achieved_goal": np.full(2, 9.0),
    "desired_goal": {"kettle": np.array([5.0]), "hinge": np.array([6.0, 7.0])},
}


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        (["observation"], [0, 1, 2, 3]),
        (["achieved_goal", "observation"], [9, 9, 0, 1, 2, 3]),
        (["observation", "desired_goal/kettle", "desired_goal/hinge"], [0, 1, 2, 3, 5, 6, 7]),
    ],
)
def test_entries_are_joined_in_the_order_of_the_keys(keys, expected):
    flat = flatten_observation(OBSERVATION, keys)
    assert flat.dtype == np.float32
    assert flat.tolist() == expected


def test_arrays_and_batches():
    assert flatten_observation([1, 2], None).tolist() == [1.0, 2.0]
    batch = {"a": np.zeros((5, 2)), "b": np.ones((5, 3))}
    assert flatten_observation(batch, ["b", "a"]).shape == (5, 5)


@pytest.mark.parametrize(
    ("observation", "keys", "sentence"),
    [
        (
            OBSERVATION,
            None,
            r"expected entries of the Dict observation \(observation, achieved_goal, desired_goal\)",
        ),
        (OBSERVATION, ["goal"], "has observation, achieved_goal, desired_goal, not 'goal'"),
        (OBSERVATION, ["desired_goal/microwave"], "not 'desired_goal/microwave'"),
        (np.zeros(3), ["observation"], "has no entries, not 'observation'"),
    ],
)
def test_observations_that_do_not_fit_the_keys_are_refused(observation, keys, sentence):
    with pytest.raises(ValueError, match=f"^observation_keys: .*{sentence}"):
        flatten_observation(observation, keys)


class Walk(gymnasium.Env):
    """A point on a line with a goal; goal observations with float64 entries."""

    observation_space = DictSpace(
        observation=Box(-9, 9, (2,), np.float64), desired_goal=Box(-9, 9, (1,), np.float64)
    )
    action_space = Box(-1, 1, (1,))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.state, self.goal = self.np_random.normal(size=2), self.np_random.normal(size=1)
        return self.observation(), {}

    def step(self, action):
        self.state = np.array([self.state[0] + self.state[1], self.state[1] + float(action[0])])
        return self.observation(), -abs(self.state[0] - self.goal[0]), False, False, {}

    def observation(self):
        return {"observation": self.state, "desired_goal": self.goal}


def test_goal_environment_is_read_as_it_is_stepped(write_minari):
    """The states read equal the flattened observations of a replay with the stored actions."""
    from minari.data_collector import EpisodeBuffer

    env, rng = Walk(), np.random.default_rng(0)
    buffers = []
    for seed, steps in enumerate((3, 1, 8)):
        seen = [env.reset(seed=seed)[0]]
        actions = rng.uniform(-1, 1, (steps, 1)).astype(np.float32)
        rewards = []
        for action in actions:
            observation, reward, *_ = env.step(action)
            seen.append(observation)
            rewards.append(reward)
        columns = {key: np.stack([observation[key] for observation in seen]) for key in seen[0]}
        flags = np.zeros(steps, dtype=bool)
        buffers.append(
            EpisodeBuffer(
                observations=columns, actions=actions, rewards=rewards, terminations=flags, truncations=flags
            )
        )
    write_minari(
        "test/walk-v0", buffers, observation_space=env.observation_space, action_space=env.action_space
    )
    store = load_dataset("test/walk-v0")
    keys = store.metadata["observation_keys"]
    for seed in range(3):
        episode = store.episode(seed)
        observation, _ = env.reset(seed=seed)
        for t, action in enumerate(episode.actions):
            np.testing.assert_array_equal(episode.observations[t], flatten_observation(observation, keys))
            observation, reward, *_ = env.step(action)
            assert episode.rewards[t] == np.float32(reward)
        np.testing.assert_array_equal(episode.observations[-1], flatten_observation(observation, keys))
