"""What every kernel of refine must do in a step: optimizers, shapes of the gradient, radius, scale and box,
and numbers that differ from row to row. Shared by the tests of all backends."""

import numpy as np
import torch
from exact_walks import exact, replay
from kernel_cases import make_inputs, make_options, make_program, refined, traced

from dtag_fast.ops.refine.options import SGD, Adam, ClipNorm, Radius, RMSprop
from dtag_fast.ops.refine.program import CriticProgram

OPTIMIZERS = [
    SGD(),
    SGD(momentum=0.9),
    SGD(momentum=0.8, nesterov=True),
    Adam(),
    Adam(betas=(0.5, 0.9), eps=1e-3),
    RMSprop(),
    RMSprop(alpha=0.5, eps=1e-2),
]


GRADIENTS = ["raw", "unit", ClipNorm(0.3)]


RADII = [None, Radius(0.15), Radius(0.2, "l2")]


SCALE_FORMS = ["number", "rows", "dims", "both"]


def check_steps(make, optimizer, gradient, radius, device="cpu", hidden=(24,)):
    """Every step of the trace follows the formulas, and the result is the iterate it should be."""
    program = make_program(hidden=hidden, members=2)
    states, actions = make_inputs(program, 11, candidates=2)
    # Odd combinations ride along, so that each value of every option meets each of the others somewhere.
    pick = len(str((optimizer, gradient, radius)))
    select = ["best", "last"][pick % 2]
    bounds = (
        {"low": None, "high": None} if pick % 3 == 0 else {"low": np.linspace(-1, -0.3, 6, dtype=np.float32)}
    )
    options = make_options(optimizer=optimizer, gradient=gradient, radius=radius, select=select, **bounds)
    rng = torch.Generator().manual_seed(pick)
    steps = torch.randint(0, 6, (11,), generator=rng, dtype=torch.int32) if pick % 2 else 5
    if torch.is_tensor(steps):
        steps[0] = 5
    lr = [
        0.05,
        torch.rand(11, 1, generator=rng),
        torch.rand(1, 6, generator=rng),
        torch.rand(11, 6, generator=rng),
    ][pick // 2 % 4]
    executor = make(program, options)
    out, info = traced(executor, states, actions, steps, lr, device)
    best_q = []
    for m in range(2):
        expected, index = replay(info, options, steps, lr.double() if torch.is_tensor(lr) else lr, m)
        for i, e in enumerate(expected):
            running = ~info.trace_q[i, :, m].isnan()
            torch.testing.assert_close(
                info.trace_actions[i, running, m].double(), e[running], rtol=1e-5, atol=2e-6
            )
        assert torch.equal(info.best_index[:, m].long(), index)
        assert torch.equal(info.q_0[:, m], info.trace_q[0, :, m])
        best_q.append(info.trace_q[index, torch.arange(11), m])
        assert torch.equal(info.q_best[:, m], best_q[m])
    winner = torch.stack(best_q, 1).argmax(1)
    assert torch.equal(info.best_candidate.long(), winner)
    rows = torch.arange(11)
    index = info.best_index[rows, winner].long()
    assert torch.equal(out, info.trace_actions[index, rows, winner])  # the very bits of an iterate
    # Without details the same kernel gives the same bits.
    assert torch.equal(refined(executor, states, actions, steps, lr, device), out)


def check_settings_of_rows(make, program, candidates, seed, device="cpu"):
    """Steps and lr of each row, several candidates: each walks as it should. Returns states and details."""
    states, actions = make_inputs(program, 7, candidates=candidates)
    rng = torch.Generator().manual_seed(seed)
    steps = torch.randint(0, 5, (7,), generator=rng, dtype=torch.int32)
    steps[0] = 4
    lr = torch.rand(7, 6, generator=rng) * 0.2
    options = make_options(optimizer=Adam(), gradient="unit", radius=Radius(0.2, "l2"))
    executor = make(program, options)
    out, info = traced(executor, states, actions, steps, lr, device)
    for m in range(candidates):
        expected, index = replay(info, options, steps, lr.double(), m)
        for i, e in enumerate(expected):
            running = ~info.trace_q[i, :, m].isnan()
            torch.testing.assert_close(
                info.trace_actions[i, running, m].double(), e[running], rtol=1e-5, atol=2e-6
            )
        assert torch.equal(info.best_index[:, m].long(), index)
    assert (info.q_best >= info.q_0).all()
    assert torch.equal(info.best_candidate.long(), info.q_best.argmax(1))
    rows, winner = torch.arange(7), info.best_candidate.long()
    assert torch.equal(out, info.trace_actions[info.best_index[rows, winner].long(), rows, winner])
    assert torch.equal(refined(executor, states, actions, steps, lr, device), out)
    return states, info


def scales(form, batch, width, generator):
    """Scales of each form that a call takes; those that differ per dimension hold zeros."""
    x = 0.2 + 1.3 * torch.rand(batch, width, generator=generator)
    x = x * (torch.rand(batch, width, generator=generator) > 0.2)
    return {"number": 0.4, "rows": x.amax(1, keepdim=True), "dims": x[:1], "both": x}[form]


def check_scale_and_radius(make, pick, device="cpu", hidden=(24,)):
    """Steps in u with a = a_0 + scale * u follow the formulas, the radius of each row holds in u, a dimension
    of scale 0 keeps its bits. The combination is number `pick` of a round through all options."""
    program = make_program(hidden=hidden, members=2)
    states, actions = make_inputs(program, 11, candidates=2)
    actions[0, :, :2] = torch.tensor([-0.0, 0.0])
    rng = torch.Generator().manual_seed(pick)
    scale = scales(SCALE_FORMS[pick % 4], 11, 6, rng)
    norm = ["inf", "l2"][pick // 4 % 2]
    options = make_options(
        optimizer=OPTIMIZERS[pick % len(OPTIMIZERS)],
        gradient=GRADIENTS[pick % len(GRADIENTS)],
        radius=Radius(0.15, norm) if pick % 3 == 0 else Radius(0.0, norm),
        select=["best", "last"][pick // 2 % 2],
    )
    radius = None
    if pick % 3:
        radius = torch.rand(11, generator=rng) * 0.3
        radius[3], radius[4] = 0.0, torch.inf
    lr = 0.01 + 0.1 * torch.rand(11, 6, generator=rng)
    executor = make(program, options)
    reach = {"scale": scale, "radius": radius}
    out, info = traced(executor, states, actions, 4, lr, device, **reach)
    exact = scale.double() if torch.is_tensor(scale) else torch.tensor(scale, dtype=torch.float64)
    frozen = (exact == 0).expand(11, 6)
    limit = torch.tensor(0.15) if radius is None else radius
    for m in range(2):
        expected, index = replay(info, options, 4, lr.double(), m, exact, radius)
        for i, e in enumerate(expected):
            running = ~info.trace_q[i, :, m].isnan()
            torch.testing.assert_close(
                info.trace_actions[i, running, m].double(), e[running], rtol=1e-5, atol=2e-6
            )
        assert torch.equal(info.best_index[:, m].long(), index)
        away = (info.trace_actions[:, :, m].double() - actions[:, m]) / exact.where(exact > 0, 1.0)
        length = away.abs().amax(-1) if norm == "inf" else away.norm(dim=-1)
        assert (length.nan_to_num() <= limit * (1 + 1e-5) + 1e-6).all()
        bits, at_first = info.trace_actions[:, :, m].view(torch.int32), actions[:, m].view(torch.int32)
        standing = frozen & ~info.trace_q[:, :, m, None].isnan()
        assert ((bits == at_first) | ~standing).all()
        assert (length.nan_to_num().amax(0) > 0.01).sum() >= 7  # most rows went somewhere
    assert torch.equal(refined(executor, states, actions, 4, lr, device, **reach), out)
    # One of a number is none, to the last bit, and so is a radius that repeats the options'.
    plain = make(program, make_options(optimizer=options.optimizer, radius=Radius(0.15, norm)))
    before = refined(plain, states, actions, 4, lr, device)
    assert torch.equal(refined(plain, states, actions, 4, lr, device, scale=1.0), before)
    assert torch.equal(refined(plain, states, actions, 4, lr, device, radius=torch.full((11,), 0.15)), before)
    ones = refined(plain, states, actions, 4, lr, device, scale=torch.ones(11, 1))
    torch.testing.assert_close(ones, before, rtol=1e-6, atol=1e-6)


def check_radius_and_box(make, device="cpu", hidden=(24,)):
    """No iterate leaves the ball around its start, nor the box."""
    program = make_program(hidden=hidden)
    states, actions = make_inputs(program, 30)
    for radius in (Radius(0.1), Radius(0.1, "l2"), Radius(0.0, "l2")):
        options = make_options(radius=radius, select="last", high=np.full(6, 0.5, np.float32))
        out = refined(make(program, options), states, actions, 5, 0.5, device)
        start = actions[:, 0].clamp(-1, 0.5)
        away = (out - start).abs().amax(1) if radius.norm == "inf" else (out - start).norm(dim=1)
        assert away.max() <= radius.limit * (1 + 1e-5) + 1e-7
        assert out.max() <= 0.5 and out.min() >= -1
        assert radius.limit == 0 or away.max() > 0.09


def check_bits_of_a_0(make, select, device="cpu", hidden=(24,)):
    """No steps or no lr gives back the bits of the action, the sign of zero among them."""
    program = make_program(hidden=hidden)
    states, actions = make_inputs(program, 20)
    actions[0, 0, :2] = torch.tensor([-0.0, 0.0])
    executor = make(program, make_options(select=select, optimizer=Adam()))
    for steps, lr in ((0, 0.1), (4, 0.0), (4, torch.zeros(1, 6)), (torch.zeros(20, dtype=torch.int32), 0.1)):
        out = refined(executor, states, actions, steps, lr, device)
        assert torch.equal(out.view(torch.int32), actions[:, 0].view(torch.int32))


def check_own_reduction(make, reduction, device="cpu"):
    """A program's own reduction replaces `reduce`."""
    program = make_program(members=3, activations=(("silu", ()),))
    program = CriticProgram(program.state_dim, program.action_dim, program.members, reduction)
    states, actions = make_inputs(program, 5)
    _, info = traced(make(program, make_options(reduce=2)), states, actions, 2, 0.02, device)
    for i in range(3):
        q, g, _ = exact(program, states, info.trace_actions[i, :, 0], "mean")  # of the one value it gives
        torch.testing.assert_close(info.trace_q[i, :, 0].double(), q, rtol=1e-5, atol=1e-5)
        if i < 2:
            torch.testing.assert_close(info.trace_grad[i, :, 0].double(), g, rtol=1e-4, atol=1e-5)
