"""Policies, critics and the counting environment (counting_env.py) for the tests of rollouts."""

import runpy
from pathlib import Path
from types import SimpleNamespace

import gymnasium
import pytest
import torch

from dtag_fast.models import (
    AutotunedDecisionTransformer,
    AutotunedDecisionTransformerConfig,
    DecisionTransformer,
    DecisionTransformerConfig,
    DeterministicPolicy,
    ElasticDecisionTransformer,
    ElasticDecisionTransformerConfig,
    GaussianPolicy,
    OnlineDecisionTransformer,
    OnlineDecisionTransformerConfig,
    Reinformer,
    ReinformerConfig,
    TwinCritic,
)
from dtag_fast.training import LoadedCritic, LoadedPolicy, RunInfo

_COUNTING = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("counting_env.py"))))
KINDS = ("dt", "dt-original", "odt", "adt", "reinformer")


@pytest.fixture
def counting():
    """The module counting_env.py with an empty record of events."""
    _COUNTING.CountingEnv.events.clear()
    return _COUNTING


@pytest.fixture
def new_env():
    """A fresh counting environment, any options of its class."""
    return lambda **options: gymnasium.make(_COUNTING.ENV_ID, disable_env_checker=True, **options)


@pytest.fixture
def make_policy():
    """make_policy(kind, context_len=3, **info): an untrained policy for the counting environment."""

    def build(kind="dt", context_len=3, state_dim=3, action_dim=2, **about) -> LoadedPolicy:
        sizes = {"state_dim": state_dim, "action_dim": action_dim, "context_len": context_len}
        sizes |= {"d_model": 16, "n_layer": 2, "n_head": 2, "max_timestep": 40, "return_scale": 10.0}
        mean, std = torch.linspace(-0.5, 0.5, state_dim), torch.linspace(0.5, 1.5, state_dim)
        with torch.random.fork_rng():
            torch.manual_seed(7)
            if kind == "reinformer":
                model = Reinformer(ReinformerConfig(**sizes), mean, std)
            elif kind == "edt":
                model = ElasticDecisionTransformer(ElasticDecisionTransformerConfig(**sizes), mean, std)
            elif kind in ("bc", "iql"):
                kind_of = DeterministicPolicy if kind == "bc" else GaussianPolicy
                model = kind_of(state_dim, action_dim, (16, 16), 0.1, state_mean=mean, state_std=std)
            elif kind == "adt":
                config = AutotunedDecisionTransformerConfig(**sizes, value_hidden=(8, 8))
                model = AutotunedDecisionTransformer(config, mean, std)
            elif kind == "odt":
                model = OnlineDecisionTransformer(OnlineDecisionTransformerConfig(**sizes), mean, std)
            else:
                style = {"norm": "pre", "activation": "relu", "padding": "left"} if kind != "dt" else {}
                model = DecisionTransformer(DecisionTransformerConfig(**sizes, **style), mean, std)
            for parameter in model.parameters():  # untrained heads are timid; make the actions vary
                parameter.data.mul_(2)
        info = {
            "algorithm": kind.split("-")[0],
            "kind": "policy",
            "step": 5,
            "seed": 0,
            "state_dim": state_dim,
            "action_dim": action_dim,
            "state_mean": mean.tolist(),
            "state_std": std.tolist(),
            "action_low": [-1.0] * action_dim,
            "action_high": [1.0] * action_dim,
            "best_return": 100.0,
            "context_len": context_len,
            "return_scale": 10.0,
            "target_returns": [50.0] if model.takes_target_return else [],
            "env_id": _COUNTING.ENV_ID,
        }
        return LoadedPolicy(model.eval(), RunInfo(**(info | about)))

    return build


@pytest.fixture(params=KINDS)
def policy(request, make_policy) -> LoadedPolicy:
    return make_policy(request.param)


@pytest.fixture
def make_critic(make_policy):
    """make_critic(): an untrained twin critic of the counting environment's sizes, with steep slopes."""

    def build(**about) -> LoadedCritic:
        info = make_policy(**about).info
        with torch.random.fork_rng():
            torch.manual_seed(3)
            critic = TwinCritic(info.state_dim, info.action_dim, hidden=(32, 32))
        return LoadedCritic(critic.eval(), info)

    return build


@pytest.fixture
def critic(make_critic) -> LoadedCritic:
    return make_critic()
