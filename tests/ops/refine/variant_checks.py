"""What every kernel of refine must do with rows of different variants; shared by the tests of all
backends."""

import torch
from exact_walks import exact, replay
from kernel_cases import make_inputs, make_options, make_program, refined, traced

from dtag_fast.ops.refine.executor import InfoBuffers
from dtag_fast.ops.refine.options import SGD, Adam, ClipNorm, Radius, RMSprop, Variant

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
