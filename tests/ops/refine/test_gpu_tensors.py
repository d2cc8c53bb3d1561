"""`refine` on a GPU: what it gives on the host, on the device it was called with. Skipped without a GPU."""

import pytest
import torch
from bf16_checks import assert_close
from kernel_checks import make_inputs, make_options, make_program, on_device, traced
from torch import nn

import dtag_fast
from dtag_fast.ops.refine.cuda import CudaExecutor

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

OPTIONS = {
    "defaults": {},
    "adam in a ball": {"optimizer": "adam", "radius": 0.1},
    "mean, unit gradient": {"reduce": "mean", "gradient": "unit"},
    "last": {"select": "last", "steps": 4},
    "no steps": {"steps": 0},
}


class Twin(nn.Module):
    def __init__(self):
        super().__init__()
        # Smooth activations: at a kink of ReLU two roundings may legitimately part.
        self.q1, self.q2 = (
            nn.Sequential(nn.Linear(23, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 1))
            for _ in range(2)
        )

    def forward(self, states, actions):
        inputs = torch.cat([states, actions], -1)
        return self.q1(inputs), self.q2(inputs)


@pytest.fixture
def problem():
    torch.manual_seed(0)
    return Twin(), torch.randn(33, 17), torch.rand(33, 6) * 2 - 1


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_the_device_gives_what_the_host_gives(problem, options):
    critic, states, actions = problem
    host = dtag_fast.refine(critic, states, actions, backend="torch", **options)
    device = dtag_fast.refine(critic.cuda(), states.cuda(), actions.cuda(), **options)
    assert device.is_cuda and device.dtype == actions.dtype
    torch.testing.assert_close(device.cpu(), host, rtol=0, atol=1e-4)


def test_the_call_waits_for_nothing_on_the_host(problem):
    critic, states, actions = problem
    critic, states, actions = critic.cuda(), states.cuda(), actions.cuda()
    refiner = dtag_fast.Refiner(critic)
    refiner(states, actions)  # set-up may wait
    torch.cuda.set_sync_debug_mode("error")
    try:
        refiner(states, actions)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_types_come_back_in_their_type(problem, dtype):
    critic, states, actions = problem
    device = dtag_fast.refine(critic.cuda(), states.cuda().to(dtype), actions.cuda().to(dtype))
    assert device.dtype == dtype and device.is_cuda


def test_a_result_that_is_not_worse_in_q(problem):
    critic, states, actions = problem
    critic, states, actions = critic.cuda(), states.cuda(), actions.cuda()
    _, info = dtag_fast.refine(critic, states, actions, return_info=True)
    assert (info.q_best >= info.q_0).all() and (info.q_best > info.q_0).any()


# What tools/gpu_check.sh runs under compute-sanitizer: few rows and steps, no kernel there but refine's.
@pytest.mark.parametrize(
    ("batch", "options"),
    [(2, {}), (33, {}), (33, {"optimizer": "adam"})],
    ids=["B=2", "B=33", "B=33, adam"],
)
def test_small_batches_give_what_the_host_gives(problem, batch, options):
    critic, states, actions = problem[0], problem[1][:batch], problem[2][:batch]
    host = dtag_fast.refine(critic, states, actions, steps=3, backend="torch", **options)
    device = dtag_fast.refine(critic.cuda(), states.cuda(), actions.cuda(), steps=3, **options)
    torch.testing.assert_close(device.cpu(), host, rtol=0, atol=1e-4)


def test_a_captured_call_follows_its_inputs_and_weights(problem):
    critic, states, actions = problem
    critic, states, actions = critic.cuda(), states.cuda(), actions.cuda()
    refiner, out = dtag_fast.Refiner(critic), torch.empty_like(actions)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(2):
            refiner(states, actions, out=out)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        refiner(states, actions, out=out)

    def assert_replay_is_an_eager_call():
        out.fill_(float("nan"))
        graph.replay()
        eager = dtag_fast.Refiner(critic)(states, actions)
        torch.testing.assert_close(out, eager, rtol=0, atol=1e-6)
        return eager

    before = assert_replay_is_an_eager_call()
    states.copy_(torch.randn_like(states))
    actions.copy_(torch.rand_like(actions) * 2 - 1)
    between = assert_replay_is_an_eager_call()
    assert not torch.equal(before, between)
    with torch.no_grad():
        for parameter in critic.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    refiner.refresh()
    assert not torch.equal(between, assert_replay_is_an_eager_call())


@pytest.mark.parametrize("precision", ["highest", "high", "medium"])
@pytest.mark.parametrize("backend", ["cuda", "triton"])
@pytest.mark.parametrize("batch", [1, 33])
def test_each_backend_is_near_the_reference_in_each_precision(problem, backend, precision, batch):
    critic, states, actions = problem[0], problem[1][:batch], problem[2][:batch]
    host = dtag_fast.refine(critic, states, actions, backend="torch")
    critic, states, actions = critic.cuda(), states.cuda(), actions.cuda()
    reason = dtag_fast.explain(critic, states).reasons.get(backend)
    if reason and "comes first" not in reason:
        pytest.skip(reason)
    device = dtag_fast.refine(critic, states, actions, backend=backend, precision=precision)
    bound = {"highest": 1e-4, "high": 5e-3, "medium": 5e-2}[precision]
    torch.testing.assert_close(device.cpu(), host, rtol=0, atol=bound)


def test_the_explanation_names_the_kernel_and_why_not_the_others(problem):
    critic, states, _ = problem
    answer = dtag_fast.explain(critic.cuda(), states.cuda())
    assert answer.backend == "cuda" and "kernel" in answer.kernel and answer.kernel_reasons


def test_a_critic_elsewhere_than_the_tensors_is_named(problem):
    critic, states, actions = problem
    with pytest.raises(ValueError, match=r"critic's device, cpu, got cuda"):
        dtag_fast.refine(critic, states.cuda(), actions.cuda())
    with pytest.raises(ValueError, match="device"):
        dtag_fast.refine(critic.cuda(), states, actions.cuda())


def test_a_critic_trained_since_the_last_call_is_packed_again(problem):
    critic, states, actions = problem
    critic, states, actions = critic.cuda(), states.cuda(), actions.cuda()
    refiner = dtag_fast.Refiner(critic)
    before = refiner(states, actions)
    optimizer = torch.optim.SGD(critic.parameters(), lr=0.5)
    sum(q.square().mean() for q in critic(states, actions)).backward()
    optimizer.step()
    after = refiner(states, actions)
    assert not torch.equal(before, after)
    assert torch.equal(after, dtag_fast.Refiner(critic)(states, actions))


def test_too_little_memory_is_an_error_that_leaves_the_device_usable(problem):
    critic, states, actions = problem
    critic, states, actions = critic.cuda(), states.cuda(), actions.cuda()
    expected = dtag_fast.refine(critic, states, actions)
    many = 4_000_000
    large = states[:1].expand(many, -1).contiguous(), actions[:1].expand(many, -1).contiguous()
    torch.cuda.empty_cache()
    held = torch.cuda.memory_allocated() / torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(held + 1e-4)
    try:
        with pytest.raises(torch.OutOfMemoryError):
            dtag_fast.refine(critic, *large, return_info="trace")
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert torch.equal(dtag_fast.refine(critic, states, actions), expected)


def test_more_numbers_than_32_bits_can_count():
    rows = 2**31 + 7
    if torch.cuda.mem_get_info()[0] < 3.5 * rows * 4:
        pytest.skip("needs 32 GB of free memory on the device")
    critic = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 1)).cuda()
    states, actions = torch.zeros(rows, 1, device="cuda"), torch.zeros(rows, 1, device="cuda")
    picked = torch.tensor([0, 1, 2**31 - 1, 2**31, rows - 1], device="cuda")
    states[picked, 0] = torch.tensor([0.5, -0.5, 1.0, -1.0, 2.0], device="cuda")
    refiner = dtag_fast.Refiner(critic, steps=2)
    out = refiner(states, actions)
    few = refiner(states[picked], actions[picked])
    torch.testing.assert_close(out[picked], few, rtol=0, atol=1e-6)


KERNELS = [
    ("generic", "fp32"),
    ("latency", "fp32"),
    ("tensor", "bf16"),
    ("tensor", "bf16x3"),
    ("hopper", "bf16"),
]


@pytest.mark.parametrize(("kernel", "precision"), KERNELS)
def test_small_batches_in_each_kernel(kernel, precision):
    core = pytest.importorskip("dtag_fast._C", reason="the compiled module is not built")
    if not hasattr(core, "CudaPlan"):
        pytest.skip("the compiled module was built without CUDA")
    program = make_program(hidden=(64, 48), activations=(("silu", ()),))
    states, actions = make_inputs(program, 70)
    executor = CudaExecutor(on_device(program, "cuda"), make_options(), precision, kernel=kernel)
    if reason := executor.refusal():
        pytest.skip(reason)
    _, info = traced(executor, states, actions, 2, 0.02, "cuda")
    assert_close(program, states, info, "bf16x3" if precision == "fp32" else precision)
