"""Learners built for capture: schedules over tensors, the same training within rounding, state either way."""

import copy

import pytest
import torch

from dtag_fast.algorithms import create
from dtag_fast.algorithms.adt import Config as ADT
from dtag_fast.algorithms.awac import Config as AWAC
from dtag_fast.algorithms.awac_odt import Config as AWACODT
from dtag_fast.algorithms.bc import Config as BC
from dtag_fast.algorithms.cql import Config as CQL
from dtag_fast.algorithms.dt import Config as DT
from dtag_fast.algorithms.edt import Config as EDT
from dtag_fast.algorithms.iql import Config as IQL
from dtag_fast.algorithms.iql_odt import Config as IQLODT
from dtag_fast.algorithms.odt import Config as ODT
from dtag_fast.algorithms.qt import Config as QT
from dtag_fast.algorithms.reinformer import Config as Reinformer
from dtag_fast.algorithms.sac_odt import Config as SACODT
from dtag_fast.algorithms.schedules import cosine, set_lr, warmup
from dtag_fast.algorithms.td3_odt import Config as TD3ODT
from dtag_fast.algorithms.td3bc import Config as TD3BC

_SEQUENCE = {"context_len": 4, "d_model": 16, "n_layer": 1, "n_head": 2, "max_timestep": 64, "batch_size": 8}
_ONLINE = {"eval_context_len": 2, "warmup": 50, "lr": 1e-3, "critic_hidden": (8, 8), "alpha": 0.1}
CONFIGS = {
    "dt": DT(**_SEQUENCE, warmup=50, lr=1e-3),
    "reinformer": Reinformer(**_SEQUENCE, warmup=50, lr=1e-3),
    "odt": ODT(**_SEQUENCE, eval_context_len=2, warmup=50, lr=1e-3),
    "adt": ADT(**_SEQUENCE, warmup=50, lr=1e-3),
    "bc": BC(hidden=(8, 8), batch_size=8, warmup=50, lr=1e-3),
    "edt": EDT(**_SEQUENCE, warmup=50, lr=1e-3),
    "qt": QT(**_SEQUENCE, critic_hidden=(8, 8), ema_start=20, ema_every=3, lr_horizon=150, lr=1e-3),
    "td3-odt": TD3ODT(**_SEQUENCE, **_ONLINE),
    "sac-odt": SACODT(**_SEQUENCE, **_ONLINE),
    "awac-odt": AWACODT(**_SEQUENCE, **_ONLINE),
    "iql-odt": IQLODT(**_SEQUENCE, **_ONLINE),
    "iql": IQL(hidden=(8, 8), batch_size=8, policy=True, policy_dropout=0.2, policy_horizon=150),
    "td3bc": TD3BC(hidden=(8, 8), batch_size=8),
    "awac": AWAC(hidden=(8, 8), batch_size=8),
    "cql": CQL(
        hidden=(8, 8),
        policy_hidden=(8, 8),
        batch_size=8,
        n_actions=3,
        lagrange_gap=1.0,
        difference_min=-5.0,
        imitation_updates=100,
    ),
}
# Their learning rates change.
SCHEDULED = ("dt", "reinformer", "odt", "adt", "bc", "edt", "qt", "iql")
SCHEDULED += ("td3-odt", "sac-odt", "awac-odt", "iql-odt")


@pytest.fixture
def make(store, trained_critic):
    """make(algorithm, capturable) -> a fresh learner."""

    def build(algorithm, capturable):
        critic = trained_critic if algorithm == "adt" else None
        return create(algorithm, store, CONFIGS[algorithm], capturable=capturable, critic=critic)

    return build


every_algorithm = pytest.mark.parametrize("algorithm", CONFIGS)


@pytest.mark.parametrize("schedule", [warmup, cosine])
@pytest.mark.parametrize("length", [1, 7, 1_000_000])
def test_schedules_over_tensors_equal_those_over_numbers(schedule, length):
    count = torch.zeros((), dtype=torch.float64)
    for n in (0, 1, 2, 6, 7, 8, 999_999, 1_000_000, 2_000_000):
        factor = schedule(count.fill_(n), length)
        assert factor.dtype == torch.float64
        assert factor.item() == pytest.approx(schedule(n, length), rel=1e-12, abs=1e-16)
    assert warmup(count, 0) == 1.0


def test_a_learning_rate_that_is_a_tensor_stays_the_same_tensor():
    lr = torch.tensor(1.0)
    optimizer = torch.optim.Adam([torch.zeros(1, requires_grad=True)], lr=lr, fused=True, capturable=True)
    for value in (0.5, torch.tensor(0.25, dtype=torch.float64)):
        set_lr(optimizer, value)
        assert optimizer.param_groups[0]["lr"] is lr and lr == float(value)


def train(learner, store, updates, generator):
    sampler = learner.make_sampler(store)
    metrics = [learner.update(sampler.sample(generator)) for _ in range(updates)]
    return {name: torch.stack([m[name] for m in metrics]) for name in metrics[0]}


@every_algorithm
def test_200_updates_are_the_same_within_rounding(store, make, algorithm):
    losses = [
        train(
            make(algorithm, capturable),
            store,
            200,
            torch.Generator().manual_seed(0),
        )
        for capturable in (False, True)
    ]
    for name, values in losses[0].items():
        torch.testing.assert_close(losses[1][name], values, rtol=1e-3, atol=1e-4, msg=name)


def as_it_was_saved_before(state):
    """A learner's state in the form of older checkpoints: counts on the host, one for each parameter."""
    state = copy.deepcopy(state)
    for optimizer in state["optimizers"].values():
        for group in optimizer["param_groups"]:
            count = group.pop("step", None)
            group["lr"] = float(group["lr"])
            if count is not None:
                del group["capturable"]
                for entry in optimizer["state"].values():
                    entry["step"] = int(count)
    if "temperature" in state["optimizers"]:
        (group,) = state["optimizers"]["temperature"]["param_groups"]
        group["fused"] = None
    return state


@every_algorithm
@pytest.mark.parametrize(
    "before, after, old",
    [
        (False, True, False),
        (True, False, False),
        (True, True, False),
        (False, False, True),
        (False, True, True),
    ],
)
def test_state_moves_between_both_forms(store, make, algorithm, before, after, old):
    whole, first, second = (make(algorithm, capturable) for capturable in (before, before, after))
    generators = [torch.Generator().manual_seed(0) for _ in range(2)]
    train(first, store, 5, generators[0])
    for name, module in second.exports.items():
        module.load_state_dict(first.exports[name].state_dict())
    state = first.state_dict()
    second.load_state_dict(as_it_was_saved_before(state) if old else copy.deepcopy(state))
    assert second.updates_done == 5 and float(second.schedule_step) == 5
    assert isinstance(second.schedule_step, torch.Tensor) == after
    for optimizer in second.optimizers.values():
        assert all(group["capturable"] == after for group in optimizer.param_groups)
    metrics, expected = train(second, store, 5, generators[0]), train(whole, store, 10, generators[1])
    for name, values in metrics.items():
        torch.testing.assert_close(values, expected[name][5:], rtol=1e-4, atol=1e-5, msg=name)


@every_algorithm
def test_counts_and_rates_lie_on_the_device(store, make, algorithm):
    learner = make(algorithm, True)
    train(learner, store, 3, torch.Generator())
    assert learner.schedule_step.item() == learner.updates_done == 3
    for optimizer in learner.optimizers.values():
        assert all(group["capturable"] for group in optimizer.param_groups)
    if algorithm in SCHEDULED:
        assert isinstance(learner.optimizers["model"].param_groups[0]["lr"], torch.Tensor)
