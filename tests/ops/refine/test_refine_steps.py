"""The loop of `refine` step by step, against torch.optim and closed forms."""

from functools import partial

import pytest
import small_critics
import torch
from small_critics import backends, ensemble, exact_q, linear_program, quiet
from torch import nn

from dtag_fast import SGD, Adam, ClipNorm, CriticProgram, Radius, RMSprop, refine
from dtag_fast.ops.refine.program import Linear

pytestmark = quiet
inputs = partial(small_critics.inputs, scale=0.9)


# The loop, step by step, against torch.optim

OPTIMIZERS = {
    "sgd": ("sgd", lambda p, lr: torch.optim.SGD(p, lr, maximize=True)),
    "momentum": (SGD(0.9), lambda p, lr: torch.optim.SGD(p, lr, momentum=0.9, maximize=True)),
    "nesterov": (
        SGD(0.8, nesterov=True),
        lambda p, lr: torch.optim.SGD(p, lr, momentum=0.8, nesterov=True, maximize=True),
    ),
    "adam": ("adam", lambda p, lr: torch.optim.Adam(p, lr, maximize=True)),
    "adam betas": (
        Adam((0.5, 0.9), 1e-4),
        lambda p, lr: torch.optim.Adam(p, lr, betas=(0.5, 0.9), eps=1e-4, maximize=True),
    ),
    "rmsprop": ("rmsprop", lambda p, lr: torch.optim.RMSprop(p, lr, maximize=True)),
    "rmsprop alpha": (
        RMSprop(0.9, 1e-3),
        lambda p, lr: torch.optim.RMSprop(p, lr, alpha=0.9, eps=1e-3, maximize=True),
    ),
}


def shaped(g, gradient):
    norm = g.norm(dim=-1, keepdim=True)
    if gradient == "raw":
        return g
    return g / norm if gradient == "unit" else g * (gradient.limit / norm).clamp(max=1)


def projected(a, a_0, radius, low, high):
    if radius is not None and radius.norm == "inf":
        a = a_0 + (a - a_0).clamp(-radius.limit, radius.limit)
    elif radius is not None:
        d = a - a_0
        a = a_0 + d * (radius.limit / d.norm(dim=-1, keepdim=True)).clamp(max=1)
    return a.clamp(low, high)


def check_trace(critic, states, actions, info, *, make_optimizer, lr, reduce, gradient, radius, select):
    """q_i and g_i are right at the backend's own a_i; a_{i+1} follows from the backend's own g_0..g_i."""
    low, high = -1.0, 1.0
    trace, steps = info.trace_actions.double(), len(info.trace_actions) - 1
    torch.testing.assert_close(trace[0], actions.double().clamp(low, high), rtol=0, atol=0)
    a = nn.Parameter(trace[0].clone())
    optimizer = make_optimizer([a], lr)
    for i in range(steps + 1):
        q, g = exact_q(critic, states, trace[i], reduce)
        torch.testing.assert_close(info.trace_q[i].double(), q, rtol=1e-5, atol=1e-5)
        if i == steps:
            break
        taken = info.trace_grad[i].double()
        kink = exact_kinks(
            critic, states, trace[i]
        )  # at a ReLU corner or a tie both one-sided gradients are right
        torch.testing.assert_close(taken[~kink], g[~kink], rtol=1e-4, atol=1e-5)
        with torch.no_grad():
            a.copy_(trace[i])
        a.grad = shaped(taken, gradient)
        optimizer.step()
        follows = projected(a.detach(), trace[0], radius, low, high)
        torch.testing.assert_close(trace[i + 1], follows, rtol=1e-5, atol=2e-6)
    best = info.trace_q.argmax(0) if select == "best" else torch.full((len(actions),), steps)
    assert torch.equal(info.best_index, best)
    rows = torch.arange(len(actions))
    assert torch.equal(info.q_best, info.trace_q[best, rows])
    assert torch.equal(info.q_0, info.trace_q[0])
    return info.trace_actions[best, rows]


def exact_kinks(critic, states, actions, margin=1e-4):
    """Rows within `margin` of a corner of Q."""
    x = torch.cat([states, actions.float()], -1).double()
    near = torch.zeros(len(x), dtype=torch.bool)
    for net in critic.nets:
        h = x
        for layer in net:
            if isinstance(layer, nn.ReLU):
                near |= (h.abs() < margin).any(-1)
                h = h.clamp(min=0)
            elif isinstance(layer, nn.Linear):
                h = h @ layer.weight.double().T + layer.bias.double()
            else:
                h = layer(h)
    q = torch.cat(critic(states, actions.float()), 1).sort(1).values
    return near | ((q[:, 1] - q[:, 0]).abs() < margin if q.shape[1] > 1 else False)


@backends
@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("gradient", ["raw", "unit", ClipNorm(0.05)], ids=["raw", "unit", "clip"])
@pytest.mark.parametrize("radius", [None, 0.1, Radius(0.15, "l2")], ids=["free", "inf", "l2"])
def test_each_step_is_torch_optims(backend, name, gradient, radius):
    option, make_optimizer = OPTIMIZERS[name]
    critic, (states, actions) = ensemble(), inputs(11)
    for select in ("best", "last"):
        refined, info = refine(
            critic,
            states,
            actions,
            steps=6,
            lr=0.05,
            optimizer=option,
            gradient=gradient,
            radius=radius,
            select=select,
            backend=backend,
            return_info="trace",
        )
        expected = check_trace(
            critic,
            states,
            actions,
            info,
            make_optimizer=make_optimizer,
            lr=0.05,
            reduce="min",
            gradient=gradient,
            radius=Radius(radius) if isinstance(radius, float) else radius,
            select=select,
        )
        assert torch.equal(refined, expected)


@backends
@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh, nn.SiLU, nn.GELU])
@pytest.mark.parametrize("reduce", ["min", "mean", 0, 2])
def test_reductions(backend, activation, reduce):
    critic, (states, actions) = ensemble(3, activation), inputs(9)
    refined, info = refine(
        critic, states, actions, steps=4, lr=0.1, reduce=reduce, backend=backend, return_info="trace"
    )
    expected = check_trace(
        critic,
        states,
        actions,
        info,
        make_optimizer=lambda p, lr: torch.optim.SGD(p, lr, maximize=True),
        lr=0.1,
        reduce=reduce,
        gradient="raw",
        radius=None,
        select="best",
    )
    assert torch.equal(refined, expected)


# Closed form


@pytest.mark.parametrize("lr", [0.03, 0.3, 0.7])
def test_parabola_shrinks_geometrically(lr):
    """dr/da = -2a, so a_n = a_0 (1 - 2 lr)^n."""
    states, actions = torch.zeros(4, 1), torch.tensor([[-0.9], [-0.2], [0.4], [1.0]])
    refined = refine(Parabola(), states, actions, steps=8, lr=lr)
    torch.testing.assert_close(refined, actions * (1 - 2 * lr) ** 8)


def test_parabola_diverges_beyond_its_step_size():
    """|1 - 2 lr| > 1: iterates grow, "last" shows it, "best" stays at a_0."""
    states, actions = torch.zeros(1, 1), torch.tensor([[0.5]])
    last = refine(Parabola(), states, actions, steps=3, lr=1.5, bounds=None, select="last")
    torch.testing.assert_close(last, actions * (-2.0) ** 3)
    best, info = refine(Parabola(), states, actions, steps=3, lr=1.5, bounds=None, return_info=True)
    assert torch.equal(best, actions) and info.best_index.item() == 0


class Parabola(nn.Module):
    """r(a) = 1 - a^2 per row: everything about it is known in closed form."""

    def forward(self, state, action):
        return 1 - action.square().sum(-1)


@backends
def test_linear_critic_walks_to_the_wall(backend):
    """Q = w a: every step adds lr * w until the bound of each dimension."""
    program = linear_program([1.0, -2.0, 0.5])
    states, actions = torch.zeros(2, 2), torch.zeros(2, 3)
    refined = refine(
        program, states, actions, steps=4, lr=0.1, bounds=([-1, -0.3, -1], [0.2, 1, 1]), backend=backend
    )
    torch.testing.assert_close(refined, torch.tensor([[0.2, -0.3, 0.2]]).expand(2, 3))


@backends
def test_ties_take_the_earliest_iterate_and_the_first_member(backend):
    flat = linear_program([0.0, 0.0])
    states, actions = torch.zeros(3, 2), torch.rand(3, 2)
    refined, info = refine(flat, states, actions, return_info=True, backend=backend)
    assert torch.equal(refined, actions) and info.best_index.tolist() == [0, 0, 0]
    rows = torch.tensor([[0.0, 0.0, 1.0]]), torch.tensor([[0.0, 0.0, -1.0]])
    tied = CriticProgram(2, 1, [[Linear(w, torch.zeros(1))] for w in rows])
    refined = refine(tied, states, torch.zeros(3, 1), steps=1, lr=0.25, select="last", backend=backend)
    torch.testing.assert_close(refined, torch.full((3, 1), 0.25))
