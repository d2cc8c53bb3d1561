"""Algorithms by name, presets by dataset, and state that survives a round trip."""

import copy
import dataclasses
import json
import tomllib
from importlib import resources

import pytest
import torch

from dtag_fast.algorithms import ALGORITHMS, config_from_dict, create, preset_config
from dtag_fast.algorithms.registry import family_of

_ONLINE = {
    "context_len": 4,
    "eval_context_len": 2,
    "d_model": 16,
    "n_layer": 1,
    "n_head": 2,
    "max_timestep": 64,
    "batch_size": 8,
    "critic_hidden": [8, 8],
    "alpha": 0.1,
}
SMALL = {
    "dt": {"context_len": 4, "d_model": 16, "n_layer": 1, "n_head": 2, "max_timestep": 64, "batch_size": 8},
    "reinformer": {
        "context_len": 4,
        "d_model": 16,
        "n_layer": 1,
        "n_head": 2,
        "max_timestep": 64,
        "batch_size": 8,
    },
    "odt": {
        "context_len": 4,
        "eval_context_len": 2,
        "d_model": 16,
        "n_layer": 1,
        "n_head": 2,
        "max_timestep": 64,
        "batch_size": 8,
    },
    "adt": {"context_len": 4, "d_model": 16, "n_layer": 1, "n_head": 2, "max_timestep": 64, "batch_size": 8},
    "bc": {"hidden": [8, 8], "batch_size": 8},
    "edt": {"context_len": 4, "d_model": 16, "n_layer": 1, "n_head": 2, "max_timestep": 64, "batch_size": 8},
    "qt": {
        "context_len": 4,
        "d_model": 16,
        "n_layer": 1,
        "n_head": 2,
        "max_timestep": 64,
        "critic_hidden": [8, 8],
        "ema_start": 1,
        "ema_every": 2,
        "batch_size": 8,
    },
    **dict.fromkeys(("td3-odt", "ddpg-odt", "td3", "sac-odt", "awac-odt", "iql-odt"), _ONLINE),
    "iql": {"hidden": [8, 8], "batch_size": 8, "policy": True, "policy_dropout": 0.2},
    "td3bc": {"hidden": [8, 8], "batch_size": 8},
    "awac": {"hidden": [8, 8], "batch_size": 8},
    "cql": {"hidden": [8], "policy_hidden": [8], "batch_size": 8, "n_actions": 3, "lagrange_gap": 1.0},
}


@pytest.mark.parametrize(
    "metadata, family",
    [
        ({"env_id": "Hopper-v5"}, "hopper"),
        ({"env_id": "HalfCheetah-v4", "dataset_id": "x"}, "halfcheetah"),
        ({"env_id": "Walker2d-v5"}, "walker2d"),
        ({"env_id": "PointMaze_UMaze-v3"}, "maze2d"),
        ({"env_id": "AntMaze_Medium_Diverse_GR-v4"}, "antmaze"),
        ({"env_id": "AdroitHandDoor-v1"}, "adroit"),
        ({"env_id": "Ant-v5"}, "ant"),
        ({"dataset_id": "mujoco/ant/medium-v0"}, "ant"),
        ({"dataset_id": "test/pendulant-v0"}, None),
        ({"env_id": None, "dataset_id": "D4RL/pointmaze/umaze-v2"}, "maze2d"),
        ({"env_id": "Pendulum-v1"}, None),
        ({"env_id": "my.envs:Own/Hopper-v5"}, "hopper"),
        ({"env_id": "hopper_envs:Pendulum-v1"}, None),
        ({}, None),
    ],
)
def test_families(metadata, family):
    assert family_of(metadata) == family


@pytest.mark.parametrize(
    "algorithm, dataset, expected",
    [
        (
            "reinformer",
            "local/hopper/medium-v0",
            {"return_scale": 1000.0, "expectile": 0.999, "context_len": 5},
        ),
        ("reinformer", "local/hopper/medium-replay-v0", {"expectile": 0.99, "context_len": 5}),
        ("reinformer", "local/hopper/medium-expert-v0", {"expectile": 0.9, "context_len": 20}),
        ("reinformer", "mujoco/halfcheetah/expert-v0", {"return_scale": 5000.0, "expectile": 0.99}),
        ("dt", "mujoco/halfcheetah/medium-v0", {"return_scale": 1000.0, "target_returns": (12000.0, 6000.0)}),
        ("odt", "mujoco/walker2d/medium-v0", {"return_scale": 1000.0, "lr": 1e-3, "eval_context_len": 5}),
        (
            "odt",
            "D4RL/antmaze/umaze-v1",
            {"target_returns": (-100.0,), "context_len": 5, "reward_shift": -1.0},
        ),
        ("odt", "D4RL/door/human-v2", {"return_scale": 100_000.0, "target_returns": (4000.0,)}),
        ("odt", "D4RL/pen/human-v2", {"return_scale": 100.0, "target_returns": (12000.0,)}),
        ("odt", "D4RL/hammer/human-v2", {"return_scale": 1000.0, "target_returns": (16000.0,)}),
        ("odt", "D4RL/pointmaze/open-v2", {"return_scale": 1.0, "target_returns": (120.0,)}),
        (
            "td3-odt",
            "mujoco/walker2d/medium-v0",
            {"lr": 1e-3, "critic_lr": 1e-3, "alpha": 0.0, "policy_delay": 2, "critic_layer_norm": False},
        ),
        (
            "td3-odt",
            "D4RL/antmaze/large-play-v1",
            {"alpha": 0.1, "discount": 0.998, "target_returns": (-500.0,), "policy_delay": 1},
        ),
        (
            "td3-odt",
            "D4RL/hammer/human-v2",
            {"critic_reward_scale": 1e-3, "critic_lr": 2e-4, "eval_context_len": 5, "return_scale": 1000.0},
        ),
        ("td3", "D4RL/pen/human-v2", {"imitation": 0.0, "alpha": 0.1, "policy_delay": 1, "lr": 1e-4}),
        ("ddpg-odt", "D4RL/pen/human-v2", {"critic_members": 1, "target_noise": 0.0, "critic_lr": 2e-4}),
        ("sac-odt", "D4RL/pointmaze/large-v2", {"critic_layer_norm": True, "context_len": 5}),
        ("awac-odt", "local/hopper/medium-v0", {"beta": 1.0, "return_scale": 1000.0, "alpha": 0.0}),
        ("iql-odt", "D4RL/relocate/human-v2", {"expectile": 0.9, "beta": 10.0, "critic_reward_scale": 0.01}),
        ("adt", "D4RL/antmaze/umaze-v1", {"inverse_temperature": 10.0}),
        ("edt", "local/hopper/medium-v0", {"return_scale": 1000.0, "return_range": (-20.272305, 3234.3)}),
        ("edt", "mujoco/halfcheetah/expert-v0", {"batch_size": 128, "expectile": 0.99}),
        ("qt", "local/hopper/medium-replay-v0", {"eta": 3.0, "max_grad_norm": 9.0, "context_len": 20}),
        ("qt", "mujoco/halfcheetah/expert-v0", {"eta": 5.0, "max_grad_norm": 15.0, "context_len": 20}),
        ("qt", "local/halfcheetah/medium-v0", {"eta": 5.0, "context_len": 5, "lr_horizon": 500_000}),
        ("qt", "local/halfcheetah/medium-expert-v0", {"eta": 0.4, "context_len": 20, "lr_horizon": 100_000}),
        ("qt", "mujoco/walker2d/medium-v0", {"eta": 2.0, "target_returns": (5000.0, 4000.0, 2500.0)}),
        ("qt", "D4RL/pointmaze/large-v2", {"eta": 4.0, "max_grad_norm": 9.0, "return_scale": 10.0}),
        ("qt", "D4RL/door/human-v2", {"eta": 0.005, "return_scale": 100.0, "max_grad_norm": 9.0}),
        ("iql", "D4RL/pointmaze/umaze-v2", {"reward_transform": "raw"}),
        ("iql", "mujoco/hopper/medium-v0", {"reward_transform": "return_range"}),
        ("iql", "D4RL/antmaze/umaze-v1", {"reward_transform": "minus_one", "expectile": 0.9}),
        ("td3bc", "D4RL/antmaze/umaze-v1", {"reward_transform": "minus_one", "alpha": 2.5}),
        ("td3bc", "local/hopper/medium-v0", {"reward_transform": "raw", "policy_delay": 2}),
        ("awac", "mujoco/walker2d/medium-v0", {"temperature": 1 / 3, "hidden": (256, 256, 256)}),
        ("awac", "D4RL/pen/human-v2", {"temperature": 0.1, "reward_transform": "raw"}),
        ("cql", "mujoco/halfcheetah/medium-v0", {"penalty": 10.0, "lagrange_gap": None, "policy_lr": 3e-5}),
        ("cql", "D4RL/pointmaze/umaze-v2", {"lagrange_gap": 5.0, "max_backup": False, "policy_lr": 3e-5}),
        ("cql", "D4RL/antmaze/large-play-v1", {"hidden": (256,) * 5, "policy_hidden": (256,) * 3}),
        (
            "cql",
            "D4RL/antmaze/umaze-v1",
            {"lagrange_gap": 0.8, "max_backup": True, "difference_min": -200.0, "penalty": 5.0},
        ),
        ("cql", "D4RL/door/human-v2", {"penalty": 1.0, "policy_lr": 1e-4, "reward_transform": "raw"}),
    ],
)
def test_presets_follow_the_dataset(algorithm, dataset, expected):
    config = preset_config(algorithm, {"dataset_id": dataset})
    assert {k: getattr(config, k) for k in expected} == expected


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_unknown_environments_get_the_defaults(algorithm):
    assert preset_config(algorithm, {"env_id": "Pendulum-v1"}) == ALGORITHMS[algorithm].config()


def test_every_shipped_preset_fits_its_config():
    """Those that it inherits included; and no file is left over."""
    folder, read = resources.files("dtag_fast.algorithms").joinpath("presets"), set()
    for name, entry in ALGORITHMS.items():
        stem = name
        while stem is not None and (file := folder.joinpath(f"{stem}.toml")).is_file():
            tables = tomllib.loads(file.read_text())
            read, stem = read | {file.name}, tables.pop("inherits", None)
            for settings in tables.values():
                config_from_dict(entry.config, settings)
    assert read == {file.name for file in folder.iterdir()}


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_config_survives_json(algorithm):
    config = config_from_dict(ALGORITHMS[algorithm].config, SMALL[algorithm])
    again = config_from_dict(type(config), json.loads(json.dumps(dataclasses.asdict(config))))
    assert again == config


def test_bad_names_are_refused(store):
    with pytest.raises(
        ValueError, match=r"algorithm: expected one of dt, reinformer, odt, .*iql.*, got 'ppo'"
    ):
        create("ppo", store)
    with pytest.raises(ValueError, match="got foreign learning_rate"):
        config_from_dict(ALGORITHMS["dt"].config, {"learning_rate": 1.0})


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_state_moves_to_a_fresh_learner(store, algorithm, trained_critic):
    """Three updates, state moved, three more: the same bits as six updates."""
    config = config_from_dict(ALGORITHMS[algorithm].config, SMALL[algorithm])
    critic = trained_critic if algorithm == "adt" else None
    learner, fresh = (create(algorithm, store, config, seed=seed, critic=critic) for seed in (1, 2))
    sampler, g = learner.make_sampler(store), torch.Generator().manual_seed(0)
    for _ in range(3):
        learner.update(sampler.sample(g))
    for name, module in fresh.exports.items():
        module.load_state_dict(learner.exports[name].state_dict())
    fresh.load_state_dict(copy.deepcopy(learner.state_dict()))
    for _ in range(3):
        batch = sampler.sample(g)
        for a, b in zip(learner.update(batch).values(), fresh.update(batch).values(), strict=True):
            assert torch.equal(a, b)
    for name, module in learner.modules.items():
        for p, q in zip(module.parameters(), fresh.modules[name].parameters(), strict=True):
            assert torch.equal(p, q)
