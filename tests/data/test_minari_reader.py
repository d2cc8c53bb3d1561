"""Everything `load_dataset` gives equals what Minari itself reads, for every episode and every array."""

import json

import gymnasium
import minari
import numpy as np
import pytest
from gymnasium.spaces import Box
from gymnasium.spaces import Dict as DictSpace
from minari.data_collector import EpisodeBuffer

from dtag_fast.data import load_dataset

LENGTHS = (7, 1, 30, 2, 1, 12)


def assert_equals_minari(dataset_id, store, observation_of=lambda observations: observations):
    """Compare all episodes with minari.load_dataset, at float32."""
    dataset = minari.load_dataset(dataset_id)
    assert store.num_episodes == dataset.total_episodes
    assert store.num_steps == dataset.total_steps
    for episode in dataset.iterate_episodes():
        ours = store.episode(int(episode.id))
        theirs = (
            observation_of(episode.observations),
            episode.actions,
            episode.rewards,
            episode.terminations,
            episode.truncations,
        )
        for mine, other in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(mine, np.asarray(other).astype(mine.dtype))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_box_observations(write_minari, make_episodes, dtype):
    episodes = [e._replace(observations=e.observations.astype(dtype)) for e in make_episodes(LENGTHS)]
    write_minari("test/box-v0", episodes)
    store = load_dataset("test/box-v0")
    assert_equals_minari("test/box-v0", store)
    assert store.observations.dtype == np.float32
    assert store.metadata["observation_keys"] is None
    assert (store.metadata["action_low"], store.metadata["action_high"]) == ([-1.0, -1.0], [1.0, 1.0])
    assert store.metadata["env_id"] is None
    assert store.metadata["notes"] == []


def test_more_than_ten_episodes_keep_their_order(write_minari, make_episodes):
    """HDF5 lists episode_10 before episode_2."""
    write_minari("test/many-v0", make_episodes([1 + n % 5 for n in range(25)]))
    assert_equals_minari("test/many-v0", load_dataset("test/many-v0"))


GOAL_SPACE = DictSpace(
    achieved_goal=Box(-np.inf, np.inf, (2,)),
    desired_goal=Box(-np.inf, np.inf, (2,)),
    observation=Box(-np.inf, np.inf, (4,), np.float64),
)


def goal_buffers(make_episodes):
    return [
        EpisodeBuffer(
            observations={
                "observation": e.observations[:, :4].astype(np.float64),
                "achieved_goal": e.observations[:, 4:6],
                "desired_goal": e.observations[:, 6:],
            },
            actions=e.actions,
            rewards=e.rewards,
            terminations=e.terminations,
            truncations=e.truncations,
            infos={"success": np.zeros(len(e.actions) + 1, dtype=bool)},  # read by Minari, left alone by us
        )
        for e in make_episodes(LENGTHS, state_dim=8)
    ]


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        (None, ["observation", "desired_goal"]),
        (["observation"], ["observation"]),
        (["desired_goal", "observation"], ["desired_goal", "observation"]),
    ],
)
def test_goal_observations_are_concatenated(write_minari, make_episodes, keys, expected):
    write_minari(
        "test/goal-v0",
        goal_buffers(make_episodes),
        observation_space=GOAL_SPACE,
        action_space=Box(-1, 1, (2,)),
    )
    store = load_dataset("test/goal-v0", observation_keys=keys)
    assert store.metadata["observation_keys"] == expected
    assert_equals_minari(
        "test/goal-v0", store, lambda obs: np.concatenate([obs[key] for key in expected], axis=1)
    )


def test_dataset_may_choose_its_own_observation_keys(write_minari, make_episodes):
    dataset = write_minari(
        "test/goal-v0",
        goal_buffers(make_episodes),
        observation_space=GOAL_SPACE,
        action_space=Box(-1, 1, (2,)),
    )
    spec = {"id": "PointMaze_UMaze-v3", "kwargs": {}, "max_episode_steps": 300, "wrapper": "maze2d"}
    dataset.storage.update_metadata({"dtag_observation_keys": ["observation"], "dtag_env_spec": spec})
    store = load_dataset("test/goal-v0")
    assert store.metadata["observation_keys"] == ["observation"]
    assert store.metadata["env_spec"] == spec
    assert (store.metadata["env_id"], store.metadata["max_episode_steps"]) == ("PointMaze_UMaze-v3", 300)
    assert store.state_dim == 4
    assert load_dataset("test/goal-v0", observation_keys=["observation", "desired_goal"]).state_dim == 6


def test_nested_goals_are_flattened_in_the_order_of_the_space(write_minari, make_episodes):
    goal = DictSpace(kettle=Box(-1, 1, (1,)), hinge=Box(-1, 1, (2,)))
    space = DictSpace(observation=Box(-9, 9, (3,)), desired_goal=goal)
    buffers = [
        EpisodeBuffer(
            observations={
                "observation": e.observations[:, :3],
                "desired_goal": {"kettle": e.observations[:, 3:4], "hinge": e.observations[:, 4:]},
            },
            actions=e.actions,
            rewards=e.rewards,
            terminations=e.terminations,
            truncations=e.truncations,
        )
        for e in make_episodes(LENGTHS, state_dim=6)
    ]
    write_minari("test/nested-v0", buffers, observation_space=space, action_space=Box(-1, 1, (2,)))
    store = load_dataset("test/nested-v0")
    order = list(goal.spaces)
    assert store.metadata["observation_keys"] == ["observation", *(f"desired_goal/{key}" for key in order)]
    assert_equals_minari(
        "test/nested-v0",
        store,
        lambda obs: np.concatenate(
            [obs["observation"], *(obs["desired_goal"][key] for key in order)], axis=1
        ),
    )


def test_environment_and_reference_scores_come_from_the_metadata(write_minari, make_episodes):
    episodes = make_episodes(LENGTHS, state_dim=11, action_dim=3)
    write_minari("test/hopper-v0", episodes, env="Hopper-v5", ref_min_score=-5.0, ref_max_score=50.0)
    metadata = load_dataset("test/hopper-v0").metadata
    assert (metadata["env_id"], metadata["max_episode_steps"]) == ("Hopper-v5", 1000)
    assert metadata["env_spec"]["entry_point"] == "gymnasium.envs.mujoco.hopper_v5:HopperEnv"
    assert (metadata["ref_min_score"], metadata["ref_max_score"]) == (-5.0, 50.0)
    assert metadata["ref_source"] == "dataset"


@pytest.mark.parametrize(("second", "kept"), [((-5.0, 50.0), True), ((-5.0, 51.0), False), (None, False)])
def test_combined_sets_keep_reference_scores_that_agree(write_minari, make_episodes, second, kept):
    """minari.combine_datasets drops them."""
    for name, references in (("medium", (-5.0, 50.0)), ("expert", second)):
        options = (
            {} if references is None else {"ref_min_score": references[0], "ref_max_score": references[1]}
        )
        write_minari(
            f"test/{name}-v0", make_episodes(LENGTHS, state_dim=11, action_dim=3), env="Hopper-v5", **options
        )
    parts = [minari.load_dataset(f"test/{name}-v0") for name in ("medium", "expert")]
    minari.combine_datasets(parts, "test/both-v0")
    store = load_dataset("test/both-v0")
    assert_equals_minari("test/both-v0", store)
    metadata = store.metadata
    if kept:
        assert (metadata["ref_min_score"], metadata["ref_max_score"]) == (-5.0, 50.0)
        assert metadata["ref_source"] == "dataset, agreed by its parts test/medium-v0, test/expert-v0"
    else:
        assert metadata["ref_min_score"] is metadata["ref_max_score"] is metadata["ref_source"] is None


def test_spaces_left_to_the_environment_are_taken_from_it(write_minari, make_episodes, minari_home):
    write_minari("test/hopper-v0", make_episodes(LENGTHS, state_dim=11, action_dim=3), env="Hopper-v5")
    path = minari_home / "test/hopper-v0/data/metadata.json"
    metadata = json.loads(path.read_text())
    del metadata["observation_space"], metadata["action_space"]
    path.write_text(json.dumps(metadata))
    store = load_dataset("test/hopper-v0")
    assert store.metadata["action_high"] == [1.0, 1.0, 1.0]
    assert_equals_minari("test/hopper-v0", store)


def record(env, policy_rng, seeds, *, steps):
    """Episodes of a real environment as Minari buffers (float64, as the environment gives them)."""
    buffers = []
    for seed in seeds:
        observation, _ = env.reset(seed=seed)
        buffer = EpisodeBuffer(
            observations=[observation], actions=[], rewards=[], terminations=[], truncations=[], seed=seed
        )
        for _ in range(steps):
            action = policy_rng.uniform(env.action_space.low, env.action_space.high).astype(np.float32)
            observation, reward, terminated, truncated, _ = env.step(action)
            for column, value in (
                (buffer.observations, observation),
                (buffer.actions, action),
                (buffer.rewards, reward),
                (buffer.terminations, terminated),
                (buffer.truncations, truncated),
            ):
                column.append(value)
            if terminated or truncated:
                break
        buffers.append(buffer)
    return buffers


@pytest.mark.parametrize("env_id", ["Pendulum-v1", "Hopper-v5"])
def test_every_stored_action_leads_to_the_stored_next_observation(write_minari, env_id):
    """Replayed through the environment, action t after observation t gives observation t + 1."""
    env = gymnasium.make(env_id)
    seeds = range(10, 18)
    write_minari("test/real-v0", record(env, np.random.default_rng(0), seeds, steps=40), env=env_id)
    store = load_dataset("test/real-v0")
    assert_equals_minari("test/real-v0", store)
    if env_id == "Hopper-v5":
        assert len(set(store.episode_lengths.tolist())) > 1  # falls at different times
    for index, seed in enumerate(seeds):
        episode = store.episode(index)
        observation, _ = env.reset(seed=seed)
        np.testing.assert_array_equal(episode.observations[0], observation.astype(np.float32))
        for t, action in enumerate(episode.actions):
            observation, reward, terminated, _, _ = env.step(action)
            np.testing.assert_array_equal(episode.observations[t + 1], observation.astype(np.float32))
            assert episode.rewards[t] == np.float32(reward)
            assert episode.terminations[t] == terminated


@pytest.mark.parametrize("kind", [np.int8, np.float32, np.bool_])
def test_flags_and_rewards_of_other_types_are_read(write_minari, make_episodes, kind):
    episodes = [
        e._replace(rewards=(e.rewards > 0).astype(kind), truncations=e.truncations.astype(kind))
        for e in make_episodes(LENGTHS)
    ]
    write_minari("test/types-v0", episodes)
    assert_equals_minari("test/types-v0", load_dataset("test/types-v0"))
