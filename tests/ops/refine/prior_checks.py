"""What every kernel of refine must do with a prior. Shared by the tests of all backends."""

import torch
from exact_walks import cost_of, exact, replay
from kernel_cases import make_inputs, make_member, make_options, make_program, refined, traced
from step_checks import GRADIENTS, OPTIMIZERS, SCALE_FORMS, scales

from dtag_fast.ops.refine.options import Radius
from dtag_fast.ops.refine.program import CriticProgram, Linear


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
