"""IQL's compiled updates against those made operator by operator."""

import copy
import json

import numpy as np
import pytest
import torch

from dtag_fast.algorithms import create
from dtag_fast.algorithms.compiled_iql import CompiledIQL
from dtag_fast.algorithms.critics import MAX_WEIGHT
from dtag_fast.algorithms.iql import ACTION_MARGIN, Config
from dtag_fast.data import Episode, TrajectoryStore
from dtag_fast.training import train as train_run

_C = pytest.importorskip("dtag_fast._C", reason="the compiled module is not built")
CONFIGS = {
    "with a policy": Config(hidden=(64, 48), policy=True, batch_size=100),
    "three members": Config(hidden=(33,), members=3, activation="mish", batch_size=17, n_step=3),
    "raw states": Config(
        hidden=(20, 20, 20), policy=True, activation="gelu", members=1, normalize_states=False
    ),
    "one row": Config(hidden=(), policy=True, batch_size=1, inverse_temperature=200.0),
}


@pytest.fixture(scope="module")
def store() -> TrajectoryStore:
    rng = np.random.default_rng(0)
    steps = 40
    ends = np.arange(steps) == steps - 1
    episodes = [
        Episode(
            3 + 2 * rng.normal(size=(steps + 1, 5)),
            rng.uniform(-2, 3, (steps, 2)),
            rng.random(steps) * (1 + index),
            ends if index % 2 else ~ends & False,
            ends if index % 2 == 0 else ~ends & False,
        )
        for index in range(8)
    ]
    bounds = {"action_low": [-2.0, -2.0], "action_high": [3.0, 3.0]}
    return TrajectoryStore.from_episodes(
        episodes, {"dataset_id": "random", "max_episode_steps": steps} | bounds
    )


def learners(store, config, isa: str = ""):
    """One that is compiled, and one by operators."""
    compiled, plain = create("iql", store, config), create("iql", store, config)
    compiled._compiled = CompiledIQL(compiled, ACTION_MARGIN, MAX_WEIGHT, isa)
    plain._compiled._settled = "the test asks for operators"
    return compiled, plain


def train(learner, store, updates: int):
    sampler, generator = learner.make_sampler(store), torch.Generator().manual_seed(1)
    return [learner.update(sampler.sample(generator)) for _ in range(updates)]


def numbers(learner) -> dict[str, torch.Tensor]:
    found = {f"{k}.{n}": p.detach() for k, m in learner.modules.items() for n, p in m.named_parameters()}
    for name, optimizer in learner.optimizers.items():
        for index, state in enumerate(optimizer.state.values()):
            found |= {f"{name} {index} {key}": value for key, value in state.items()}
    return found


@pytest.mark.parametrize("isa", [*_C.isas(), "emulated512"])
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_follows_the_operators(store, config, isa):
    ours, plain = learners(store, config, isa)
    logs = [train(learner, store, 25) for learner in (ours, plain)]
    assert ours._compiled.why_not() is None and ours._compiled._update.isa == isa
    assert ours.updates_done == plain.updates_done == 25
    for one, other in zip(*logs, strict=True):
        assert one.keys() == other.keys()
        for name, value in one.items():
            assert value.item() == pytest.approx(other[name].item(), rel=2e-3, abs=2e-4), name
    for name, value in numbers(ours).items():
        exact = numbers(plain)[name]
        assert torch.allclose(value, exact, rtol=2e-3, atol=2e-3 * exact.abs().max().item()), name


def test_bits_do_not_depend_on_threads(store):
    before, bits = torch.get_num_threads(), []
    first = create("iql", store, Config(hidden=(64, 64), policy=True))
    train(first, store, 1)  # by operators, whose bits may depend on them
    start = copy.deepcopy((first.state_dict(), {k: m.state_dict() for k, m in first.exports.items()}))
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            learner = create("iql", store, Config(hidden=(64, 64), policy=True))
            learner.load_state_dict(copy.deepcopy(start[0]))
            for name, module in learner.exports.items():
                module.load_state_dict(start[1][name])
            assert learner._compiled.why_not() is None
            train(learner, store, 10)
            bits.append(numbers(learner))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(value, bits[1][name]) for name, value in bits[0].items())


def test_tensors_that_were_replaced_are_found_again(store):
    ours, plain = learners(store, CONFIGS["with a policy"])
    for learner in (ours, plain):
        train(learner, store, 5)
        learner.load_state_dict(learner.state_dict())  # the optimizers' states are new tensors now
        for parameter in learner.modules["critic"].parameters():
            parameter.data = parameter.data.clone()
        train(learner, store, 5)
    for name, value in numbers(ours).items():
        assert torch.allclose(value, numbers(plain)[name], rtol=2e-3, atol=1e-4), name


def test_readers_of_versions_see_an_update(store):
    ours, _ = learners(store, CONFIGS["with a policy"])
    train(ours, store, 2)
    before = {name: [p._version for p in m.parameters()] for name, m in ours.modules.items()}
    train(ours, store, 1)
    for name, module in ours.modules.items():
        assert all(p._version > v for p, v in zip(module.parameters(), before[name], strict=True))


def test_a_reward_that_is_nan_shows(store):
    ours, _ = learners(store, CONFIGS["three members"])
    sampler, generator = ours.make_sampler(store), torch.Generator().manual_seed(1)
    train(ours, store, 2)
    batch = sampler.sample(generator)
    metrics = ours.update(batch._replace(rewards=torch.full_like(batch.rewards, torch.nan)))
    assert metrics["critic_loss"].isnan() and metrics["value_loss"].isfinite()
    assert ours.update(batch)["value_loss"].isnan()


def test_a_run_says_how_its_updates_are_made(store, tmp_path):
    for name, settings in (("plain", Config(hidden=(8,))), ("norm", Config(hidden=(8,), layer_norm=True))):
        run = train_run("iql", store, out=tmp_path / name, updates=3, config=settings)
        execution = json.loads((run / "config.json").read_text())["execution"]
        assert execution.startswith("one by one: CUDA graphs need a CUDA device")
        assert ("one compiled call" in execution) == (name == "plain")
        assert ("operator by operator (LayerNorm" in execution) == (name == "norm")


def test_reasons(store):
    def reason(**settings) -> str | None:
        return create("iql", store, Config(**settings))._compiled.why_not()

    assert "LayerNorm" in reason(layer_norm=True)
    assert "dropout" in reason(policy=True, policy_dropout=0.1)
    assert "first update" in reason()
    assert "captured" in create("iql", store, Config(), capturable=True)._compiled.why_not()
    learner, _ = learners(store, Config(hidden=(8,)))
    train(learner, store, 1)
    assert learner._compiled.why_not() is None
    with torch.autocast("cpu", torch.bfloat16):
        assert "autocast" in learner._compiled.why_not()
    assert learner.explain() == "an update is one compiled call"
    learner.modules["critic"].compile(backend="eager")
    assert "operator by operator (its networks" in learner.explain()
    assert "torch.compile" in learner._compiled.why_not()
