"""scale and the radius of each row, as users give them: what every backend does alike."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_critics import A, S, backends, critic_of, ensemble, inputs, quiet
from torch import nn

from dtag_fast import Radius, Refiner, explain, refine

pytestmark = quiet


class Rescaled(nn.Module):
    """The critic with every action input multiplied: Q(s, c * a)."""

    def __init__(self, critic, factors):
        super().__init__()
        self.critic, self.factors = critic, nn.Parameter(factors, requires_grad=False)

    def forward(self, state, action):
        return self.critic(torch.cat([state, action * self.factors], -1))


@backends
@pytest.mark.parametrize("optimizer", ["sgd", "adam", "rmsprop"])
@pytest.mark.parametrize("gradient", ["raw", "unit"])
@pytest.mark.parametrize("norm", ["inf", "l2"])
def test_units_of_the_action_do_not_matter(backend, optimizer, gradient, norm):
    """Actions in units c times smaller with a scale c times smaller go the same way in u. Powers of two: the
    same bits, but for what the critic's own sums round."""
    critic, (states, actions) = critic_of().eval(), inputs(20, scale=0.5)
    factors = torch.tensor([2.0, 0.5, 8.0])
    options = {"optimizer": optimizer, "gradient": gradient, "lr": 0.05, "bounds": None, "backend": backend}
    options["radius"] = Radius(torch.linspace(0.02, 0.2, 20), norm)
    scale = torch.rand(20, A) + 0.1
    expected = refine(critic, states, actions, scale=scale, **options)
    found = refine(Rescaled(critic, factors), states, actions / factors, scale=scale / factors, **options)
    torch.testing.assert_close(found * factors, expected, rtol=1e-5, atol=1e-6)
    assert (expected - actions).abs().max() > 0.01


@backends
def test_a_scale_of_one_is_none(backend):
    critic, (states, actions) = ensemble(), inputs(9)
    expected = refine(critic, states, actions, lr=0.3, backend=backend)
    for one in (1, 1.0, torch.ones(A), torch.ones(9, 1), np.ones((9, A))):
        found = refine(critic, states, actions, lr=0.3, scale=one, backend=backend)
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**31),
    rows=st.integers(1, 40),
    norm=st.sampled_from(["inf", "l2"]),
    optimizer=st.sampled_from(["sgd", "adam", "rmsprop"]),
    zeros=st.floats(0, 1),
)
def test_never_outside_the_ellipsoid_and_never_along_a_scale_of_zero(seed, rows, norm, optimizer, zeros):
    generator = torch.Generator().manual_seed(seed)
    states, actions = inputs(rows, seed=seed)
    scale = torch.rand(rows, A, generator=generator) * (torch.rand(rows, A, generator=generator) >= zeros)
    limit = torch.rand(rows, generator=generator) * 2
    result = refine(
        ensemble(), states, actions, lr=3.0, optimizer=optimizer, scale=scale, radius=Radius(limit, norm)
    )
    away = (result.double() - actions) / scale.where(scale > 0, 1.0)
    length = away.abs().amax(1) if norm == "inf" else away.norm(dim=1)
    rounding = 2e-7 / scale.where(scale > 0, 1.0).amin(1)  # of an action near 1, in units of u
    assert (length <= limit * (1 + 1e-5) + 2 * rounding).all()
    assert (result.view(torch.int32) == actions.view(torch.int32))[scale == 0].all()


@backends
def test_rows_with_a_radius_of_their_own_go_as_they_do_alone(backend):
    critic, (states, actions) = ensemble(), inputs(6)
    limits = [0.0, 0.01, 0.05, 0.2, 1.0, np.inf]
    options = {"steps": 3, "lr": 0.5, "backend": backend}
    for norm in ("inf", "l2"):
        together = refine(critic, states, actions, radius=Radius(limits, norm), **options)
        for i, limit in enumerate(limits):
            radius = None if limit == np.inf else Radius(limit, norm)
            alone = refine(critic, states[i : i + 1], actions[i : i + 1], radius=radius, **options)
            torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-4, atol=1e-4)
    assert torch.equal(refine(critic, states, actions, radius=np.array([limits]).T, **options)[0], actions[0])


@backends
def test_a_refiner_takes_others_at_a_call(backend):
    critic, (states, actions) = ensemble(), inputs(5)
    scale, limit = torch.rand(5, A), torch.rand(5) * 0.1
    refiner = Refiner(critic, scale=0.5, radius=Radius(0.1, "l2"), lr=0.5, backend=backend)
    own = refine(critic, states, actions, scale=0.5, radius=Radius(0.1, "l2"), lr=0.5, backend=backend)
    for _ in range(3):  # the second call and the third are the short path's
        assert torch.equal(refiner(states, actions), own)
    expected = refine(
        critic, states, actions, scale=scale, radius=Radius(limit, "l2"), lr=0.5, backend=backend
    )
    assert torch.equal(refiner.run(states, actions, scale=scale, radius=limit), expected)
    assert torch.equal(refiner.run(states, actions, scale=scale, radius=Radius(limit, "l2")), expected)
    assert torch.equal(refiner.run(states, actions, radius=0.1), own)
    single = refiner.run(states[0], actions[0], scale=scale[0], radius=0.05)
    assert single.shape == (A,) and not torch.equal(single, own[0])
    assert torch.equal(refiner(states, actions), own)
    with pytest.raises(ValueError, match=r'radius: this Refiner has a radius in the "l2" norm, which a call'):
        refiner.run(states, actions, radius=Radius(0.1, "inf"))
    with pytest.raises(ValueError, match="radius: this Refiner has no radius"):
        Refiner(critic).run(states, actions, radius=0.1)


@backends
def test_numbers_of_rows_that_change_are_read_at_every_call(backend):
    critic, (states, actions) = ensemble(), inputs(5)
    scale, limit = torch.full((5, A), 0.5), torch.full((5,), 0.05)
    refiner = Refiner(critic, scale=scale, radius=limit, lr=0.5, backend=backend)
    for factor in (1.0, 0.5, 0.0):
        scale *= factor
        result = refiner(states, actions)
        assert ((result - actions).abs() <= limit[:, None] * scale + 1e-6).all()
    assert torch.equal(result, actions)


def test_candidates_share_the_scale_and_radius_of_their_state():
    critic, (states, actions) = ensemble(), inputs(4)
    many = torch.stack([actions, -actions, actions.flip(1)], 1)
    scale, limit = torch.rand(4, A), torch.rand(4) * 0.2
    each = [
        refine(critic, states, many[:, m], scale=scale, radius=limit, lr=0.5, return_info=True)
        for m in range(3)
    ]
    best = torch.stack([info.q_best for _, info in each]).argmax(0)
    expected = torch.stack([a for a, _ in each])[best, torch.arange(4)]
    found = refine(critic, states, many, scale=scale, radius=limit, lr=0.5)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_doubles_keep_their_bits_where_the_scale_is_zero():
    states, actions = (x.double() for x in inputs(6))
    scale = torch.tensor([0.0, 1.0, 0.0])
    result = refine(ensemble(), states, actions, scale=scale, lr=0.5)
    assert torch.equal(result[:, ::2], actions[:, ::2]) and not torch.equal(result, actions)


def test_explain_takes_them():
    said = explain(critic_of(), torch.zeros(4, S), scale=0.1, radius=Radius(torch.ones(4), "l2"))
    assert str(said) == str(explain(critic_of(), torch.zeros(4, S), radius=Radius(1.0, "l2")))
