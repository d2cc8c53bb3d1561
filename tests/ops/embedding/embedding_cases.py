"""Inputs and the oracle that the tests of the tokens share."""

import torch

from dtag_fast.ops.embedding import embed_tokens

ORDERS = (("return", "state", "action"), ("state", "return", "action"), ("state", "action"))
OF_RETURNS = ("returns_to_go", "return_weight", "return_bias")


def make_case(order=ORDERS[0], batch=3, steps=5, states=4, actions=2, width=16, rows=9, omit=1, seed=0):
    """Arguments of embed_tokens in float32; some timesteps come twice, the last row of the table never."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=generator)

    case = {
        "states": draw(batch, steps, states),
        "actions": draw(batch, steps, actions),
        "returns_to_go": draw(batch, steps, 1),
        "timesteps": torch.randint(0, max(rows - 1, 1), (batch, steps), generator=generator),
        "state_weight": draw(width, states),
        "state_bias": draw(width),
        "action_weight": draw(width, actions),
        "action_bias": draw(width),
        "return_weight": draw(width, 1),
        "return_bias": draw(width),
        "timestep_table": draw(rows, width),
        "norm_weight": draw(width),
        "norm_bias": draw(width),
    }
    if "return" not in order:
        case |= dict.fromkeys(OF_RETURNS)
    return case | {"order": order, "omit": omit}


def map_tensors(case, change):
    """The case with `change` of each float tensor."""
    return {
        name: change(x) if isinstance(x, torch.Tensor) and x.is_floating_point() else x
        for name, x in case.items()
    }


def to_device(case, device):
    return {name: x.to(device) if isinstance(x, torch.Tensor) else x for name, x in case.items()}


def results(case, backend, dtype=None, function=embed_tokens):
    """{"tokens": tokens, name: its gradient} in float64, for a fixed gradient of the tokens.

    Leaves keep their strides. Only tensors that say so need gradients, or all if none does."""
    floats = [x for x in case.values() if isinstance(x, torch.Tensor) and x.is_floating_point()]
    every = not any(x.requires_grad for x in floats)
    leaves = map_tensors(
        case, lambda x: (x.detach().to(dtype or x.dtype)).requires_grad_(every or x.requires_grad)
    )
    tokens = function(**leaves, backend=backend)
    generator = torch.Generator().manual_seed(1)
    gradient = torch.randn(tokens.shape, generator=generator, dtype=torch.float64)
    tokens.backward(gradient.to(tokens))
    gradients = {
        name: x.grad.double()
        for name, x in leaves.items()
        if isinstance(x, torch.Tensor) and x.grad is not None
    }
    return {"tokens": tokens.detach().double()} | gradients


def exact(case):
    return results(case, "reference", torch.float64)


def assert_near(found, wanted, bound):
    """Relative error of each tensor as a whole; one that ought to be zero: its norm."""
    assert found.keys() == wanted.keys()
    for name, y in wanted.items():
        size = float(y.norm())
        error = float((found[name] - y).norm()) / (size if size > 1e-6 else 1.0)
        assert error <= bound, f"{name}: relative error {error:.2g}, allowed {bound:.2g}"
