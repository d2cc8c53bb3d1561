"""Attention, tokens and blocks on a GPU against the usual ways. `--device cpu` is a dry run.

Times as in test_refine_gpu.py: from the call to the result, waited for; and back to back on the device.
"""

from collections.abc import Callable
from contextlib import nullcontext

import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from dtag_fast.models import DecisionTransformer, DecisionTransformerConfig
from dtag_fast.models.transformer import Block
from dtag_fast.ops.attention import Padding, attention, choose_backend

from .interleave import measure
from .peers import cuda_graph
from .peers.sequence import gpt2, heads, sdpa, seen
from .variants import Call, LeftOut, device_time, prepare_each

BATCHES, CONTEXTS = (64, 4096, 1, 1024), (20, 5, 50, 100)  # what matters most comes first
DRY_RUN = (1, 5)  # batch, steps
WIDTH = 128  # one head
SDPA_BACKENDS = {
    "SDPA": None,
    "SDPA, efficient": SDPBackend.EFFICIENT_ATTENTION,
    "SDPA, cuDNN": SDPBackend.CUDNN_ATTENTION,
    "SDPA, math": SDPBackend.MATH,
}
FLEX_CONTEXT = 20  # it compiles for each shape
TOLERANCE = {torch.bfloat16: 2e-2, torch.float32: 5e-3}  # of the largest number; float32 may be tf32


def on_device(request, *shape: int) -> torch.device:
    """The device to run on; skips what does not run there."""
    device = torch.device(request.config.getoption("device"))
    if device.type == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device; --device cpu runs it dry")
    if device.type == "cpu" and any(size > most for size, most in zip(shape, DRY_RUN, strict=False)):
        pytest.skip("the dry run has small shapes only")
    return device


def report(benchmark, request, makers: dict[str, Callable[[], Call]], reference: str, **about) -> None:
    """Prepare, compare and time the variants; `reference` is the one the others are compared with."""
    calls, left_out = prepare_each(makers, request.config.getoption("prepare_seconds"))
    assert reference in calls, left_out
    for name, reason in left_out.items():
        print(f"{benchmark.name}: {name} left out: {reason}")
    on_cuda = request.config.getoption("device") == "cuda"
    finish = torch.cuda.synchronize if on_cuda else (lambda: None)
    waited = {name: lambda call=call: (call(), finish()) for name, call in calls.items()}
    benchmark.extra_info |= {
        "reference": reference,
        "variants": measure(waited, seconds=request.config.getoption("seconds"), min_rounds=5),
        "left_out": left_out,
        **about,
    }
    if on_cuda:
        benchmark.extra_info["device"] = {name: device_time(call) for name, call in calls.items()}
        benchmark.extra_info["device_name"] = torch.cuda.get_device_name()
    benchmark(waited[reference])


def flex(start: Tensor, batch: int, tokens: int) -> Callable[[Tensor], Tensor]:
    """FlexAttention with the same mask, compiled."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    def visible(b, h, q, k):
        return ((q >= k) & (k >= start[b])) | (q == k)

    mask = create_block_mask(visible, batch, None, tokens, tokens, device=start.device)
    compiled = torch.compile(flex_attention, dynamic=False)
    return lambda qkv: compiled(*heads(qkv), block_mask=mask).transpose(1, 2).flatten(2)


def attention_makers(
    qkv: Tensor, start: Tensor, steps: int, backward: bool, with_compile: bool
) -> dict[str, Callable[[], Call]]:
    """name -> what prepares that variant; the call returns the output, or the gradient of qkv."""
    batch, tokens = qkv.shape[:2]
    mask, real = seen(start, tokens), torch.arange(tokens, device=start.device) >= start[:, None]
    grad = torch.randn(batch, tokens, WIDTH, device=qkv.device).to(qkv.dtype) * real[..., None]
    leaf = qkv.detach().requires_grad_(backward)
    ours = attention(leaf, start=start).detach()

    def call_of(function: Callable[[Tensor], Tensor], context=nullcontext) -> Call:
        def call():
            with context():
                out = function(leaf)
                return torch.autograd.grad(out, leaf, grad)[0] if backward else out

        return call

    def checked(function: Callable[[Tensor], Tensor], context=nullcontext) -> Callable[[], Call]:
        def make() -> Call:
            with context():
                out = function(leaf).detach()
            error = ((out - ours) * real[..., None]).abs().max() / ours.abs().max()
            if not error < TOLERANCE[qkv.dtype]:
                raise LeftOut(f"its output differs by {error:.2g} of the largest number")
            return call_of(function, context)

        return make

    def by(kernel: SDPBackend | None):
        return nullcontext if kernel is None else lambda: sdpa_kernel(kernel)

    found = {
        "dtag_fast": checked(lambda x: attention(x, start=start)),
        "attention of GPT-2": checked(lambda x: gpt2(x, mask)),
    }
    for name, kernel in SDPA_BACKENDS.items():
        found[name] = checked(lambda x: sdpa(x, mask), by(kernel))
    if with_compile and steps == FLEX_CONTEXT and qkv.is_cuda:
        found["FlexAttention"] = lambda: checked(flex(start, batch, tokens))()
    if with_compile and steps == FLEX_CONTEXT:
        found["attention of GPT-2, compiled"] = lambda: checked(
            torch.compile(lambda x: gpt2(x, mask), dynamic=False)
        )()
    if qkv.is_cuda and not backward:
        found["dtag_fast, CUDA graph"] = lambda: cuda_graph.capture(found["dtag_fast"]())
        found["SDPA, CUDA graph"] = lambda: cuda_graph.capture(found["SDPA"]())
    return found


@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
@pytest.mark.parametrize("passes", ["forward", "both"])
@pytest.mark.parametrize("steps", CONTEXTS, ids="K={}".format)
@pytest.mark.parametrize("batch", BATCHES, ids="B={}".format)
def test_attention_gpu(benchmark, request, batch: int, steps: int, passes: str, dtype: str):
    """Left padding of random length, one head of 128, three tokens a step."""
    device = on_device(request, batch, steps)
    if dtype == "fp32" and steps != FLEX_CONTEXT and device.type == "cuda":
        pytest.skip(f"float32 is timed at K={FLEX_CONTEXT} alone")
    g, tokens = torch.Generator().manual_seed(0), 3 * steps
    kind = {"bf16": torch.bfloat16, "fp32": torch.float32}[dtype]
    qkv = torch.randn(batch, tokens, 3, 1, WIDTH, generator=g).to(device, kind)
    start = 3 * torch.randint(0, steps, (batch,), generator=g).to(device)
    with_compile = not request.config.getoption("without_compile")
    makers = attention_makers(qkv, start, steps, passes == "both", with_compile)
    flops = 2 * 2 * batch * tokens * tokens * WIDTH * (3.5 if passes == "both" else 1)
    about = {"batch": batch, "steps": steps, "flops": flops, "explain": ": ".join(choose_backend(qkv))}
    about["precisions"] = dict.fromkeys(makers, dtype)
    report(benchmark, request, makers, "dtag_fast", **about)


def passes_of(forward: Callable[[], Tensor], leaves: list[Tensor], backward: bool) -> Call:
    """Forward without autograd, or forward and the gradients of `leaves`."""

    def call():
        if not backward:
            with torch.no_grad():
                return forward()
        out = forward()
        return torch.autograd.grad(out, leaves, torch.ones_like(out))

    return call


def ways(module_call: Callable[[], Tensor], leaves: list[Tensor], backward: bool, device, with_compile: bool):
    """The usual way as it is, compiled, and as a CUDA graph: name -> what prepares it."""
    found = {"PyTorch's operators": lambda: passes_of(module_call, leaves, backward)}
    if with_compile:
        found["PyTorch's operators, compiled"] = lambda: passes_of(
            torch.compile(module_call, dynamic=False), leaves, backward
        )
    if device.type == "cuda":
        found["PyTorch's operators, CUDA graph"] = lambda: cuda_graph.capture(
            passes_of(module_call, leaves, backward)
        )
    return found


@pytest.mark.parametrize("passes", ["both", "forward"])
@pytest.mark.parametrize("batch", [64, 4096, 1], ids="B={}".format)
def test_embedding_gpu(benchmark, request, batch: int, passes: str):
    """The tokens of windows of 20 steps: 17 states, 6 actions, 128 wide, a table of 4096 timesteps."""
    device, backward = on_device(request, batch), passes == "both"
    config = DecisionTransformerConfig(state_dim=17, action_dim=6)
    model, g = DecisionTransformer(config).to(device), torch.Generator().manual_seed(0)
    states, actions = (torch.randn(batch, 20, size, generator=g).to(device) for size in (17, 6))
    returns = torch.randn(batch, 20, 1, generator=g).to(device)
    times = (torch.randint(0, 900, (batch, 1), generator=g) + torch.arange(20)).to(device)
    layers = (
        model.embed_timestep,
        model.embed_return,
        model.embed_state,
        model.embed_action,
        model.embed_norm,
    )
    leaves = [p for layer in layers for p in layer.parameters()]

    def operators() -> Tensor:
        kinds = model.embed_return(returns), model.embed_state(states), model.embed_action(actions)
        tokens = torch.stack(kinds, dim=2) + model.embed_timestep(times)[:, :, None]
        return model.embed_norm(tokens.flatten(1, 2)[:, :-1])

    def ours() -> Call:
        return passes_of(lambda: model.embed(states, actions, returns, times), leaves, backward)

    makers = {"dtag_fast": ours}
    if device.type == "cuda":
        makers["dtag_fast, CUDA graph"] = lambda: cuda_graph.capture(ours())
    with_compile = not request.config.getoption("without_compile")
    makers |= ways(operators, leaves, backward, device, with_compile)
    report(benchmark, request, makers, "dtag_fast", batch=batch, precisions=dict.fromkeys(makers, "fp32"))


@pytest.mark.parametrize("passes", ["both", "forward"])
@pytest.mark.parametrize("shape", [(60, 128, 1), (15, 256, 8)], ids="{0[0]}x{0[1]}x{0[2]}".format)
@pytest.mark.parametrize("batch", [64, 4096, 1, 512], ids="B={}".format)
def test_block_gpu(benchmark, request, batch: int, shape: tuple[int, int, int], passes: str):
    """A block in bf16, LayerNorm after, left padding: Decision Transformer's and Reinformer's shapes."""
    device, backward = on_device(request, batch), passes == "both"
    tokens, width, heads_of = shape
    block = Block(width, heads_of, 0.0, "post", "gelu").to(device, torch.bfloat16)
    g = torch.Generator().manual_seed(0)
    x = torch.randn(batch, tokens, width, generator=g).to(device, torch.bfloat16).requires_grad_(backward)
    padding = Padding(torch.randint(0, tokens, (batch,), generator=g).to(device))
    leaves = [x, *block.parameters()]

    def as_asked(backend: str) -> Callable[[], Call]:
        def make() -> Call:
            def forward() -> Tensor:
                block.backend = backend
                return block(x, padding)

            return passes_of(forward, leaves, backward)

        return make

    def operators() -> Tensor:
        block.backend = "sdpa"
        return block(x, padding)

    unfused = "triton" if device.type == "cuda" else "sdpa"
    makers = {"dtag_fast, attention alone": as_asked(unfused)}
    if device.type == "cuda":
        makers["dtag_fast, fused"] = as_asked("fused")
        makers["dtag_fast, fused, CUDA graph"] = lambda: cuda_graph.capture(as_asked("fused")())
        makers["dtag_fast, attention alone, CUDA graph"] = lambda: cuda_graph.capture(as_asked("triton")())
    with_compile = not request.config.getoption("without_compile")
    makers |= ways(operators, leaves, backward, device, with_compile and batch in (64, 4096))
    reference = "dtag_fast, fused" if device.type == "cuda" else "dtag_fast, attention alone"
    report(benchmark, request, makers, reference, batch=batch, precisions=dict.fromkeys(makers, "bf16"))
