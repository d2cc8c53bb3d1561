"""Critics, inputs and options for the checks of kernels, and one call of an executor on them.

`make(program, options, precision="fp32")`, which the checks take, builds the executor under test; `device` is
where it runs. Inputs and results of `traced` are on the host.
"""

import numpy as np
import torch

from dtag_fast.ops.refine.executor import InfoBuffers
from dtag_fast.ops.refine.options import RefineOptions
from dtag_fast.ops.refine.program import Activation, CriticProgram, LayerNorm, Linear

ACTIVATIONS = [
    ("identity", ()),
    ("relu", ()),
    ("leaky_relu", (0.1,)),
    ("elu", (0.7,)),
    ("gelu", ()),
    ("gelu_tanh", ()),
    ("silu", ()),
    ("mish", ()),
    ("tanh", ()),
    ("softplus", (1.5, 20.0)),
]


def make_member(generator, inputs, hidden, activations=(("relu", ()),), norm=None):
    """Linear [LayerNorm] Activation ... Linear; `norm` is None, "affine" or "plain"."""
    layers = []

    def draw(*shape):
        return torch.rand(shape, generator=generator) * 2 - 1

    for width in hidden:
        layers.append(Linear(draw(width, inputs) * (3 / inputs) ** 0.5, draw(width) * 0.3))
        if norm:
            affine = (1 + 0.5 * draw(width), draw(width)) if norm == "affine" else (None, None)
            layers.append(LayerNorm(width, *affine))
        layers += [Activation(*a) for a in activations]
        inputs = width
    layers.append(Linear(draw(1, inputs) * (3 / inputs) ** 0.5, draw(1)))
    return tuple(layers)


def make_program(seed=0, state=17, action=6, hidden=(64, 40), members=2, **kwargs):
    generator = torch.Generator().manual_seed(seed)
    return CriticProgram(
        state,
        action,
        tuple(make_member(generator, state + action, hidden, **kwargs) for _ in range(members)),
    )


def mixed_members():
    """A program whose members differ in depth, widths and activations."""
    generator = torch.Generator().manual_seed(3)
    members = (
        make_member(generator, 12, (40, 50)),
        make_member(generator, 12, (9,), activations=(("tanh", ()),), norm="affine"),
        make_member(generator, 12, ()),
        make_member(generator, 12, (33, 64, 35), activations=(("relu", ()), ("elu", (1.0,)), ("relu", ()))),
    )
    return CriticProgram(8, 4, members)


def make_inputs(program, batch, candidates=1, seed=1):
    generator = torch.Generator().manual_seed(seed)
    states = torch.randn(batch, program.state_dim, generator=generator)
    return states, torch.rand(batch, candidates, program.action_dim, generator=generator) * 2 - 1


def make_options(action=6, **kwargs):
    box = {"low": np.full(action, -1, np.float32), "high": np.full(action, 1, np.float32)}
    return RefineOptions(**(box | kwargs))


def moved(x, device):
    """A number or tensor on the device; the caller's own tensor is left alone."""
    return x.to(device) if torch.is_tensor(x) else x


def on_device(program, device):
    """The program with its weights on the device."""

    def layer(x):
        if isinstance(x, Activation):
            return x
        weight, bias = (None if t is None else t.to(device) for t in (x.weight, x.bias))
        return Linear(weight, bias) if isinstance(x, Linear) else LayerNorm(x.width, weight, bias, x.eps)

    members = tuple(tuple(map(layer, layers)) for layers in program.members)
    return CriticProgram(program.state_dim, program.action_dim, members, program.reduction)


def traced(executor, states, actions, steps, lr, device="cpu", **reach):
    """out (B, A) and all details of one call, on the host. reach: scale and radius."""
    b, m, a = actions.shape
    n = int(steps.max()) if torch.is_tensor(steps) else steps

    def empty(*shape, dtype=torch.float32):
        return torch.empty(shape, dtype=dtype, device=device)

    info = InfoBuffers(
        empty(b, m),
        empty(b, m),
        empty(b, m, dtype=torch.int32),
        empty(b, dtype=torch.int32),
        empty(n + 1, b, m, a),
        empty(n + 1, b, m),
        empty(n + 1, b, m, a),
    )
    out = refined(executor, states, actions, steps, lr, device, info, **reach)
    return out, InfoBuffers(**{name: t.cpu() for name, t in vars(info).items()})


def refined(executor, states, actions, steps, lr, device="cpu", info=None, **reach):
    """out (B, A) of one call, on the host."""
    out = torch.empty(actions.shape[0], actions.shape[2], device=device)
    states, actions, steps, lr = (moved(x, device) for x in (states, actions, steps, lr))
    reach = {name: moved(x, device) for name, x in reach.items()}
    executor.run(states, actions, out, steps=steps, lr=lr, info=info, **reach)
    return out.cpu()
