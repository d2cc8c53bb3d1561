"""All settings of an evaluation in one call of refine: each row as its setting alone would have it."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rounding import blas_rounds_rows_alike

from dtag_fast import SGD, Adam, ClipNorm, Radius
from dtag_fast.models.critics import TwinCritic
from dtag_fast.rollout import AGSetting, evaluate
from dtag_fast.rollout.refinement import Refinement

MIXED = [
    AGSetting(),
    AGSetting(2, 0.3),
    AGSetting(3, 0.1, optimizer="adam", reduce="mean"),
    AGSetting(4, 0.2, optimizer=SGD(0.9, nesterov=True), reduce=1, radius=Radius(0.1, "l2")),
    AGSetting(3, 0.1, gradient=ClipNorm(0.2), radius=0.05, select="last"),
    AGSetting(0, reduce="mean"),
]


def twin(seed=0):
    torch.manual_seed(seed)
    return TwinCritic(3, 2, hidden=(32, 32)).eval()


def bits(refined):
    return [np.asarray(x).view(np.int32).tolist() for x in refined]


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 2**31), rows=st.integers(1, 70), data=st.data())
def test_a_mixed_batch_equals_each_row_alone_bit_for_bit(seed, rows, data):
    optimizers = st.sampled_from(["sgd", "adam", "rmsprop", SGD(0.8), Adam((0.5, 0.9))])
    setting = st.builds(
        AGSetting,
        steps=st.integers(0, 4),
        lr=st.floats(0, 0.5, width=32),
        optimizer=optimizers,
        reduce=st.sampled_from(["min", "mean", 0, 1]),
        gradient=st.sampled_from(["raw", "unit", ClipNorm(0.1)]),
        radius=st.sampled_from([None, 0.1, Radius(0.2, "l2")]),
        select=st.sampled_from(["best", "last"]),
    )
    several = data.draw(st.lists(setting, min_size=1, max_size=6))
    rng = np.random.default_rng(seed)
    states, actions = rng.normal(size=(rows, 3)).astype("f4"), rng.uniform(-1, 1, (rows, 2)).astype("f4")
    which = rng.integers(0, len(several), rows)
    critic, options = twin(), {"bounds": (-1.0, 1.0), "batch_invariant": True}
    together = Refinement(critic, settings=several, **options)(states, actions, which)
    for number, one in enumerate(several):
        own = which == number
        if not own.any():
            continue
        alone = Refinement(critic, settings=[one], **options)
        found = alone(states[own], actions[own], np.zeros(own.sum(), int))
        assert bits(found) == [x[own].view(np.int32).tolist() for x in together]


def steps_of_an_evaluation(seed, count=12):
    """States, actions and settings of rows as a worker has them: the same settings for some steps, fewer rows
    towards the end."""
    rng = np.random.default_rng(seed)
    for step in range(count):
        rows = 19 - step
        which = np.arange(rows) * (step // 4 + 1) % len(MIXED)
        yield rng.normal(size=(rows, 3)).astype("f4"), rng.uniform(-1, 1, (rows, 2)).astype("f4"), which


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.filterwarnings("ignore:refine. this critic runs on the slow:RuntimeWarning")
def test_memory_that_is_kept_carries_nothing_from_step_to_step(dtype):
    """Each step as a Refinement of its own has it, of workers in turn and after a change of weights."""
    critic = twin().to(dtype)
    if dtype is torch.float64:  # the reference, which keeps the critic's own numbers
        critic.forward = lambda s, a, f=critic.forward: tuple(q.sinh() for q in f(s, a))
    options = {"bounds": (-1.0, 1.0), "settings": MIXED, "batch_invariant": True}
    kept = Refinement(critic, **options)
    assert kept.update(3, 2).loop_dtype is dtype
    steps = list(zip(steps_of_an_evaluation(0), steps_of_an_evaluation(1), strict=True))
    with ThreadPoolExecutor(1) as other:
        for number, (mine, others) in enumerate(steps):
            if number == 6:
                with torch.no_grad():
                    next(critic.parameters()).mul_(1.5)
            future = other.submit(kept, *others)
            found, theirs = kept(*mine), future.result()
            expected = [bits(Refinement(critic, **options)(*step)) for step in (mine, others)]
            kept(*mine[:2], mine[2][::-1].copy())  # takes nothing back from what was returned
            assert [bits(found), bits(theirs)] == expected


def test_the_plain_policy_is_told_by_its_own_reduction():
    """Whatever other settings there are; it needs no kernel of its own where one of them has the same."""
    critic, rng = twin(), np.random.default_rng(0)
    states, actions = rng.normal(size=(9, 3)).astype("f4"), rng.uniform(-1, 1, (9, 2)).astype("f4")
    with torch.no_grad():
        q = torch.stack([x.flatten() for x in critic(torch.from_numpy(states), torch.from_numpy(actions))])
    for others in ([], [AGSetting(3, optimizer="adam", reduce="mean")], [AGSetting(3, reduce=1)]):
        for plain, expected in ((AGSetting(), q.amin(0)), (AGSetting(0, reduce="mean"), q.mean(0))):
            refinement = Refinement(critic, (-1.0, 1.0), [*others, plain], batch_invariant=True)
            found = refinement(states, actions, np.full(9, len(others)))
            assert np.allclose(found.q_0, expected.numpy(), rtol=1e-5, atol=1e-6)
            assert np.array_equal(found.actions, actions)
    adam = AGSetting(3, optimizer="adam")
    assert len(Refinement(critic, (-1.0, 1.0), [AGSetting(), adam, AGSetting(5, 0.1, "adam")])._variants) == 1


def test_mixed_settings_equal_their_own_evaluations(policy, critic):
    options = {"critic": critic, "episodes": 6, "seed": 3, "workers": 1}
    together = evaluate(policy, settings=MIXED, max_envs=16, **options)
    for mine in together.settings:
        (alone,) = evaluate(policy, settings=[mine.setting], max_envs=16, **options).settings
        assert mine.seeds == alone.seeds
        if blas_rounds_rows_alike():
            assert mine.returns == alone.returns
            assert mine.mean_q_0 == alone.mean_q_0 and mine.mean_q_gain == alone.mean_q_gain
        else:
            assert np.allclose(mine.returns, alone.returns, rtol=1e-5)
            assert np.allclose(mine.mean_q_0, alone.mean_q_0, rtol=1e-4)


@pytest.mark.parametrize("batch_invariant", [False, True])
def test_no_rows_are_no_rows(batch_invariant):
    refinement = Refinement(twin(), (-1.0, 1.0), MIXED, batch_invariant=batch_invariant)
    found = refinement(np.zeros((0, 3), "f4"), np.zeros((0, 2), "f4"), np.zeros(0, int))
    assert [x.shape for x in found] == [(0, 2), (0,), (0,)]


def test_more_options_than_a_call_takes_are_refused():
    many = [AGSetting(1, 0.1, gradient=ClipNorm(0.1 + i)) for i in range(65)]
    with pytest.raises(ValueError, match=r"variants: expected 1 to 64 of them, got 65"):
        Refinement(twin(), (-1.0, 1.0), many)


def test_a_setting_has_one_radius():
    with pytest.raises(ValueError, match="radius: a Variant has one number, got 2"):
        AGSetting(1, radius=[0.1, 0.2])
