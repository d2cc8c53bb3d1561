"""What every kernel of refine must do, as checks on an executor: shared by the tests of all backends.

ReLU kinks and switches of the smallest member make distant iterates of two correct programs differ, so each
iterate a_i that the kernel visited is judged by itself: Q and gradient there, and the step from it, in
float64.

`make(program, options, precision="fp32")` builds the executor under test, `device` is where it runs; inputs
and results of `traced` are on the host.
"""

import numpy as np
import torch

from dtag_fast.ops.refine.executor import InfoBuffers
from dtag_fast.ops.refine.options import SGD, Adam, ClipNorm, Radius, RefineOptions, RMSprop, Variant
from dtag_fast.ops.refine.program import Activation, CriticProgram, LayerNorm, Linear
from dtag_fast.ops.refine.reference import (
    along,
    evaluate_program,
    optimizer_step,
    project,
    shape_gradient,
    value_and_gradient,
)

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


def exact(program, states, actions, reduce="min"):
    """Q (N,), dQ/da (N, A) in float64 and how far the chosen member is from the next one (N,)."""

    def members(s, a):
        return evaluate_program(program, s, a)

    s, a = states.double(), actions.double()
    q, g = value_and_gradient(members, s, a, reduce)
    every = members(s, a)
    gap = (every - every.amin(0)).sort(0).values[1] if len(every) > 1 else torch.ones(len(q))
    return q, g, gap if reduce == "min" else torch.ones(len(q))


def assert_exact(program, states, info, bound=1e-5, reduce="min"):
    """Every q_i and, but for the last iterate, g_i of the trace against float64 at a_i."""
    for i, (a_i, q_i, g_i) in enumerate(zip(info.trace_actions, info.trace_q, info.trace_grad, strict=True)):
        for m in range(a_i.shape[1]):
            q, g, gap = exact(program, states, a_i[:, m], reduce)
            scale = q.abs().max()
            assert (q_i[:, m] - q).abs().max() <= bound * scale
            if i == len(info.trace_q) - 1:
                continue
            decided = gap > 10 * bound * scale
            assert decided.float().mean() > 0.5
            error = (g_i[:, m] - g).norm(dim=1) / g.norm(dim=1).clamp_min(
                1e-3 * float(g.norm(dim=1).max()) + 1e-30
            )
            assert error[decided].max() <= bound


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


def cost_of(actions, mean, weight, scale):
    """Q - F (...,) of actions (..., B, A) in float64, from the formula of Prior."""
    scale = torch.ones(1, dtype=torch.float64) if scale is None else scale
    far = torch.where(scale > 0, (actions.double() - mean) / scale.where(scale > 0, 1.0), 0.0)
    return weight * far.square().sum(-1) / actions.shape[-1]


def pull_of(actions, mean, weight, scale):
    """d(Q - F)/du (..., B, A), by differences of the cost: a = a_0 + scale * u."""
    scale = torch.ones(1, dtype=torch.float64) if scale is None else scale
    steps = 1e-4 * torch.eye(actions.shape[-1], dtype=torch.float64) * scale[..., None, :]
    up, down = (
        cost_of(actions.double()[..., None, :] + sign * steps, mean[..., None, :], weight[:, None],
                scale[..., None, :])
        for sign in (1, -1)
    )  # fmt: skip
    return (up - down) / 2e-4


def replay(info, options, steps, lr, candidate, scale=None, radius=None, prior=None):
    """All a_{i+1} and the index of the result, in float64 from the traced a_i, q_i, g_i. prior: mean and
    weight."""
    actions, q, g = (t[:, :, candidate].double() for t in (info.trace_actions, info.trace_q, info.trace_grad))
    batch = q.shape[1]
    low, high = (None if b is None else torch.as_tensor(b).double() for b in (options.low, options.high))
    per_row = steps if torch.is_tensor(steps) else torch.full((batch,), steps)
    state, expected = None, [actions[0]]
    for i in range(len(q) - 1):
        ascent = g[i] if scale is None else g[i] * scale
        ascent = ascent if prior is None else ascent - pull_of(actions[i], *prior, scale)
        shaped = shape_gradient(ascent, options.gradient)
        delta, state = optimizer_step(options.optimizer, shaped, lr, state)
        a_next = along(actions[i], delta, scale)
        limit = None if radius is None else radius.double()[:, None]
        expected.append(project(a_next, actions[0], options.radius, low, high, limit, scale))
    q = q if prior is None else q - cost_of(actions, *prior, scale)
    index = torch.zeros(batch, dtype=torch.int64)
    for b in range(batch):
        n = int(per_row[b])
        index[b] = int(q[: n + 1, b].argmax()) if options.select == "best" else n
        assert q[n + 1 :, b].isnan().all() and not q[: n + 1, b].isnan().any()
    return expected, index


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


def check_far_out(make, activation, device="cpu"):
    """Q = f(1e18 + a) + f(-1e18 - a): cubes overflow float32, values and slopes do not."""
    weight, bias = torch.tensor([[0.0, 1.0], [0.0, -1.0]]), torch.tensor([1e18, -1e18])
    layers = (Linear(weight, bias), Activation(*activation), Linear(torch.ones(1, 2), torch.zeros(1)))
    program = CriticProgram(1, 1, (layers,))
    executor = make(program, make_options(action=1, reduce="mean"))
    _, info = traced(executor, torch.zeros(3, 1), torch.zeros(3, 1, 1), 1, 0.1, device)
    q, slope, _ = exact(program, torch.zeros(3, 1), torch.zeros(3, 1), "mean")
    torch.testing.assert_close(info.trace_q[0, :, 0].double(), q, rtol=1e-6, atol=1.0)
    torch.testing.assert_close(info.trace_grad[0, :, 0].double(), slope, rtol=1e-6, atol=1e-6)


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


SCALE_FORMS = ["number", "rows", "dims", "both"]


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


def check_prior(make, pick, device="cpu", hidden=(24,), bound=1e-5):
    """What climbs and is compared is F, what is reported is Q. The combination is number `pick` of a round
    through all options, scales, radii and forms of a prior."""
    program = make_program(hidden=hidden, members=2)
    states, actions = make_inputs(program, 11, candidates=2)
    rng = torch.Generator().manual_seed(pick)
    scale = None if pick % 5 == 0 else scales(SCALE_FORMS[pick % 4], 11, 6, rng)
    numbers = {"scale": scale, "radius": torch.rand(11, generator=rng) if pick % 4 == 1 else None}
    options = make_options(
        optimizer=OPTIMIZERS[pick % len(OPTIMIZERS)],
        gradient=GRADIENTS[pick % len(GRADIENTS)],
        radius=[None, Radius(0.0, ["inf", "l2"][pick // 4 % 2]), Radius(0.15), Radius(0.2, "l2")][pick % 4],
        select=["best", "last"][pick // 2 % 2],
    )
    means = torch.rand(11, 6, generator=rng) * 2 - 1
    mean = [0.3, means[:1], means][pick % 3]
    weight = 2.0 if pick % 2 else 3 * torch.rand(11, generator=rng) * (torch.arange(11) != 3)
    lr = 0.01 + 0.1 * torch.rand(11, 6, generator=rng)
    executor = make(program, options)
    prior = {"prior_mean": mean, "prior_weight": weight}
    out, info = traced(executor, states, actions, 4, lr, device, **numbers, **prior)
    every = torch.empty(11, 6).copy_(torch.as_tensor(mean)), torch.empty(11).copy_(torch.as_tensor(weight))
    every = tuple(x.double() for x in every)
    unit = None if scale is None else torch.as_tensor(scale).double()
    if unit is not None:
        unit = unit.expand(11, 6)
    for i in range(5):  # Q and its gradient without the prior
        q, g, gap = exact(program, states, info.trace_actions[i].flatten(0, 1)[::2].nan_to_num())
        here = ~info.trace_q[i, :, 0].isnan()
        torch.testing.assert_close(info.trace_q[i, here, 0].double(), q[here], rtol=bound, atol=bound)
        sure = here & (gap > 3 * bound)  # the same member is the smallest
        if i < 4:  # the median: units of a rounded critic may switch
            assert (info.trace_grad[i, sure, 0] - g[sure]).abs().median() <= bound
    best_f = []
    for m in range(2):
        radius = numbers["radius"]
        expected, index = replay(info, options, 4, lr.double(), m, unit, radius, every)
        for i, e in enumerate(expected):
            running = ~info.trace_q[i, :, m].isnan()
            torch.testing.assert_close(
                info.trace_actions[i, running, m].double(), e[running], rtol=1e-5, atol=4e-6
            )
        rows, found = torch.arange(11), info.best_index[:, m].long()
        f = info.trace_q[:, :, m].double() - cost_of(info.trace_actions[:, :, m], *every, unit)
        assert ((f[found, rows] - f[index, rows]).abs() <= 1e-6 * (1 + f[index, rows].abs())).all()
        assert (found == index).sum() >= 10  # but for what rounds
        assert torch.equal(info.q_0[:, m], info.trace_q[0, :, m])
        assert torch.equal(info.q_best[:, m], info.trace_q[found, rows, m])
        best_f.append(f[found, rows])
    best_f = torch.stack(best_f, 1)
    winner = info.best_candidate.long()
    assert (best_f[rows, winner] >= best_f.amax(1) - 1e-6 * (1 + best_f.abs().amax(1))).all()
    found = info.best_index[rows, winner].long()
    assert torch.equal(out, info.trace_actions[found, rows, winner])
    assert torch.equal(refined(executor, states, actions, 4, lr, device, **numbers, **prior), out)
    before = refined(executor, states, actions, 4, lr, device, **numbers)
    assert not torch.equal(before, out)
    for none in (0.0, torch.zeros(11)):  # no prior, to the last bit
        found = refined(
            executor, states, actions, 4, lr, device, **numbers, prior_mean=mean, prior_weight=none
        )
        assert torch.equal(found, before)


def check_small_costs(make, device="cpu", hidden=(24,)):
    """A cost far below what Q = 1500 can be told from 1500 by decides between candidates, in one round and
    between rounds, and between iterates; a row whose F is not finite ends at a_0."""
    generator = torch.Generator().manual_seed(0)
    layers = make_member(generator, 23, hidden)
    *inner, last = layers
    flat = Linear(torch.zeros_like(last.weight), torch.full_like(last.bias, 1500.0))
    program = CriticProgram(17, 6, ((*inner, flat),))
    states, actions = make_inputs(program, 5, candidates=70)
    executor = make(program, make_options())
    mean, weight = torch.full((5, 6), 0.25), torch.tensor([1e-5, 1e-5, 1e-5, 1e-5, 1.0])
    mean[3] = 1e30
    prior = {"prior_mean": mean, "prior_weight": weight}
    out, info = traced(executor, states, actions, 0, 0.1, device, **prior)
    nearest = (actions.double() - 0.25).square().sum(-1).argmin(1)
    nearest[3] = 0  # candidate 0 where none has a finite F
    assert torch.equal(info.best_candidate.long(), nearest)
    assert (info.q_best == 1500.0).all()
    assert torch.equal(out, actions[torch.arange(5), nearest])
    lr = torch.tensor([1e4, 1e4, 1e4, 1e4, 0.1])[:, None]
    out, info = traced(executor, states, actions[:, :1].contiguous(), 3, lr, device, **prior)
    assert torch.equal(out[3].view(torch.int32), actions[3, 0].view(torch.int32))
    assert (info.best_index[:, 0] == torch.tensor([3, 3, 3, 0, 3])).all()  # each is nearer to the mean
    assert (info.trace_q[0] == 1500.0).all() and info.trace_q[1:, 3].isnan().all()
    far = (info.trace_actions[:, [0, 1, 2, 4], 0] - 0.25).square().sum(-1)
    assert (far[1:] < far[:-1]).all()


def check_prior_of_variants(make, device="cpu", hidden=(24,)):
    """Rows of different variants climb the prior of their state as rows of that variant do alone."""
    program = make_program(hidden=hidden, members=3)
    states, actions = make_inputs(program, 13, candidates=2)
    rng = torch.Generator().manual_seed(5)
    variant = torch.arange(13, dtype=torch.int32) % len(VARIANTS)
    mean, weight = torch.rand(13, 6, generator=rng) - 0.5, 3 * torch.rand(13, generator=rng)
    options = make_options(variants=tuple(VARIANTS))
    prior = {"prior_mean": mean, "prior_weight": weight}
    out, info = traced(make(program, options), states, actions, 2, 0.01, device, variant=variant, **prior)
    for k, alone in enumerate(options.each()):
        own = torch.nonzero(variant == k)[:, 0]
        part = {name: x[own] for name, x in prior.items()}
        expected, details = traced(make(program, alone), states[own], actions[own], 2, 0.01, device, **part)
        torch.testing.assert_close(out[own], expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(info.q_best[own], details.q_best, rtol=1e-5, atol=1e-5)
        assert torch.equal(info.best_index[own], details.best_index)
        assert torch.equal(info.best_candidate[own], details.best_candidate)


VARIANTS = [
    Variant(),
    Variant(optimizer=Adam(betas=(0.5, 0.9)), reduce="mean"),
    Variant(optimizer=RMSprop(alpha=0.5), reduce=1, radius=Radius(0.2, "l2"), select="last"),
    Variant(optimizer=SGD(0.8, nesterov=True), gradient="unit", radius=0.1),
    Variant(optimizer="adam", gradient=ClipNorm(0.3), reduce=2, radius=Radius(0.15, "l2")),
    Variant(optimizer=SGD(0.9), reduce=0, select="last"),
]


def check_variants(make, device="cpu", rows=11, candidates=2, bits=False, hidden=(24,), **program):
    """Rows that differ in every option, in steps, lr and scale: each goes as those of its variant go alone.

    bits: to the last bit, else within rounding, judged at the iterates visited."""
    program = make_program(hidden=hidden, members=3, **program)
    states, actions = make_inputs(program, rows, candidates)
    rng = torch.Generator().manual_seed(rows)
    variant = torch.randint(0, len(VARIANTS), (rows,), generator=rng, dtype=torch.int32)
    variant[: len(VARIANTS)] = torch.arange(len(VARIANTS))[:rows]
    steps = torch.randint(0, 5, (rows,), generator=rng, dtype=torch.int32)
    steps[:2] = torch.tensor([4, 0])
    lr, scale = 0.01 + 0.1 * torch.rand(2, rows, 6, generator=rng)
    scale = 10 * scale * (torch.rand(rows, 6, generator=rng) > 0.1)
    options = make_options(variants=tuple(VARIANTS))
    executor = make(program, options)
    out, info = traced(executor, states, actions, steps, lr, device, scale=scale, variant=variant)
    best_q = []
    for k, alone in enumerate(options.each()):
        own = torch.nonzero(variant == k)[:, 0]
        if len(own) == 0:
            continue
        numbers = steps[own], lr[own].contiguous()
        if bits:
            found, details = traced(
                make(program, alone), states[own], actions[own], *numbers, device, scale=scale[own]
            )
            assert torch.equal(out[own], found)
            for name in ("q_0", "q_best", "best_index", "best_candidate"):
                assert torch.equal(getattr(info, name)[own], getattr(details, name)), name
            for name in ("trace_actions", "trace_q", "trace_grad"):
                rest, part = getattr(info, name)[:, own], getattr(details, name)
                at = ~part.isnan() if name != "trace_grad" else ~part.isnan() & ~rest[: len(part)].isnan()
                assert torch.equal(rest[: len(part)][at], part[at]) and rest[len(part) :].isnan().all(), name
        each = InfoBuffers(**{
            name: value[own] if value.ndim < 2 or name in ("q_0", "q_best", "best_index") else value[:, own]
            for name, value in vars(info).items()
        })  # fmt: skip
        last = int(steps[own].max())
        each.trace_actions, each.trace_q, each.trace_grad = (
            t[: last + 1] for t in (each.trace_actions, each.trace_q, each.trace_grad)
        )
        for m in range(candidates):
            expected, index = replay(each, alone, steps[own], lr[own].double(), m, scale[own].double())
            for i, e in enumerate(expected):
                running = ~each.trace_q[i, :, m].isnan()
                torch.testing.assert_close(
                    each.trace_actions[i, running, m].double(), e[running], rtol=1e-5, atol=3e-6
                )
                q, g, gap = exact(
                    program, states[own], each.trace_actions[i, :, m].nan_to_num(), alone.reduce
                )
                torch.testing.assert_close(
                    each.trace_q[i, running, m].double(), q[running], rtol=1e-5, atol=1e-5
                )
                decided = running & (gap > 1e-3) & ~each.trace_grad[i, :, m].isnan().any(-1)
                torch.testing.assert_close(
                    each.trace_grad[i, decided, m].double(), g[decided], rtol=1e-4, atol=1e-4
                )
            assert torch.equal(each.best_index[:, m].long(), index)
        best_q.append(info.q_best[own].argmax(1) == info.best_candidate[own])
    assert torch.cat(best_q).all()
    everything = {"scale": scale, "variant": variant}
    assert torch.equal(refined(executor, states, actions, steps, lr, device, **everything), out)


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


def check_norms(make, scale, device="cpu"):
    """Lengths of gradients near the ends of float32 neither overflow nor vanish."""
    program = make_program(hidden=(24,), members=1)
    *body, last = program.members[0]
    program = CriticProgram(17, 6, ((*body, Linear(last.weight * scale, last.bias * 0)),))
    states, actions = make_inputs(program, 9)
    for gradient in ("unit", ClipNorm(1e-30)):
        executor = make(program, make_options(gradient=gradient, select="last"))
        _, info = traced(executor, states, actions, 1, 0.1, device)
        g = info.trace_grad[0, :, 0].double()
        length = (
            1.0
            if gradient == "unit"
            else torch.minimum(g.norm(dim=1, keepdim=True), torch.tensor(1e-30).double())
        )
        expected = (actions[:, 0].double() + 0.1 * g / g.norm(dim=1, keepdim=True) * length).clamp(-1, 1)
        torch.testing.assert_close(info.trace_actions[1, :, 0].double(), expected, rtol=1e-5, atol=1e-7)


def check_bits_of_a_0(make, select, device="cpu", hidden=(24,)):
    """No steps or no lr gives back the bits of the action, the sign of zero among them."""
    program = make_program(hidden=hidden)
    states, actions = make_inputs(program, 20)
    actions[0, 0, :2] = torch.tensor([-0.0, 0.0])
    executor = make(program, make_options(select=select, optimizer=Adam()))
    for steps, lr in ((0, 0.1), (4, 0.0), (4, torch.zeros(1, 6)), (torch.zeros(20, dtype=torch.int32), 0.1)):
        out = refined(executor, states, actions, steps, lr, device)
        assert torch.equal(out.view(torch.int32), actions[:, 0].view(torch.int32))


def check_rows_not_finite(make, device="cpu"):
    """q_0 not finite: a_0 comes back, NaN and all; the other rows keep their bits."""
    program = make_program(hidden=(40, 40))
    states, actions = make_inputs(program, 20)
    executor = make(program, make_options())
    clean, _ = traced(executor, states, actions, 4, 0.05, device)
    broken = states.clone()
    broken[3, 5], broken[7, 0] = torch.nan, torch.inf
    dirty = actions.clone()
    dirty[11, 0, 2] = torch.nan
    out, info = traced(executor, broken, dirty, 4, 0.05, device)
    touched = torch.zeros(20, dtype=torch.bool)
    touched[[3, 7, 11]] = True
    assert torch.equal(out[~touched], clean[~touched])
    torch.testing.assert_close(out[touched], dirty[touched, 0], rtol=0, atol=0, equal_nan=True)
    assert not info.q_0[touched].isfinite().any() and (info.best_index[touched] == 0).all()
    assert info.trace_q[1:, touched].isnan().all()


def check_gradient_not_finite(make, select, device="cpu", smooth=("elu", (1.0,)), again=False):
    """Q = w relu(a): finite at a_0 with a finite gradient, but a step takes it where Q overflows.

    again: w relu(relu(a)), for kernels that take two hidden layers.
    """
    large = torch.tensor([[3e38]])

    def critic(weight, *activation):
        second = (Linear(torch.ones(1, 1)), Activation(*activation)) if again else ()
        first = (Linear(torch.tensor([[0.0, weight]])), Activation(*activation))
        return CriticProgram(1, 1, ((*first, *second, Linear(large)),))

    program = critic(1.0, "relu")
    options = RefineOptions(select=select, gradient="unit")
    actions = torch.tensor([[[0.5]], [[-1.0]]])
    out, info = traced(make(program, options), torch.zeros(2, 1), actions, 3, 1.0, device)
    assert info.trace_q[
        1, 0, 0
    ].isinf()  # Q(1.5) = inf never wins; its gradient is finite, so the row goes on
    assert out[0, 0] == (0.5 if select == "best" else 3.5)
    assert out[1, 0] == -1.0  # dead unit: the gradient is 0 and unit keeps it 0
    infinite = critic(3e38, *smooth)
    out, info = traced(make(infinite, options), torch.zeros(2, 1), -actions * 0, 3, 1.0, device)
    assert info.trace_q[1:].isnan().all() and info.trace_grad[0].isinf().all() and (out == 0).all()
