"""The registered operators: torch.library's own checks, torch.compile without graph breaks."""

from functools import partial

import pytest
import torch
from attention_cases import assert_near, exact, make_qkv
from kernel_device import DEVICE
from padding_cases import make_padding

from dtag_fast.ops.attention import attention


def operator():
    from dtag_fast.ops.attention.operator import attention_operator

    return attention_operator


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("p", [0.0, 0.2])
def test_the_operator_passes_the_checks_of_torch(packed, p):
    start, length = (x.to(DEVICE) for x in make_padding("both", 2, 7))
    qkv = make_qkv(2, 7, 2, 16).to(DEVICE)
    seed = torch.tensor([9], device=DEVICE) if p else None
    if packed:
        arguments = (qkv.requires_grad_(), None, None, start, length, seed, p, 0.25)
    else:
        rows = torch.tensor([2, 5], device=DEVICE)
        q = qkv[:, rows, 0].clone().requires_grad_()
        arguments = (qkv[:, :, 1:].clone().requires_grad_(), q, rows, start, length, seed, p, 0.25)
    torch.library.opcheck(operator(), arguments)


@pytest.mark.parametrize("backend", ["triton", "sdpa"])
def test_compiled_without_a_graph_break(backend):
    start, length = (x.to(DEVICE) for x in make_padding("both", 3, 8))
    qkv = make_qkv(3, 8, 2, 16).to(DEVICE)
    rows = torch.tensor([1, 4, 7], device=DEVICE)
    options = {"start": start, "length": length, "queries": rows}

    def loss(x):
        out = attention(x * 1.5, backend=backend, **options)
        return out, (out * torch.sin(torch.arange(out.numel(), device=DEVICE)).view(out.shape)).sum()

    leaf = qkv.clone().requires_grad_()
    out, value = torch.compile(loss, fullgraph=True, backend="aot_eager")(leaf)
    value.backward()
    wanted_out, wanted_grad = exact(qkv * 1.5, **options)
    assert_near((out.detach().double(), leaf.grad.double()), (wanted_out, 1.5 * wanted_grad), 1e-5)


@pytest.mark.parametrize("backend", ["triton", "sdpa", "reference"])
def test_dropout_compiles_with_a_seed_or_the_global_generator(backend):
    qkv = make_qkv(2, 8, 1, 16).to(DEVICE)
    seed = torch.tensor([3], device=DEVICE)

    def compiled(**source):
        torch._dynamo.reset()
        call = partial(attention, backend=backend, dropout_p=0.3, **source)
        return torch.compile(lambda x: call(x), fullgraph=True, backend="aot_eager")

    same = attention(qkv, backend=backend, dropout_p=0.3, seed=seed)
    torch.testing.assert_close(compiled(seed=seed)(qkv), same, rtol=1e-5, atol=1e-6)
    drawn = compiled()
    assert not torch.equal(drawn(qkv), drawn(qkv))
    with pytest.raises(Exception, match=r"generator: not taken under torch\.compile"):
        compiled(generator=torch.Generator(DEVICE))(qkv)
