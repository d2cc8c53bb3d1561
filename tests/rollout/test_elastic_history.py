"""Elastic history: at each step the length of history that promises the highest return."""

import numpy as np
import pytest

from dtag_fast.rollout import AGSetting, SequencePolicy, evaluate
from dtag_fast.rollout.reference import autograd_action_gradient, play_episode

LENGTHS = [1, 2, 5]


@pytest.fixture(params=["reinformer", "edt"])
def policy(request, make_policy):
    return make_policy(request.param, context_len=5)


@pytest.mark.parametrize("ag_steps", [0, 3])
def test_actions_are_those_of_the_literal_loop(policy, critic, counting, new_env, ag_steps):
    settings = [AGSetting(ag_steps, lr=0.3)]
    options = {"critic": critic, "settings": settings, "episodes": 12, "max_envs": 5, "workers": 1}
    result = evaluate(policy, history_lengths=LENGTHS, **options)
    played = {}
    for event in counting.CountingEnv.events:
        if event[0] == "step":
            played.setdefault(event[1], []).append(event[3])
    improve = autograd_action_gradient(critic.critic, ag_steps, 0.3, -1.0, 1.0) if ag_steps else None
    differs = 0.0
    for seed in result.settings[0].seeds:
        literal = play_episode(policy.model, new_env(), seed, improve=improve, history_lengths=LENGTHS)
        batched = np.array(played[seed])
        assert np.allclose(batched, literal.actions, atol=2e-5)
        usual = play_episode(policy.model, new_env(), seed, improve=improve)
        differs = max(differs, np.abs(batched - usual.actions).max())
    assert differs > 1e-3  # the length matters
    assert result.policy["history_lengths"] == LENGTHS and result.policy["context_len"] == 5


def test_the_highest_prediction_is_acted_on(policy):
    """One rollout: the elastic step's return is the largest of those that single lengths predict."""
    rng = np.random.default_rng(0)
    elastic = SequencePolicy(policy.model, 1, history_lengths=LENGTHS)
    active, chosen = np.ones(1, bool), set()
    for _ in range(12):
        observation = rng.normal(size=(1, 3)).astype("f4")
        action = elastic.act(observation, active)
        rows = np.zeros(1, np.int64)
        returns = elastic.history.window(rows, 1).returns_to_go[0, 0, 0]
        single = [elastic._act_on_window(rows, length) for length in LENGTHS]
        predicted = [found[1].item() for found in single]
        best = int(np.argmax(predicted))
        assert returns == pytest.approx(max(predicted), abs=1e-6)
        assert np.allclose(action, single[best][0], atol=1e-6)
        chosen.add(LENGTHS[best])
        elastic.record(action, np.ones(1), active)
    assert len(chosen) > 1


def test_the_whole_history_alone_is_the_usual_policy(policy):
    usual = evaluate(policy, episodes=6)
    whole = evaluate(policy, episodes=6, history_lengths=[5])
    assert np.allclose(usual.settings[0].returns, whole.settings[0].returns, rtol=1e-5)
    assert usual.policy["history_lengths"] is None


@pytest.mark.parametrize("lengths", [[], [0], [6], [1.5]])
def test_lengths_that_cannot_be_are_refused(policy, lengths):
    with pytest.raises(ValueError, match="history_lengths: expected whole numbers from 1 to context_len = 5"):
        evaluate(policy, history_lengths=lengths, episodes=1)


@pytest.mark.parametrize("kind", ["dt", "adt", "bc"])
def test_a_policy_without_predicted_returns_has_nothing_to_choose_by(make_policy, kind):
    with pytest.raises(ValueError, match=r"history_lengths: .* predicts no return to choose by"):
        evaluate(make_policy(kind), history_lengths=[1], episodes=1)
