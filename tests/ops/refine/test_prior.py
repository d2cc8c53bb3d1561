"""prior, as users give it: what every backend does alike."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from prior_checks import check_prior, check_small_costs
from small_critics import A, S, backends, critic_of, ensemble, exact_q, inputs, linear_program, quiet

from dtag_fast import Prior, Radius, Refiner, Variant, explain, refine
from dtag_fast.ops.refine.reference import TorchExecutor, evaluate_program

pytestmark = quiet


def reference(program, options):
    return TorchExecutor(lambda s, a: evaluate_program(program, s, a), options)


def cost(actions, prior, scale=1.0):
    """Q - F (B,) in float64."""
    weight = torch.as_tensor(prior.weight).double()
    far = torch.where(torch.as_tensor(scale) > 0, (actions.double() - prior.mean) / scale, 0.0)
    return weight * far.square().mean(-1)


@pytest.mark.parametrize("pick", range(24))
def test_the_reference_climbs_a_prior_and_reports_q(pick):
    check_prior(reference, pick)


def test_the_reference_tells_small_costs_beside_a_large_q():
    check_small_costs(reference)


@backends
@pytest.mark.parametrize("select", ["best", "last"])
@pytest.mark.parametrize("scaled", [False, True])
def test_a_linear_critic_ends_where_its_slope_balances_the_prior(backend, select, scaled):
    """dF/da = 0 at mean + A scale^2 g / (2 weight)."""
    slope = [0.3, -0.2, 0.1, 0.0]
    critic = linear_program(slope, bias=4.0)
    rng = torch.Generator().manual_seed(0)
    states, actions = torch.randn(6, 2, generator=rng), torch.rand(6, 4, generator=rng) * 2 - 1
    mean, weight = torch.rand(6, 4, generator=rng) - 0.5, 0.5 + torch.rand(6, generator=rng)
    scale = 0.5 + torch.rand(6, 4, generator=rng) if scaled else torch.ones(6, 4)
    fixed = mean + 4 * scale**2 * torch.tensor(slope) / (2 * weight[:, None])
    found, info = refine(
        critic,
        states,
        actions,
        scale=scale if scaled else None,
        prior=Prior(mean, weight),
        steps=300,
        lr=0.5,
        bounds=None,
        select=select,
        backend=backend,
        return_info=True,
    )
    torch.testing.assert_close(found, fixed, rtol=1e-3, atol=1e-3 if select == "best" else 1e-5)
    torch.testing.assert_close(info.q_best, 4 + found @ torch.tensor(slope), rtol=1e-5, atol=1e-5)


@backends
@pytest.mark.parametrize("optimizer", ["sgd", "adam", "rmsprop"])
def test_a_weight_of_zero_is_no_prior(backend, optimizer):
    critic, (states, actions) = ensemble(), inputs(9)
    options = {"optimizer": optimizer, "lr": 0.3, "scale": 0.7, "backend": backend}
    expected = refine(critic, states, actions, **options)
    for weight in (0, torch.zeros(9), np.zeros((9, 1)), torch.tensor(0.0)):
        for mean in (0.5, torch.ones(A)):
            assert torch.equal(
                refine(critic, states, actions, prior=Prior(mean, weight), **options), expected
            )


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**31),
    rows=st.integers(1, 40),
    optimizer=st.sampled_from(["sgd", "adam", "rmsprop"]),
    gradient=st.sampled_from(["raw", "unit"]),
    zeros=st.floats(0, 1),
    exponent=st.floats(-3, 3),
)
def test_never_worse_than_a_0_in_f(seed, rows, optimizer, gradient, zeros, exponent):
    generator = torch.Generator().manual_seed(seed)
    states, actions = inputs(rows, seed=seed)
    scale = 0.1 + torch.rand(rows, A, generator=generator)
    scale = scale * (torch.rand(rows, A, generator=generator) >= zeros)
    weight = torch.rand(rows, generator=generator) * 10**exponent
    prior = Prior(torch.rand(rows, A, generator=generator) * 2 - 1, weight)
    result, info = refine(
        ensemble(), states, actions, lr=1.0, optimizer=optimizer, gradient=gradient, scale=scale, prior=prior,
        return_info=True,
    )  # fmt: skip
    start, end = (exact_q(ensemble(), states, a)[0] - cost(a, prior, scale) for a in (actions, result))
    assert (end >= start - 1e-5 * (1 + start.abs())).all()
    q = exact_q(ensemble(), states, result)[0]
    torch.testing.assert_close(info.q_best.double(), q, rtol=1e-5, atol=1e-5)
    assert (result == actions)[scale == 0].all()


@backends
@pytest.mark.parametrize("limit", [None, 0.1])
def test_a_heavy_prior_pulls_to_its_mean(backend, limit):
    critic, (states, actions) = ensemble(), inputs(7)
    mean = torch.linspace(-0.8, 0.8, 7 * A).view(7, A)
    heavy = Prior(mean, 1e6)
    result = refine(
        critic, states, actions, prior=heavy, radius=limit, steps=60, lr=5e-7, select="last", backend=backend
    )
    reach = 2.0 if limit is None else limit
    expected = actions + (mean - actions).clamp(-reach, reach)
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-4)
    light = refine(critic, states, actions, prior=Prior(mean, 1e-6), radius=limit, backend=backend)
    without = refine(critic, states, actions, radius=limit, backend=backend)
    torch.testing.assert_close(light, without, rtol=1e-4, atol=1e-4)


@backends
def test_rows_with_a_prior_of_their_own_go_as_they_do_alone(backend):
    critic, (states, actions) = ensemble(), inputs(6)
    mean, weight = torch.rand(6, A), torch.tensor([0.0, 0.1, 1.0, 3.0, 10.0, 0.5])
    options = {"steps": 3, "lr": 0.05, "backend": backend, "radius": 0.3}
    together = refine(critic, states, actions, prior=Prior(mean, weight), **options)
    for i in range(6):
        prior = Prior(mean[i], float(weight[i]))
        alone = refine(critic, states[i], actions[i], prior=prior, **options)
        torch.testing.assert_close(together[i], alone, rtol=1e-4, atol=1e-4)


@backends
def test_every_form_of_a_prior_is_the_same_prior(backend):
    critic, (states, actions) = ensemble(), inputs(5)
    options = {"lr": 0.2, "backend": backend}
    expected = refine(critic, states, actions, prior=Prior(0.25, 2), **options)
    for mean in (torch.tensor(0.25), [0.25] * A, np.full((1, A), 0.25), torch.full((5, A), 0.25).double()):
        for weight in (2.0, torch.full((5,), 2.0), np.full((5, 1), 2.0)):
            found = refine(critic, states, actions, prior=Prior(mean, weight), **options)
            torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    assert not torch.equal(expected, refine(critic, states, actions, **options))


@backends
def test_a_refiner_takes_another_at_a_call(backend):
    critic, (states, actions) = ensemble(), inputs(5)
    refiner = Refiner(critic, prior=Prior(0.1, 1.0), lr=0.3, backend=backend)
    own = refine(critic, states, actions, prior=Prior(0.1, 1.0), lr=0.3, backend=backend)
    for _ in range(3):  # the second call and the third are the short path's
        assert torch.equal(refiner(states, actions), own)
    other = Prior(torch.rand(5, A), torch.rand(5))
    expected = refine(critic, states, actions, prior=other, lr=0.3, backend=backend)
    assert torch.equal(refiner.run(states, actions, prior=other), expected)
    none = refine(critic, states, actions, lr=0.3, backend=backend)
    assert torch.equal(refiner.run(states, actions, prior=Prior(0.0, 0.0)), none)
    assert torch.equal(refiner(states, actions), own) and not torch.equal(own, none)
    kept = Refiner(critic, prior=other, lr=0.3, backend=backend)
    assert torch.equal(kept(states, actions), expected)
    other.weight.zero_()  # read at every call
    assert torch.equal(kept(states, actions), none)


def test_candidates_share_the_prior_of_their_state():
    critic, (states, actions) = ensemble(), inputs(4)
    many = torch.stack([actions, -actions, actions.flip(1)], 1)
    prior = Prior(torch.rand(4, A), torch.rand(4) * 5)
    each = [refine(critic, states, many[:, m], prior=prior, lr=0.2, return_info=True) for m in range(3)]
    f = torch.stack([info.q_best.double() - cost(a, prior) for a, info in each])
    best = f.argmax(0)
    expected = torch.stack([a for a, _ in each])[best, torch.arange(4)]
    found, info = refine(critic, states, many, prior=prior, lr=0.2, return_info=True)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert torch.equal(info.best_candidate, best)


@backends
def test_variants_have_the_prior_of_their_row(backend):
    critic, (states, actions) = ensemble(), inputs(8)
    variants = [Variant(optimizer="adam"), Variant(gradient="unit", radius=Radius(0.2, "l2"), select="last")]
    prior, variant = Prior(torch.rand(8, A), torch.rand(8) * 3), torch.arange(8) % 2
    options = {"lr": 0.05, "steps": 4, "backend": backend}
    found = refine(critic, states, actions, variants=variants, variant=variant, prior=prior, **options)
    for k, one in enumerate(variants):
        own = variant == k
        part = Prior(prior.mean[own], prior.weight[own])
        alone = refine(critic, states[own], actions[own], prior=part, **vars(one), **options)
        torch.testing.assert_close(found[own], alone, rtol=1e-4, atol=1e-5)
    same = refine(critic, states, actions, variants=variants, variant=[1] * 8, prior=prior, **options)
    torch.testing.assert_close(same[variant == 1], found[variant == 1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("precision", ["high", "medium"])
def test_other_precisions_climb_the_same_prior(precision):
    critic, (states, actions) = critic_of(), inputs(9)
    prior = Prior(torch.rand(9, A), 2.0)
    expected = refine(critic, states, actions, prior=prior, lr=0.1)
    found = refine(critic, states, actions, prior=prior, lr=0.1, precision=precision)
    torch.testing.assert_close(found, expected, rtol=0, atol=0.05)
    assert (cost(found, prior) < cost(actions, prior)).all()


def test_doubles_and_arrays_take_a_prior():
    states, actions = inputs(6)
    prior = Prior(torch.rand(6, A), 1.0)
    expected = refine(critic_of(), states, actions, prior=prior)
    found = refine(critic_of(), states.numpy(), actions.numpy(), prior=prior)
    assert isinstance(found, np.ndarray) and np.array_equal(found, expected.numpy())
    wide = refine(critic_of(), states.double(), actions.double(), prior=prior)
    assert wide.dtype is torch.float64
    torch.testing.assert_close(wide.float(), expected, rtol=1e-5, atol=1e-6)


def test_explain_takes_it():
    said = explain(critic_of(), torch.zeros(4, S), prior=Prior(torch.zeros(A), torch.ones(4)))
    assert str(said) == str(explain(critic_of(), torch.zeros(4, S)))
