"""The compiled form of a repeated call of the CUDA kernels, here on their stand-in on the CPU.

Tensors lie on the host there and the only stream is 0, unless a test brings streams of its own.
"""

import threading
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from fake_cuda import FakeCuda
from torch import nn

from dtag_fast import Prior, Refiner, refine
from dtag_fast.ops.refine import backends
from dtag_fast.ops.refine.cuda import CudaExecutor
from dtag_fast.ops.refine.streams import Streams

S, A, H = 3, 2, 24
HOST = torch.device("cpu")


@pytest.fixture(scope="module")
def core():
    module = pytest.importorskip("tools.simt", reason="needs the sources beside the tests").load()
    module.set_device(seed=0)
    return module


@pytest.fixture(autouse=True)
def stand_in(core, monkeypatch):
    """use(kernel): from now on the cuda backend is the stand-in with this kernel, for host tensors."""

    def use(kernel=None, clusters=True):
        core.set_device(multiprocessors=16)  # enough for a group of blocks without clusters
        executor = partial(CudaExecutor, core=core, kernel=kernel, clusters=clusters)
        module = SimpleNamespace(why_not=lambda *_: None, CudaExecutor=executor)
        entry = backends.Backend("cpu", lambda: module, "CudaExecutor")
        monkeypatch.setitem(backends.FAST_BACKENDS, "cuda", entry)

    use()
    yield use
    core.set_capturing(set())


class TwinCritic(nn.Module):
    def __init__(self, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.q1, self.q2 = (
            nn.Sequential(nn.Linear(S + A, H), nn.ReLU(), nn.Linear(H, H), nn.ReLU(), nn.Linear(H, 1))
            for _ in range(2)
        )

    def forward(self, states, actions):
        x = torch.cat([states, actions], -1)
        return self.q1(x), self.q2(x)


def inputs(rows=4, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, S, generator=generator), torch.rand(rows, A, generator=generator) * 2 - 1


def refiner_of(critic, **settings):
    return Refiner(critic, steps=2, lr=0.1, **settings)


def executor_of(refiner):
    (binding,) = refiner._bindings
    return binding.executor


def other_numbers(critic):
    with torch.no_grad():
        critic.q1[0].weight.mul_(1.5)


@pytest.mark.parametrize("kernel", ["generic", "latency", "latency without clusters", "tensor", "hopper"])
@pytest.mark.parametrize("kind", ["B=1", "B=5", "several tiles", "one row"])
def test_the_same_bits_as_the_general_way(core, stand_in, kernel, kind):
    stand_in(kernel.split()[0], clusters="without" not in kernel)
    several = 12 if kernel.startswith("latency") else 40  # its tiles have 8 rows at most
    states, actions = inputs(several if kind == "several tiles" else 5)
    if kind == "B=1":
        states, actions = states[:1], actions[:1]
    elif kind == "one row":
        states, actions = states[0], actions[0]
    refiner = refiner_of(TwinCritic(), precision="medium", optimizer="adam", radius=0.5)
    before = actions.clone()
    expected = refiner.run(states, actions)
    assert not torch.equal(expected, actions)
    assert type(refiner._prepared) is core.PreparedCall
    assert torch.equal(refiner._prepared(states, actions, None), expected)
    out = torch.empty_like(actions)
    assert refiner(states, actions, out=out) is out and torch.equal(out, expected)
    assert torch.equal(actions, before)
    assert refiner._prepared(states, actions, actions) is actions, "out may be actions itself"
    assert torch.equal(actions, expected)


def test_its_scale_and_prior_are_those_of_the_refiner():
    states, actions = inputs()
    refiner = refiner_of(TwinCritic(), scale=0.5, prior=Prior(0.2, 3.0))
    expected = refiner.run(states, actions)
    assert refiner._prepared is not None
    assert torch.equal(refiner._prepared(states, actions, None), expected)
    for without in ({"scale": 0.5}, {"prior": Prior(0.2, 3.0)}):
        assert not torch.equal(refiner_of(TwinCritic(), **without)(states, actions), expected)


def test_folded_states_have_memory_of_their_own(core, stand_in):
    """The generic kernel keeps the states' share of the first layer in global memory."""
    stand_in("generic")
    refiner, (states, actions) = refiner_of(TwinCritic()), inputs(40)
    expected = refiner(states, actions)
    assert executor_of(refiner)._choice(40, 1)[2] > 0
    assert torch.equal(refiner._prepared(states, actions, None), expected)


def test_refine_takes_the_same_way(core):
    critic, (states, actions) = TwinCritic(), inputs()
    expected = refine(critic, states, actions, steps=2, lr=0.1)
    assert torch.equal(refine(critic, states, actions, steps=2, lr=0.1), expected)
    assert torch.equal(refiner_of(critic)(states, actions), expected)


def other_calls():
    states, actions = inputs()
    wide = torch.zeros(4, 2 * A)
    return {
        "rows": (*inputs(5), None),
        "one row": (states[0], actions[0], None),
        "candidates": (states, actions[:, None].expand(4, 3, A), None),
        "dtype": (states, actions.double(), None),
        "half": (states.half(), actions.half(), None),
        "strides": (states, wide[:, ::2], None),
        "meta": (states.to("meta"), actions, None),
        "list": (states.tolist(), actions, None),
        "out of another shape": (states, actions, torch.empty(4, A + 1)),
        "out with strides": (states, actions, wide[:, ::2]),
        "out elsewhere": (states, actions, torch.empty(4, A, device="meta")),
        "outside the default bounds": (states, actions + 1.5, None),
    }


@pytest.mark.parametrize("name", other_calls())
def test_every_other_call_is_left_to_the_general_way(name):
    refiner = refiner_of(TwinCritic())
    refiner(*inputs())
    assert refiner._prepared(*inputs(), None) is not None
    assert refiner._prepared(*other_calls()[name]) is None


def test_shapes_seen_before_stay_prepared():
    refiner, cases = refiner_of(TwinCritic()), [inputs(rows) for rows in (1, 4, 9)]
    expected = [refiner(*case) for case in cases]
    for case, result in zip(cases, expected, strict=True):
        assert torch.equal(refiner._prepared(*case, None), result)
    prepared = refiner._prepared
    refiner.run(*cases[0])
    assert refiner._prepared is prepared, "nothing new"


def test_new_weights_are_packed_before_they_are_used():
    critic, case = TwinCritic(), inputs()
    refiner = refiner_of(critic)
    before, prepared = refiner(*case), refiner._prepared
    other_numbers(critic)
    assert prepared(*case, None) is None
    after = refiner(*case)
    assert torch.equal(after, refiner_of(critic)(*case)) and not torch.equal(after, before)
    assert torch.equal(refiner._prepared(*case, None), after) and prepared(*case, None) is None


def test_weights_that_were_swapped_and_come_back_are_packed_again():
    """Tensors and versions are those of the first call; what is packed are the numbers in between."""
    critic, case = TwinCritic(), inputs()
    refiner = refiner_of(critic)
    first, prepared, weight = refiner(*case), refiner._prepared, critic.q1[0].weight
    critic.q1[0].weight = nn.Parameter(weight.detach() * 2)
    assert not torch.equal(refiner(*case), first)
    critic.q1[0].weight = weight
    assert prepared(*case, None) is None and refiner._prepared(*case, None) is None
    assert torch.equal(refiner(*case), first)


def test_numbers_of_a_repack_that_failed_are_not_used(monkeypatch):
    critic, case = TwinCritic(), inputs()
    refiner = refiner_of(critic)
    expected, weight = refiner(*case), critic.q1[0].weight
    critic.q1[0].weight = nn.Parameter(weight.detach() * 2)
    (form,) = executor_of(refiner)._forms.values()
    write = type(form).write

    def fails(*arguments):
        write(*arguments)
        raise MemoryError

    with monkeypatch.context() as patch, pytest.raises(MemoryError):
        patch.setattr(type(form), "write", fails)
        refiner(*case)
    critic.q1[0].weight = weight
    assert torch.equal(refiner(*case), expected)


def test_refresh_and_modes_are_noticed():
    critic, case = TwinCritic(), inputs()
    refiner = refiner_of(critic)
    refiner(*case)
    prepared = refiner._prepared
    critic.eval()
    assert prepared(*case, None) is None
    critic.train()
    for parameter in critic.parameters():
        parameter.data.mul_(1.3)  # shows in no version
    refiner.refresh()
    assert prepared(*case, None) is None
    assert torch.equal(refiner(*case), refiner_of(critic)(*case))


def test_a_stream_that_is_captured_is_left_to_the_general_way(core):
    refiner, case = refiner_of(TwinCritic()), inputs()
    expected = refiner(*case)
    core.set_capturing({0})
    assert refiner._prepared(*case, None) is None
    assert torch.equal(refiner(*case), expected)
    core.set_capturing(set())
    assert torch.equal(refiner._prepared(*case, None), expected)


def test_a_stream_takes_the_short_way_once_it_has_waited_for_the_weights():
    cuda, critic, case = FakeCuda(), TwinCritic(), inputs()
    refiner, one, other = refiner_of(critic), cuda.Stream(), cuda.Stream()
    executor_of_new = refiner.binding(S, A, HOST).executor
    executor_of_new._streams = Streams(HOST, cuda)

    def prepared_on(stream):
        with cuda.stream(stream):
            return refiner._prepared is not None and refiner._prepared(*case, None) is not None

    with cuda.stream(one):
        expected = refiner(*case)
    assert prepared_on(one) and not prepared_on(other)
    with cuda.stream(other):
        assert torch.equal(refiner(*case), expected)
    assert prepared_on(one) and prepared_on(other)
    other_numbers(critic)
    with cuda.stream(other):
        refiner(*case)
    assert prepared_on(other) and not prepared_on(one)
    with cuda.stream(one):
        assert torch.equal(refiner(*case), refiner_of(critic)(*case))
    assert prepared_on(one)


def test_weights_first_packed_in_inference_mode_can_be_packed_again():
    critic, case = TwinCritic(), inputs()
    refiner = refiner_of(critic)
    with torch.inference_mode():
        refiner(*case)
    other_numbers(critic)
    assert torch.equal(refiner(*case), refiner_of(critic)(*case))


def test_threads_beside_repacks():
    """Every result is that of one set of weights, whichever way the calls take."""
    critic = TwinCritic()
    refiner, cases = refiner_of(critic), [inputs(rows) for rows in (1, 5)]
    numbers = [critic.q1[0].weight.detach() * scale for scale in (1.0, 1.5)]
    expected = []
    for weight in numbers:
        critic.q1[0].weight = nn.Parameter(weight)
        expected.append([refiner(*case) for case in cases])
    right: list[bool] = []

    def work(k):
        for _ in range(10):
            result = refiner(*cases[k])
            right.append(any(torch.equal(result, e[k]) for e in expected))

    threads = [threading.Thread(target=work, args=(k,)) for k in (0, 1)]
    for thread in threads:
        thread.start()
    parameters = [nn.Parameter(weight) for weight in numbers]
    i = 0
    while any(thread.is_alive() for thread in threads):
        critic.q1[0].weight = parameters[(i := i + 1) % 2]
        refiner.binding(S, A, HOST)
    for thread in threads:
        thread.join()
    assert len(right) == 20 and all(right)


def test_what_it_is_made_from_is_checked(core):
    refiner, case = refiner_of(TwinCritic()), inputs()
    refiner(*case)
    executor = executor_of(refiner)
    made, arguments = core.prepare_cuda_call, {}

    def record(**given):
        arguments.update(given)
        return made(**given)

    executor._core = SimpleNamespace(prepare_cuda_call=record)
    refiner._prepared = None
    refiner.run(*case)
    for error, wrong in (
        (ValueError, {"steps": -1}),
        (ValueError, {"lr": float("nan")}),
        (ValueError, {"numbers": 0}),
        (ValueError, {"tables": 8}),
        (ValueError, {"only": "fast"}),
        (ValueError, {"actions_shape": (0, A), "states_shape": (0, S)}),
        (ValueError, {"actions_shape": (4, A + 1)}),
        (TypeError, {"known": 1}),
        (AttributeError, {"lock": None}),
    ):
        with pytest.raises(error):
            made(**arguments | wrong)
    assert made(**arguments | {"tensor_type": int}) is None, "no table of functions"
    assert np.array_equal(made(**arguments)(*case, None), refiner.run(*case))
