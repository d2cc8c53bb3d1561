"""`refine` on a GPU: what it gives on the host, on the device it was called with. Skipped without a GPU."""

import threading

import pytest
import torch
from bf16_checks import assert_close
from kernel_cases import make_inputs, make_options, make_program, on_device, traced
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


def on_gpu(problem, rows=33):
    critic, states, actions = problem
    return critic.cuda(), states[:rows].cuda(), actions[:rows].cuda()


def changed(critic):
    with torch.no_grad():
        critic.q1[0].weight.mul_(1.1)


def compiled_way(refiner, *case):
    """The result of a repeated call, which must be one that runs in compiled code."""
    if not hasattr(next(iter(refiner._bindings)).executor, "prepare_call"):
        pytest.skip("the triton backend has no compiled way")
    result = refiner._prepared(*case, None)
    assert result is not None
    return result


@pytest.mark.parametrize("precision", ["highest", "medium"])
@pytest.mark.parametrize("rows", [1, 33])
def test_a_repeated_call_gives_the_same_bits(problem, rows, precision):
    critic, states, actions = on_gpu(problem, rows)
    refiner = dtag_fast.Refiner(critic, precision=precision)
    expected = refiner(states, actions)
    assert torch.equal(compiled_way(refiner, states, actions), expected)
    out = torch.empty_like(actions)
    assert refiner(states, actions, out=out) is out and torch.equal(out, expected)
    changed(critic)
    assert refiner._prepared(states, actions, None) is None
    assert torch.equal(
        refiner(states, actions), dtag_fast.refine(critic, states, actions, precision=precision)
    )
    for other in (states.cpu(), states.double(), states.half(), states[:, :-1]):
        assert refiner._prepared(other, actions, None) is None


def test_a_repeated_call_checks_the_default_bounds_when_asked(problem, monkeypatch):
    critic, states, actions = on_gpu(problem)
    refiner = dtag_fast.Refiner(critic)
    refiner(states, actions)
    compiled_way(refiner, states, actions)
    monkeypatch.setenv("DTAG_CHECK", "1")
    with pytest.raises(ValueError, match="default bounds"):
        refiner(states, actions * 3)


def test_torch_tells_compiled_code_the_current_stream(problem):
    critic, states, actions = on_gpu(problem)
    refiner = dtag_fast.Refiner(critic)
    refiner(states, actions)
    compiled_way(refiner, states, actions)
    (binding,) = refiner._bindings
    assert binding.executor._streams._told, "calls are slower where it is asked through Python"


def test_streams_and_threads_share_a_refiner(problem):
    """Long work in front of each packing and call: what does not wait is wrong."""
    critic, states, actions = on_gpu(problem)
    refiner = dtag_fast.Refiner(critic)
    busy = torch.randn(2000, 2000, device="cuda")
    weights = [critic.q1[0].weight.detach() * scale for scale in (1.0, 1.5)]
    expected = []
    for weight in weights:
        critic.q1[0].weight = nn.Parameter(weight)
        expected.append(refiner(states, actions))
    torch.cuda.synchronize()
    right = []

    def work():
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            for _ in range(50):
                busy @ busy
                result = refiner(states, actions)
                stream.synchronize()
                right.append(any(torch.equal(result, e) for e in expected))

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    parameters, i = [nn.Parameter(weight) for weight in weights], 0
    while any(thread.is_alive() for thread in threads):
        critic.q1[0].weight = parameters[(i := i + 1) % 2]
        busy @ busy
        refiner.binding(17, 6, states.device)
    for thread in threads:
        thread.join()
    assert len(right) == 150 and all(right)


def test_packing_again_waits_for_nothing_on_the_host(problem):
    critic, states, actions = on_gpu(problem)
    refiner, side = dtag_fast.Refiner(critic), torch.cuda.Stream()
    refiner(states, actions)
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        refiner(states, actions)
    torch.cuda.set_sync_debug_mode("error")
    try:
        changed(critic)
        refiner(states, actions)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_settings_per_row_from_the_host_are_copied_once(problem):
    critic, states, actions = on_gpu(problem)
    refiner = dtag_fast.Refiner(critic)
    steps, lr = [i % 5 for i in range(33)], [0.01 * i for i in range(33)]
    expected = refiner.run(states, actions, steps=steps, lr=lr)
    torch.cuda.set_sync_debug_mode("error")
    try:
        again = refiner.run(states, actions, steps=steps, lr=lr)
        other = refiner.run(states, actions, steps=steps, lr=lr[::-1])
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(again, expected) and not torch.equal(other, expected)
    on_device = refiner.run(states, actions, steps=torch.tensor(steps).cuda(), lr=torch.tensor(lr).cuda())
    assert torch.equal(on_device, expected)


def capture(call):
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph


def test_a_first_call_or_new_weights_in_a_capture_are_refused(problem):
    critic, states, actions = on_gpu(problem)
    refiner, out = dtag_fast.Refiner(critic), torch.empty_like(actions)
    with pytest.raises(RuntimeError, match="not while a CUDA graph is captured, because"):
        capture(lambda: refiner(states, actions, out=out))
    refiner = dtag_fast.Refiner(critic)
    expected = refiner(states, actions)
    graph = capture(lambda: refiner(states, actions, out=out))
    graph.replay()
    assert torch.equal(out, expected)
    changed(critic)
    with pytest.raises(RuntimeError, match="captured, because the critic's weights"):
        capture(lambda: refiner(states, actions, out=out))
    after = refiner(states, actions)
    graph.replay()
    assert torch.equal(out, after), "the graph sees new weights once they are packed"


def test_reduce_overhead_needs_no_call_before_and_follows_the_weights(problem):
    critic, states, actions = on_gpu(problem)
    refine = torch.compile(
        lambda s, a: dtag_fast.refine(critic, s, a * 0.5) + 1, fullgraph=True, mode="reduce-overhead"
    )
    for _ in range(3):
        for _ in range(4):  # warm-up, recording, replays
            result = refine(states, actions).clone()
            assert torch.equal(result, dtag_fast.refine(critic, states, actions * 0.5) + 1)
        changed(critic)


def test_weights_first_packed_in_inference_mode_can_be_packed_again(problem):
    critic, states, actions = on_gpu(problem)
    refiner = dtag_fast.Refiner(critic)
    with torch.inference_mode():
        refiner(states, actions)
    changed(critic)
    assert torch.equal(refiner(states, actions), dtag_fast.refine(critic, states, actions))
