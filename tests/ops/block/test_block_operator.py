"""The registered operators: torch.library's own checks, torch.compile without graph breaks."""

import pytest
import torch
from block_cases import BlockWeights, assert_near, exact, make_block, moved
from kernel_device import DEVICE
from padding_cases import make_padding

from dtag_fast.ops.block import transformer_block


def operator():
    from dtag_fast.ops.block.operator import block_operator

    return block_operator


@pytest.mark.parametrize(("norm", "chosen"), [("post", True), ("pre", False)])
def test_the_operator_passes_the_checks_of_torch(norm, chosen):
    start, length = make_padding("both", 2, 5)
    x, weights = make_block(2, 5, 16)
    rows = torch.tensor([2, 4]) if chosen else None
    x, weights, rows, start, length, seed = moved(DEVICE, x, weights, rows, start, length, torch.tensor([9]))
    leaves = [weight.requires_grad_() for weight in weights]
    p = 0.0 if chosen else 0.2
    torch.library.opcheck(
        operator(), (x.requires_grad_(), leaves, rows, start, length, seed if p else None, 2, norm, "gelu", p)
    )


@pytest.mark.parametrize("backend", ["triton", "composed"])
def test_compiled_without_a_graph_break(backend):
    start, length = make_padding("both", 3, 5)
    x, weights, start, length = moved(DEVICE, *make_block(3, 5, 16), start, length)
    options = {"n_head": 2, "norm": "post", "activation": "gelu", "start": start, "length": length}

    def run(x, weights):
        return transformer_block(x * 1.5, weights, backend=backend, **options)

    x = x.requires_grad_()
    weights = BlockWeights(*(weight.requires_grad_() for weight in weights))
    out = torch.compile(run, fullgraph=True, backend="aot_eager")(x, weights)
    grad = torch.sin(torch.arange(out.numel(), device=DEVICE, dtype=torch.float64)).view(out.shape)
    out.backward(grad.to(out.dtype))
    wanted = exact((x * 1.5).detach(), weights, **options)
    found = {"out": out.detach(), "x": x.grad / 1.5} | {k: w.grad for k, w in weights._asdict().items()}
    assert_near(found, wanted, 1e-5)
