"""Settings that are regularised by the behaviour of the data: what refine is given, in which company."""

import numpy as np
import pytest
import torch

from dtag_fast import Prior, Radius, refine
from dtag_fast.models import BehaviourModel
from dtag_fast.rollout import AGSetting, Behaviour, evaluate, measure_latency
from dtag_fast.rollout.refinement import Refinement


@pytest.fixture
def behaviour():
    with torch.random.fork_rng():
        torch.manual_seed(5)
        model = BehaviourModel(3, 2, hidden=(16, 16))
    model.action_std.fill_(0.4)
    model.q_std.fill_(2.0)
    return model.requires_grad_(False).eval()


REGULARISED = AGSetting(6, behaviour=Behaviour(0.5, 1.0))
RAW = AGSetting(4, lr=0.1)


def test_options_are_those_of_the_formula(behaviour):
    states = torch.randn(5, 3)
    local = behaviour(states)
    options = behaviour.options(states, steps=8, weight=0.25, radius=2.0)
    assert options["gradient"] == "unit" and options["steps"] == 8
    assert options["radius"] == Radius(2 * 2**0.5, "l2") and options["lr"] == pytest.approx(2 * 2**0.5 / 4)
    assert torch.equal(options["scale"], local.std)
    assert isinstance(options["prior"], Prior) and torch.equal(options["prior"].mean, local.mean)
    torch.testing.assert_close(options["prior"].weight, 0.25 * 2**0.5 * local.q_spread)


def test_refine_takes_them_for_rows_and_for_one_state(behaviour, critic):
    states, actions = torch.randn(5, 3), torch.rand(5, 2) * 2 - 1
    together = refine(critic.critic, states, actions, **behaviour.options(states))
    for row in range(5):
        alone = refine(critic.critic, states[row], actions[row], **behaviour.options(states[row]))
        torch.testing.assert_close(alone, together[row])
    u = (together - actions) / behaviour(states).std
    assert (u.norm(dim=1) <= 2**0.5 * (1 + 1e-5)).all() and not torch.equal(together, actions)


def test_evaluation_refines_as_the_call_does(make_policy, critic, behaviour, counting):
    policy = make_policy("reinformer")
    result = evaluate(policy, critic=critic, settings=[REGULARISED], behaviour=behaviour, episodes=2, seed=3)
    plain = evaluate(policy, critic=critic, episodes=2, seed=3)
    assert result.settings[0].returns != plain.settings[0].returns
    assert result.settings[0].label == "AG n=6 behaviour weight=0.5 radius=1"
    assert result.settings[0].setting.to_dict()["behaviour"] == {
        "name": "Behaviour",
        "weight": 0.5,
        "radius": 1.0,
    }


def test_company_changes_no_bit(make_policy, critic, behaviour):
    policy = make_policy("reinformer")
    options = {"critic": critic, "episodes": 3, "seed": 0, "behaviour": behaviour}
    settings = [AGSetting(), RAW, REGULARISED, AGSetting(3, behaviour=Behaviour(2.0, 0.5), reduce="mean")]
    together = evaluate(policy, settings=settings, **options).settings
    for setting, expected in zip(settings, together, strict=True):
        alone = evaluate(policy, settings=[setting], **options).settings[0]
        assert alone.returns == expected.returns and alone.mean_q_gain == expected.mean_q_gain


def test_latency_times_it(make_policy, critic, behaviour):
    policy = make_policy("reinformer")
    result = measure_latency(
        policy, critic=critic, settings=[REGULARISED], behaviour=behaviour, actions=5, warmup=1
    )
    assert result.settings[0].parts["refine"].p50 > 0


@pytest.mark.parametrize(
    "options, message",
    [
        ({"lr": 0.1}, "behaviour: stands in place of lr, optimizer, gradient and radius; leave lr out"),
        ({"radius": 0.1}, "leave radius out"),
        ({"gradient": "unit"}, "leave gradient out"),
    ],
)
def test_what_it_replaces_is_refused_beside_it(options, message):
    with pytest.raises(ValueError, match=message):
        AGSetting(5, behaviour=Behaviour(), **options)


def test_bad_input_is_refused(make_policy, critic, behaviour):
    with pytest.raises(ValueError, match="weight: expected a finite number of at least 0, got -1"):
        Behaviour(-1)
    with pytest.raises(TypeError, match="behaviour: expected Behaviour"):
        AGSetting(5, behaviour=0.5)
    with pytest.raises(ValueError, match="needs the critic's BehaviourModel, got None"):
        evaluate(make_policy("dt"), critic=critic, settings=[REGULARISED], episodes=1)
    other = BehaviourModel(4, 2)
    with pytest.raises(ValueError, match=r"behaviour: expected one for .* = \(3, 2\), got \(4, 2\)"):
        evaluate(make_policy("dt"), critic=critic, settings=[REGULARISED], episodes=1, behaviour=other)


def test_memory_that_a_worker_keeps_follows_the_states(behaviour, critic):
    """Step after step what refine gives for the options of these states, raw rows beside them."""
    settings = [REGULARISED, AGSetting(3, 0.1), AGSetting(4, behaviour=Behaviour(0.1, 0.5))]
    kept = Refinement(critic.critic, (-1.0, 1.0), settings, batch_invariant=True, behaviour=behaviour)
    rng, which = np.random.default_rng(0), np.array([0, 2, 1, 0, 2, 2, 0])
    for _ in range(4):
        states = rng.normal(size=(7, 3)).astype("f4")
        actions = rng.uniform(-1, 1, (7, 2)).astype("f4")
        found = kept(states, actions, which)
        for number, setting in enumerate(settings):
            rows = which == number
            given = torch.from_numpy(states[rows])
            options = {"steps": setting.steps, "lr": setting.lr}
            if setting.behaviour is not None:
                weight, radius = setting.behaviour.weight, setting.behaviour.radius
                options = behaviour.options(given, steps=setting.steps, weight=weight, radius=radius)
            expected = refine(
                critic.critic, given, torch.from_numpy(actions[rows]), bounds=(-1, 1), **options
            )
            np.testing.assert_allclose(found.actions[rows], expected.numpy(), atol=1e-5, rtol=1e-5)
