"""Untrained policies of every kind and critics of every layer, for the tests of what leaves the package."""

import numpy as np
import torch
from torch import nn

from dtag_fast import models
from dtag_fast.ops.refine.program import Activation, CriticProgram, LayerNorm, Linear
from dtag_fast.training import LoadedCritic, LoadedPolicy, RunInfo

S, A, K = 3, 2, 4
LOW, HIGH = [-1.0, -2.0], [1.0, 0.5]
SEQUENCE = {
    "dt": ("DecisionTransformer", {}),
    "dt-original": ("DecisionTransformer", {"norm": "pre", "activation": "relu", "padding": "left"}),
    "dt-discrete": ("DecisionTransformer", {"discrete": True}),
    "odt": ("OnlineDecisionTransformer", {}),
    "adt": ("AutotunedDecisionTransformer", {"value_hidden": (8, 8), "value_layer_norm": True}),
    "reinformer": ("Reinformer", {}),
    "reinformer-left": ("Reinformer", {"padding": "left", "norm": "pre"}),
    "reinformer-discrete": ("Reinformer", {"discrete": True}),
    "edt": ("ElasticDecisionTransformer", {}),
}
STATE = {
    "bc": ("DeterministicPolicy", {}),
    "iql": ("GaussianPolicy", {"activation": "elu"}),
    "awac": ("GaussianPolicy", {"squash_mean": False, "activation": "gelu"}),
    "cql": ("TanhGaussianPolicy", {"activation": "mish"}),
}
KINDS = (*SEQUENCE, *STATE)
CONTINUOUS = tuple(kind for kind in KINDS if "discrete" not in kind)

ACTIVATIONS = {
    "identity": (),
    "relu": (),
    "leaky_relu": (0.2,),
    "elu": (0.7,),
    "gelu": (),
    "gelu_tanh": (),
    "silu": (),
    "mish": (),
    "tanh": (),
    "softplus": (2.0, 5.0),
}


def make_policy(kind: str, **about) -> LoadedPolicy:
    """A policy whose actions vary, K = 4, one layer more than needed."""
    mean, std = torch.tensor([0.3, -1.0, 2.0]), torch.tensor([0.5, 2.0, 1.0])
    name, more = (SEQUENCE | STATE)[kind]
    network = getattr(models, name)
    bounds = {} if "discrete" in kind else {"action_low": LOW, "action_high": HIGH}
    statistics = {"state_mean": mean, "state_std": std}
    with torch.random.fork_rng():
        torch.manual_seed(KINDS.index(kind))
        if kind in SEQUENCE:
            sizes = {"state_dim": S, "action_dim": A, "context_len": K, "d_model": 16, "n_layer": 2}
            sizes |= {"n_head": 2, "max_timestep": 40, "return_scale": 10.0}
            model = network(getattr(models, f"{name}Config")(**(sizes | more)), **statistics, **bounds)
        else:
            model = network(S, A, (16, 16), **more, **statistics, **bounds)
        for name, parameter in model.named_parameters():
            if "norm" not in name:
                parameter.data.mul_(1.7)
            if "bias" in name:
                parameter.data.add_(0.1 * torch.randn(parameter.shape))
    low, high = ([], []) if "discrete" in kind else (LOW, HIGH)
    info = {
        "algorithm": kind.split("-")[0],
        "kind": "policy",
        "step": 5,
        "seed": 0,
        "state_dim": S,
        "action_dim": A,
        "state_mean": mean.tolist(),
        "state_std": std.tolist(),
        "action_low": low,
        "action_high": high,
        "best_return": 100.0,
        "context_len": K if kind in SEQUENCE else None,
        "return_scale": 10.0 if kind in SEQUENCE else 1.0,
        "target_returns": [50.0] if model.takes_target_return else [],
        "env_id": "Hopper-v5",
        "discrete_actions": {"n": A, "start": 0} if "discrete" in kind else None,
    }
    return LoadedPolicy(model.eval(), RunInfo(**(info | about)))


def make_critic(**about) -> LoadedCritic:
    """A twin critic with steep slopes, of the policies' sizes."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        critic = models.TwinCritic(S, A, (24, 24), state_mean=torch.tensor([0.3, -1.0, 2.0]))
    info = {**vars(make_policy("iql").info), "algorithm": "iql", "kind": "critic", **about}
    return LoadedCritic(critic.eval(), RunInfo(**info))


def program(kind="relu", norm=False, members=2, seed=0, widths=(16, 16), reduction=None, affine=True):
    """A CriticProgram with this activation, and a LayerNorm before each where asked for."""
    rng = np.random.default_rng(seed)

    def tensor(*sizes, scale=1.0, shift=0.0):
        return torch.from_numpy((rng.standard_normal(sizes) * scale + shift).astype(np.float32))

    made = []
    for _ in range(members):
        layers, width = [], S + A
        for size in widths:
            layers.append(Linear(tensor(size, width, scale=1.5 / width**0.5), tensor(size, scale=0.3)))
            if norm:
                scales = (tensor(size, scale=0.3, shift=1.0), tensor(size, scale=0.3)) if affine else ()
                layers.append(LayerNorm(size, *scales))
            layers.append(Activation(kind, ACTIVATIONS[kind]))
            width = size
        made.append((*layers, Linear(tensor(1, width), None if seed % 2 else tensor(1))))
    return CriticProgram(S, A, tuple(made), reduction)


class Opaque(nn.Module):
    """A critic that does not lower."""

    def forward(self, states, actions):
        return (torch.sin(actions) * states[:, :A].cos()).sum(-1)
