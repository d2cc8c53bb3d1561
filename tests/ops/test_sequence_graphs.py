"""Attention, blocks and models with gradients in a CUDA graph: replays see new numbers in the same memory."""

import pytest
import torch

from dtag_fast.models import DecisionTransformer, DecisionTransformerConfig
from dtag_fast.models.transformer import Block
from dtag_fast.ops.attention import Padding, attention

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
BATCH, TOKENS, WIDTH = 5, 20, 64


def captured(work):
    """The graph of `work`, warmed up on a side stream as PyTorch asks."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            work()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = work()
    return graph, results


def same_after_a_replay(work, inputs):
    """The graph's results for other numbers in `inputs` are those of a call."""
    graph, results = captured(work)
    for x in inputs:
        x.detach().normal_()
    graph.replay()
    for found, wanted in zip(results, work(), strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=0)


@pytest.mark.parametrize("p", [0.0, 0.2])
def test_attention_in_a_graph(p):
    qkv = torch.randn(BATCH, TOKENS, 3, 2, WIDTH // 2, device="cuda", requires_grad=True)
    start = torch.tensor([0, 3, 7, 19, 20], device="cuda")
    seed = torch.tensor([5], device="cuda") if p else None

    def work():
        out = attention(qkv, start=start, dropout_p=p, seed=seed, backend="triton")
        return out, *torch.autograd.grad(out.square().sum(), qkv)

    same_after_a_replay(work, [qkv])


@pytest.mark.parametrize("norm", ["post", "pre"])
def test_a_fused_block_in_a_graph(norm):
    block = Block(WIDTH, 2, 0.0, norm, "gelu").cuda()
    block.backend = "fused"
    x = torch.randn(BATCH, TOKENS, WIDTH, device="cuda", requires_grad=True)
    padding = Padding(torch.tensor([0, 3, 7, 19, 20], device="cuda"))

    def work():
        out = block(x, padding)
        return out, *torch.autograd.grad(out.square().sum(), (x, *block.parameters()))

    same_after_a_replay(work, [x])


def test_a_model_in_a_graph():
    config = DecisionTransformerConfig(state_dim=3, action_dim=2, context_len=6, d_model=32, dropout=0.0)
    model = DecisionTransformer(config).cuda()
    states, actions = torch.randn(4, 6, 3, device="cuda"), torch.randn(4, 6, 2, device="cuda")
    returns, times = torch.randn(4, 6, 1, device="cuda"), torch.arange(6, device="cuda").repeat(4, 1)
    mask = torch.arange(6, device="cuda") < torch.tensor([[6], [4], [1], [6]], device="cuda")

    def work():
        out = model(states, actions, returns, times, mask).actions
        return out, *torch.autograd.grad(out.square().sum(), [p for p in model.parameters()])

    same_after_a_replay(work, [states, actions, returns])
