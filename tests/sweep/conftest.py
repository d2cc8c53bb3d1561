"""A run and a critic on disk, untrained and small, for an environment whose episodes are short."""

import dataclasses

import numpy as np
import pytest
import torch

from dtag_fast.models import DecisionTransformer, DecisionTransformerConfig, TwinCritic
from dtag_fast.training.checkpoint import RunInfo, save_checkpoint

ENV_ID = "InvertedPendulum-v5"


def save_policy(run, step: int, state_dim=4, action_dim=1, **about):
    """RUN/checkpoints/STEP with an untrained Decision Transformer, another one for every step."""
    info = RunInfo(
        **{
            "algorithm": "dt",
            "kind": "policy",
            "step": step,
            "seed": 0,
            "state_dim": state_dim,
            "action_dim": action_dim,
            "state_mean": [0.0] * state_dim,
            "state_std": [1.0] * state_dim,
            "action_low": [-3.0] * action_dim,
            "action_high": [3.0] * action_dim,
            "best_return": 100.0,
            "context_len": 3,
            "return_scale": 10.0,
            "target_returns": [50.0],
            "env_id": ENV_ID,
            "dataset_id": "test/pendulum-v0",
            "ref_min_score": 0.0,
            "ref_max_score": 1000.0,
        }
        | about
    )
    sizes = {"state_dim": state_dim, "action_dim": action_dim, "context_len": 3, "d_model": 16}
    sizes |= {"n_layer": 1, "n_head": 1, "max_timestep": 1001, "return_scale": 10.0}
    with torch.random.fork_rng():
        torch.manual_seed(step)
        model = DecisionTransformer(
            DecisionTransformerConfig(**sizes), torch.zeros(state_dim), torch.ones(state_dim)
        )
        for parameter in model.parameters():
            parameter.data.mul_(2)
    save_checkpoint(run, info, {"model": model}, {})
    return info


@pytest.fixture
def run(tmp_path):
    """A run of two checkpoints, steps 5 and 9."""
    for step in (5, 9):
        save_policy(tmp_path / "run", step)
    return tmp_path / "run"


@pytest.fixture
def make_critic(tmp_path):
    """make_critic(name, seed=3): the folder of an untrained critic with steep slopes."""

    def build(name="critic", seed=3, **about):
        info = save_policy(tmp_path / f"{name}-sizes", 1, **about)
        info = dataclasses.replace(info, algorithm="iql", kind="critic", step=7, target_returns=[])
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            critic = TwinCritic(info.state_dim, info.action_dim, hidden=(16, 16))
            for parameter in critic.parameters():
                parameter.data.mul_(2)
        save_checkpoint(tmp_path / name, info, {"critic": critic}, {})
        return tmp_path / name

    return build


@pytest.fixture
def critic(make_critic):
    return make_critic()


@pytest.fixture
def rng():
    return np.random.default_rng(0)
