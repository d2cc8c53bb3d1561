"""Variants, as users give them: rows of one call under different options."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_critics import A, backends, ensemble, inputs, quiet

from dtag_fast import SGD, Adam, ClipNorm, Radius, Refiner, RMSprop, Variant, explain, refine

pytestmark = quiet
VARIANTS = [
    Variant(),
    Variant(optimizer="adam", reduce="mean"),
    Variant(optimizer=RMSprop(), reduce=1, select="last", radius=Radius(0.2, "l2")),
    Variant(optimizer=SGD(0.9, nesterov=True), gradient="unit", radius=0.1),
    Variant(gradient=ClipNorm(0.1), reduce=0),
]
OPTIONS = ("optimizer", "gradient", "reduce", "radius", "select")


def of(rows, count=5, seed=0):
    return torch.randint(0, count, (rows,), generator=torch.Generator().manual_seed(seed))


@backends
@pytest.mark.parametrize("rows", [5, 60])
def test_rows_go_as_those_of_their_variant_alone(backend, rows):
    states, actions = inputs(rows)
    index = of(rows)
    found, info = refine(
        ensemble(),
        states,
        actions,
        lr=0.1,
        variants=VARIANTS,
        variant=index,
        backend=backend,
        return_info=True,
    )
    for k, variant in enumerate(VARIANTS):
        own = index == k
        expected, details = refine(
            ensemble(), states, actions, lr=0.1, backend=backend, return_info=True, **vars(variant)
        )
        torch.testing.assert_close(found[own], expected[own], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(info.q_0[own], details.q_0[own], rtol=1e-5, atol=1e-6)
        assert torch.equal(info.best_index[own], details.best_index[own])


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 2**31),
    rows=st.integers(1, 60),
    candidates=st.integers(1, 3),
    members=st.integers(1, 4),
    data=st.data(),
)
def test_a_mixed_batch_equals_the_separate_calls_bit_for_bit(seed, rows, candidates, members, data):
    optimizers = st.sampled_from(["sgd", "adam", "rmsprop", SGD(0.8), Adam((0.5, 0.9), 1e-3)])
    variant = st.builds(
        Variant,
        optimizer=optimizers,
        gradient=st.sampled_from(["raw", "unit", ClipNorm(0.1)]),
        reduce=st.sampled_from(["min", "mean", 0, members - 1]),
        radius=st.sampled_from([None, 0.1, Radius(0.2, "l2")]),
        select=st.sampled_from(["best", "last"]),
    )
    several = data.draw(st.lists(variant, min_size=1, max_size=5))
    states, actions = inputs(rows, seed=seed)
    many = torch.stack([actions * (1 - 0.3 * m) for m in range(candidates)], 1)
    rng = torch.Generator().manual_seed(seed)
    index = of(rows, len(several), seed)
    numbers = {
        "steps": torch.randint(0, 5, (rows,), generator=rng),
        "lr": torch.rand(rows, A, generator=rng),
        "scale": torch.rand(rows, 1, generator=rng),
    }
    critic = ensemble(members)
    found = Refiner(critic, variants=several, batch_invariant=True).run(
        states, many, variant=index, **numbers
    )
    for k, one in enumerate(several):
        own = index == k
        mine = {name: x[own] for name, x in numbers.items()}
        alone = Refiner(critic, batch_invariant=True, **vars(one)).run(states[own], many[own], **mine)
        assert torch.equal(found[own].view(torch.int32), alone.view(torch.int32))


@backends
@pytest.mark.parametrize("invariant", [False, True])
@pytest.mark.parametrize("rows", [3, 40])
def test_rows_of_one_variant_have_the_bits_of_the_plain_call(backend, invariant, rows):
    states, actions = inputs(rows)
    options = {"lr": 0.1, "backend": backend, "batch_invariant": invariant}
    several = Refiner(ensemble(), variants=VARIANTS, **options)
    for k, variant in enumerate(VARIANTS):
        expected = Refiner(ensemble(), **options, **vars(variant))(states, actions)
        assert torch.equal(several.run(states, actions, variant=np.full(rows, k)), expected)
        one = Refiner(ensemble(), variants=[variant], **options)
        assert torch.equal(one(states, actions), expected)
        assert torch.equal(one.run(states, actions, variant=torch.zeros(rows, dtype=torch.int64)), expected)


@backends
def test_a_refiner_follows_its_critic(backend):
    critic, (states, actions) = ensemble.__wrapped__(3, torch.nn.ReLU, 7), inputs(9)
    refiner = Refiner(critic, variants=VARIANTS, backend=backend)
    for factor in (1.0, -0.7):
        with torch.no_grad():
            for weight in critic.parameters():
                weight.mul_(factor)
        for index in (of(9), torch.ones(9, dtype=torch.int64)):
            fresh = Refiner(critic, variants=VARIANTS, backend=backend)
            found = refiner.run(states, actions, variant=index)
            assert torch.equal(found, fresh.run(states, actions, variant=index))
    critic.nets[0][0].weight.data.zero_()  # no version tells
    refiner.refresh()
    for index in (of(9), torch.ones(9, dtype=torch.int64)):
        fresh = Refiner(critic, variants=VARIANTS, backend=backend)
        assert torch.equal(
            refiner.run(states, actions, variant=index), fresh.run(states, actions, variant=index)
        )


def test_an_index_may_belong_to_the_refiner_and_single_states_have_one():
    states, actions = inputs(6)
    index = of(6)
    refiner = Refiner(ensemble(), variants=VARIANTS, variant=index)
    assert torch.equal(
        refiner(states, actions), refine(ensemble(), states, actions, variants=VARIANTS, variant=index)
    )
    single = refiner.run(states[0], actions[0], variant=[3])
    assert torch.equal(single, refine(ensemble(), states[0], actions[0], **vars(VARIANTS[3])))
    assert refiner.run(states[:0], actions[:0], variant=index[:0]).shape == (0, A)


def test_a_critic_that_reduces_itself_is_taken_as_it_is():
    class Least(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.critic = ensemble()

        def forward(self, state, action):
            return torch.min(*self.critic(state, action))

    states, actions = inputs(20)
    several = [Variant(reduce="mean"), Variant(reduce="min", optimizer="adam"), Variant(reduce=0)]
    index = of(20, 3)
    found = refine(Least(), states, actions, variants=several, variant=index)
    for k, variant in enumerate(several):
        expected = refine(ensemble(), states, actions, **vars(variant) | {"reduce": "min"})
        torch.testing.assert_close(found[index == k], expected[index == k], rtol=1e-5, atol=1e-6)


def test_variants_compile():
    torch._dynamo.reset()
    critic, (states, actions) = ensemble(), inputs(8)
    run = lambda s, a, i: refine(critic, s, a, variants=VARIANTS, variant=i, lr=0.1)  # noqa: E731
    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    for seed in (0, 1):
        index = of(8, seed=seed)
        assert torch.equal(compiled(states, actions, index), run(states, actions, index))


def test_explain_takes_them():
    said = explain(ensemble(), *inputs(), variants=VARIANTS)
    assert said.backend == explain(ensemble(), *inputs()).backend and said.kernel


BAD = {
    "no list": ({"variants": Variant()}, TypeError, r"variants: expected a list of Variant\(...\)"),
    "other things": ({"variants": ["adam"]}, TypeError, "variants: expected a list of Variant"),
    "none at all": ({"variants": []}, ValueError, "variants: expected 1 to 64 of them, got 0"),
    "too many": ({"variants": [Variant()] * 65}, ValueError, "variants: expected 1 to 64 of them, got 65"),
    "no index": (
        {"variants": VARIANTS},
        ValueError,
        "variant: expected which of the 5 variants each row has",
    ),
    "index alone": ({"variant": [0] * 4}, ValueError, "variant: expected with `variants`"),
    "index of one": ({"variants": VARIANTS, "variant": 1}, TypeError, "variant: expected integers of shape"),
    "index rows": ({"variants": VARIANTS, "variant": [0, 1]}, ValueError, "variant: expected 4 entries"),
    "index floats": ({"variants": VARIANTS, "variant": [0.0] * 4}, TypeError, "variant: expected integers"),
    "index axes": (
        {"variants": VARIANTS, "variant": [[0]] * 4},
        ValueError,
        r"variant: expected shape \(B,\)",
    ),
    "index range": (
        {"variants": VARIANTS, "variant": [0, 5, 1, 2]},
        ValueError,
        r"variant: expected integers in 0\.\.4, got 0\.\.5",
    ),
    "member": (
        {"variants": [Variant(), Variant(reduce=2)], "variant": [0, 1, 0, 1]},
        ValueError,
        r"reduce: expected a member in 0\.\.1",
    ),
    "radius of rows": (
        {"variants": VARIANTS, "variant": of(4), "radius": torch.ones(4)},
        ValueError,
        "radius: with `variants`",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_names_the_argument(name):
    change, error, message = BAD[name]
    with pytest.raises(error, match=message):
        refine(ensemble(), *inputs(), **change)


@pytest.mark.parametrize("name", OPTIONS)
def test_single_options_beside_variants_are_refused(name):
    given = {"optimizer": "adam", "gradient": "unit", "reduce": "mean", "radius": 0.1, "select": "last"}[name]
    with pytest.raises(ValueError, match=f"{name}: with `variants` each row has that of its variant"):
        refine(ensemble(), *inputs(), variants=VARIANTS, variant=of(4), **{name: given})


def test_a_variant_checks_itself():
    for wrong, error in (
        ({"optimizer": "lion"}, ValueError),
        ({"reduce": 1.5}, TypeError),
        ({"radius": torch.ones(3)}, ValueError),
        ({"select": "first"}, ValueError),
    ):
        with pytest.raises(error, match=next(iter(wrong))):
            Variant(**wrong)
    assert Variant(optimizer="adam", radius=0.1) == Variant(optimizer=Adam(), radius=Radius(0.1))
