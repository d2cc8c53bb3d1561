"""Policy and training steps on the CPU against the same network written the usual way, taking turns."""

import os

import pytest
import torch
from torch.nn import functional as F

from dtag_fast.algorithms.lamb import clip_
from dtag_fast.algorithms.losses import masked_mse
from dtag_fast.models import DecisionTransformer, DecisionTransformerConfig, Decoder
from dtag_fast.ops.attention import Padding

from .interleave import cores, measure
from .peers.sequence import PlainDecisionTransformer

STATE_DIM, ACTION_DIM, CONTEXT_LEN = 17, 6, 20
LATER, FIRST = "dtag_fast, later steps", "dtag_fast, first K steps"
# The same network and what it keeps, operator by operator.
KEPT, YOUNG = "by PyTorch's operators, later steps", "by PyTorch's operators, first K steps"
ACT, WHOLE = "by PyTorch's operators, whole window", "the same, every row of every block"
PLAIN = "the network as usually written"
WANTED = {LATER: 1.45}  # times as fast as every row of every block


def network(kind: type[DecisionTransformer], dropout: float = 0.1) -> DecisionTransformer:
    """d=128, 3 layers, one head, K=20."""
    torch.manual_seed(0)
    sizes = {"state_dim": STATE_DIM, "action_dim": ACTION_DIM, "context_len": CONTEXT_LEN}
    return kind(DecisionTransformerConfig(**sizes, d_model=128, n_layer=3, n_head=1, dropout=dropout))


def windows(batch: int) -> tuple[torch.Tensor, ...]:
    """States, actions, returns, timesteps and mask of full windows."""
    g = torch.Generator().manual_seed(1)
    states, returns = (
        torch.randn(batch, CONTEXT_LEN, STATE_DIM, generator=g),
        torch.ones(batch, CONTEXT_LEN, 1),
    )
    actions = torch.rand(batch, CONTEXT_LEN, ACTION_DIM, generator=g) * 2 - 1
    times = torch.arange(CONTEXT_LEN).repeat(batch, 1)
    return states, actions, returns, times, torch.ones(batch, CONTEXT_LEN, dtype=torch.bool)


@pytest.mark.parametrize("batch", [1, 8, 64], ids="B={}".format)
def test_policy_step(benchmark, request, batch: int):
    model, plain = network(DecisionTransformer).eval(), network(PlainDecisionTransformer).eval()
    inputs = windows(batch)
    decoder = Decoder(model, batch)
    decoder.refill(*inputs[:4])
    new = inputs[1][:, -1], inputs[0][:, -1], inputs[2][:, -1]
    late, early = torch.full((batch,), CONTEXT_LEN), torch.full((batch,), CONTEXT_LEN // 2)

    def whole():
        hidden = model.transformer(model.embed(*inputs[:4]), Padding())
        return model.bounded(model.action_head(hidden[:, -1]))

    def usual():
        hidden = plain.hidden(*inputs, ("state",), None)
        return plain.bounded(plain.action_head(hidden[:, -1, 0]))

    calls = {
        LATER: lambda: decoder.act(None, late, *new)[0],
        FIRST: lambda: decoder.act(None, early, *new)[0],
        KEPT: lambda: decoder.slide(None, late, *new, all_full=True)[0],
        YOUNG: lambda: decoder.decode(None, early, *new)[0],
        ACT: lambda: model.act(*inputs)[0],
        WHOLE: whole,
        PLAIN: usual,
    }
    with cores(1), torch.inference_mode():
        for name in (WHOLE, PLAIN):
            torch.testing.assert_close(calls[ACT](), calls[name](), rtol=1e-4, atol=1e-5)
        for one, other in ((LATER, KEPT), (FIRST, YOUNG)):
            torch.testing.assert_close(calls[one](), calls[other](), rtol=1e-4, atol=1e-5)
        measured = measure(calls, seconds=request.config.getoption("seconds"))
        benchmark(calls[LATER])
    benchmark.extra_info |= {
        "batch": batch,
        "threads": 1,
        "reference": WHOLE,
        "variants": measured,
        "wanted_ratio": WANTED,
    }


@pytest.mark.parametrize("dropout", [0.0, 0.1], ids="dropout={}".format)
def test_training_step(benchmark, request, dropout: float):
    """Forward, loss, backward, clipping and AdamW of 64 windows."""
    threads = min(2, len(os.sched_getaffinity(0)))
    inputs = windows(64)

    def step_of(model: DecisionTransformer):
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
        generator = torch.Generator().manual_seed(0)

        def step() -> torch.Tensor:
            loss = masked_mse(model(*inputs, generator=generator).actions, inputs[1], inputs[-1])
            loss.backward()
            clip_([p.grad for p in model.parameters()], 0.25)
            optimizer.step()
            optimizer.zero_grad()
            return loss.detach()

        return step

    ours, plain = "dtag_fast", "the same network on SDPA"
    kinds = {ours: DecisionTransformer, plain: PlainDecisionTransformer}
    with cores(threads):
        calls = {name: step_of(network(kind, dropout).train()) for name, kind in kinds.items()}
        losses = [torch.stack([call() for _ in range(10)]).mean() for call in calls.values()]
        assert F.l1_loss(*losses) < (0.05 if dropout else 1e-4) * losses[0]
        measured = measure(calls, seconds=2 * request.config.getoption("seconds"))
        benchmark(calls[ours])
    benchmark.extra_info |= {
        "batch": 64,
        "threads": threads,
        "reference": ours,
        "variants": measured,
        "wanted_ratio": {plain: 1.0},
    }
