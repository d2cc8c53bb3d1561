"""One model on every backend of attention: the same weights, the same outputs, the same learning curve."""

import pytest
import torch
from kernel_device import DEVICE

from dtag_fast.models import (
    DecisionTransformer,
    DecisionTransformerConfig,
    Reinformer,
    ReinformerConfig,
    transformer,
)
from dtag_fast.ops.attention import Padding

B, K, S, A = 4, 4, 3, 2
STYLES = {
    "dt": (DecisionTransformer, DecisionTransformerConfig, {"padding": "right"}),
    "gpt2": (
        DecisionTransformer,
        DecisionTransformerConfig,
        {"norm": "pre", "activation": "relu", "padding": "left"},
    ),
    "reinformer": (Reinformer, ReinformerConfig, {"padding": "right"}),
}


def make(style: str, n_layer: int = 2, n_head: int = 2):
    torch.manual_seed(3)
    model, config, options = STYLES[style]
    sizes = {"state_dim": S, "action_dim": A, "context_len": K, "max_timestep": 30, "dropout": 0.0}
    return model(config(**sizes, d_model=32, n_layer=n_layer, n_head=n_head, **options)).to(DEVICE)


def batch(padding: str, seed: int = 0):
    g = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, K + 1, (B, 1), generator=g)
    lengths[0] = K
    mask = torch.arange(K) < lengths if padding == "right" else torch.arange(K) >= K - lengths
    states, actions = torch.randn(B, K, S, generator=g), torch.rand(B, K, A, generator=g) * 2 - 1
    times = torch.randint(0, 30, (B, K), generator=g)
    returns = states.sum(-1, keepdim=True) + actions.sum(-1, keepdim=True)
    return [x.to(DEVICE) for x in (states, actions, returns, times, mask)]


def loss_of(model, inputs):
    out, mask = model(*inputs), inputs[-1][..., None]
    loss = ((out.actions - inputs[1]) * mask).square().sum() / mask.sum()
    if out.returns is not None:
        loss = loss + ((out.returns - inputs[2]) * mask).square().sum() / mask.sum()
    return loss


@pytest.mark.parametrize("kernels", ["triton", "fused"])
@pytest.mark.parametrize("style", STYLES)
def test_outputs_gradients_and_weights_do_not_depend_on_the_backend(style, kernels):
    inputs = batch(STYLES[style][2]["padding"])
    found = {}
    for backend in ("sdpa", kernels):
        model = make(style)
        model.load_state_dict(make(style).state_dict())
        model.attention = backend
        loss = loss_of(model, inputs)
        loss.backward()
        gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        actions = model(*inputs).actions[inputs[-1]]
        found[backend] = loss.detach(), actions.detach(), gradients, model.eval().act(*inputs)
    (loss_a, actions_a, gradients_a, acted_a), (loss_b, actions_b, gradients_b, acted_b) = found.values()
    torch.testing.assert_close(loss_a, loss_b, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(actions_a, actions_b, rtol=1e-5, atol=1e-5)
    assert gradients_a.keys() == gradients_b.keys()
    for name, gradient in gradients_a.items():
        torch.testing.assert_close(gradient, gradients_b[name], rtol=1e-4, atol=1e-5, msg=name)
    for a, b in zip(acted_a, acted_b, strict=True):
        assert a is b is None or torch.allclose(a, b, rtol=1e-5, atol=1e-5)


def test_a_fused_block_drops_by_the_generator():
    inputs, losses = batch("right"), []
    for seed in (0, 0, 1):
        model = make("dt").train()
        for block in model.transformer.blocks:
            block.dropout = 0.3
        model.attention = "fused"
        generator = torch.Generator(DEVICE).manual_seed(seed)
        losses.append(model(*inputs, generator=generator).actions.detach().square().sum().item())
    assert losses[0] == losses[1] != losses[2]


def test_fused_blocks_are_explained():
    model = make("dt")
    model.attention = "fused"
    assert model.explain().endswith("blocks: fused, one launch forward and one backward")


def test_autocast_is_a_reason_against_fused_blocks(monkeypatch):
    monkeypatch.setattr(transformer, "choose_backend", lambda *_: ("triton", ""))
    block, x = make("dt").transformer.blocks[0], torch.zeros(1, 5, 32, device=DEVICE)
    assert block.why_not_fused(x) is None
    with torch.autocast(DEVICE, torch.bfloat16):
        assert block.why_not_fused(x) == "autocast is on, which casts for each operator"
        assert block(x, Padding()).isfinite().all()


# In the interpreter as many updates as show that the curves stay together.
@pytest.mark.parametrize(
    ("kernels", "updates"),
    [("triton", 200), ("fused", 200)] if DEVICE == "cuda" else [("triton", 50), ("fused", 6)],
)
def test_training_with_the_kernels_follows_that_with_the_reference(kernels, updates):
    curves = {}
    for backend in ("reference", kernels):
        model = make("dt", n_layer=1, n_head=1)
        model.attention = backend
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
        curve = []
        for step in range(updates):
            loss = loss_of(model, batch("right", seed=step % 20))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            curve.append(loss.detach())
        curves[backend] = torch.stack(curve).double()
    difference = (curves[kernels] - curves["reference"]).abs() / curves["reference"]
    assert difference[:50].max() < 1e-4 and difference.max() < 5e-2
    if updates == 200:
        ends = {backend: (curve[:20].mean(), curve[-20:].mean()) for backend, curve in curves.items()}
        assert all(last < 0.5 * first for first, last in ends.values()), ends
