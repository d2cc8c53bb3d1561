"""Sampling and an update on a device that is not the CPU touch nothing on the host.

The device is PyTorch's meta device, which has shapes and no numbers: what reads a number is an error there,
and an operator over a tensor of the host is found. Branches for devices other than the CPU are taken.
"""

import dataclasses
import importlib

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dtag_fast.algorithms import Algorithm, TrainedCritic, base, create
from dtag_fast.algorithms.adt import Config as ADT
from dtag_fast.algorithms.dt import Config as DT
from dtag_fast.algorithms.stacking import Stack
from dtag_fast.data.seed_sampler import SeedSampler
from dtag_fast.models import TwinCritic, ValueNet
from dtag_fast.ops.per_seed import Generators

META = torch.device("meta")


class MetaGenerator(torch.Generator):
    """Says it lies on the meta device, for which there are no generators."""

    device = META

    def __new__(cls, device=META):
        return super().__new__(cls)


class HostTensors(TorchDispatchMode):
    """Collects the operators that take or make a tensor outside of the meta device.

    Args:
        numbers: let 0-dim tensors of the host pass. vmap makes them of the numbers in a formula, and a kernel
            takes one by value.
    """

    def __init__(self, numbers=False):
        super().__init__()
        self.found, self.seen, self.numbers = [], 0, numbers

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = {name: value for name, value in (kwargs or {}).items() if name != "generator"}
        if "generator" in (argument.name for argument in func._schema.arguments):
            kwargs["generator"] = None
        # the fused optimizers have no kernel for meta tensors and write in place
        result = None if "_fused_adam" in func._schema.name else func(*args, **kwargs)
        tensors = [x for x in tree_leaves((args, kwargs, result)) if isinstance(x, torch.Tensor)]
        if any(x.device != META and not (self.numbers and x.ndim == 0) for x in tensors):
            self.found.append(str(func))
        self.seen += 1
        return result


@pytest.fixture
def on_meta(monkeypatch):
    """create(..., device="meta") works; optimizers read their learning rate once, when they are made."""
    monkeypatch.setattr(base, "Generator", MetaGenerator)
    monkeypatch.setattr(Algorithm, "scheduled", lambda self, lr: lr)
    adam = importlib.import_module("torch.optim.adam")
    monkeypatch.setattr(adam, "_device_dtype_check_for_fused", lambda parameter: None)


CASES = ["dt", "dt-original", "dt-q", "reinformer", "reinformer-q", "odt", "adt", "bc"]
CASES += ["edt", "qt", "td3-odt", "sac-odt", "awac-odt", "iql-odt", "iql", "td3bc", "awac", "cql"]


@pytest.mark.parametrize("seeds", [None, 3])
@pytest.mark.parametrize("case", CASES)
def test_an_update_touches_nothing_on_the_host(case, seeds, store, configs, on_meta):
    """Nor does one of several stacked seeds."""
    name = case if case in configs else case.partition("-")[0]
    fields = ("context_len", "d_model", "n_layer", "n_head", "max_timestep", "batch_size")
    small = {field: getattr(configs["dt"], field) for field in fields}
    config = ADT(**small) if name == "adt" else configs[name]
    if case == "dt-original":
        config = DT.original(**small)
    config = dataclasses.replace(config, lr=1e-3)
    critic = None
    if case.endswith("-q"):
        config = dataclasses.replace(config, q_weight=1.0, q_start=5, q_ramp=5)
    if case.endswith("-q") or name == "adt":
        networks = TwinCritic(store.state_dim, store.action_dim, hidden=(8,)), ValueNet(store.state_dim)
        critic = TrainedCritic(*networks)
    learners = [
        create(name, store, config, device="meta", capturable=True, critic=critic) for _ in range(seeds or 1)
    ]
    learner, sampler, generator = learners[0], learners[0].make_sampler(store), MetaGenerator()
    if seeds is not None:
        learner, sampler = Stack(learners).learner, SeedSampler(sampler)
        generator = Generators([MetaGenerator() for _ in learners])
    learner.optimizers["model"].param_groups[0]["lr"] = torch.tensor(1e-3, device=META)
    with HostTensors(numbers=seeds is not None) as spy:
        for _ in range(2):  # the first makes the optimizers' state
            metrics = learner.update(sampler.sample(generator))
    assert spy.found == [] and spy.seen > 100
    shape = () if seeds is None else (seeds,)
    assert all(value.device == META and value.shape == shape for value in metrics.values())
    assert learner.updates_done == 2


def test_what_lies_on_the_host_is_found(store, configs, on_meta):
    learner = create("dt", store, configs["dt"], device="meta", capturable=True)
    with HostTensors() as spy:
        learner.schedule_step * torch.tensor(2.0)
    assert spy.found
