"""Action Gradient from several starts: which are drawn, which end is executed, and that an episode's draws
are its own."""

import numpy as np
import pytest
import torch
from rounding import blas_rounds_rows_alike

from dtag_fast import refine
from dtag_fast.models import OnlineDecisionTransformer, Reinformer, StatePolicy, TanhGaussianPolicy
from dtag_fast.models.behaviour import Behaviour, BehaviourModel
from dtag_fast.rollout import AGSetting, Candidates, Collector, Exploration, evaluate, measure_latency
from dtag_fast.rollout.captured import why_not_captured
from dtag_fast.rollout.evaluation import make_actor
from dtag_fast.rollout.refinement import Refinement
from dtag_fast.rollout.starts import Starts

KINDS = ("reinformer", "odt", "iql", "cql")
BOUNDS = {"action_low": [-1.0, -0.5], "action_high": [1.0, 1.5]}
SETTINGS = [
    AGSetting(),
    AGSetting(3, 0.3),
    AGSetting(starts=4),
    AGSetting(3, 0.3, starts=4),
    AGSetting(3, 0.3, starts=9),
]


@pytest.fixture
def stochastic(make_policy):
    """stochastic(kind): its actions vary, its draws too and by another deviation in each dimension."""

    def build(kind, **about):
        policy = make_policy("iql" if kind == "cql" else kind, **about)
        with torch.random.fork_rng():
            torch.manual_seed(5)
            if kind == "cql":
                mean, std = policy.info.state_mean, policy.info.state_std
                policy = type(policy)(
                    TanhGaussianPolicy(3, 2, (16, 16), state_mean=mean, state_std=std), policy.info
                )
                policy.model.head.weight.data.mul_(20)
            if kind == "odt":
                policy.model.action_head.weight.data.mul_(0.1)
                policy.model.log_std_head.weight.data.normal_()
            elif kind != "cql":
                policy.model.action_log_std.data = torch.tensor([-1.5, -0.5])
        bounds = policy.model.action_bounds
        low, high = (torch.tensor(BOUNDS[name]) for name in ("action_low", "action_high"))
        bounds.centre, bounds.half_range = (low + high) / 2, (high - low) / 2
        vars(policy.info).update(BOUNDS)
        return policy

    return build


@pytest.fixture(params=KINDS)
def policy(request, stochastic):
    return stochastic(request.param)


def numbers(result):
    return [np.concatenate((s.returns, s.mean_q_0, s.mean_q_gain)).tolist() for s in result.settings]


def expect_equal(found, expected):
    if blas_rounds_rows_alike():
        assert found == expected
    else:
        assert np.allclose(np.concatenate(found), np.concatenate(expected), rtol=1e-4)


def own_distribution(policy, own, seen, executed, rewards):
    """mean and log deviation at the last state of an episode, by the model alone, over its whole window."""
    model, t = policy.model, len(seen) - 1
    states = torch.tensor(np.array(seen))
    if isinstance(model, Reinformer):
        return torch.tensor(own), model.action_log_std
    if isinstance(model, StatePolicy):
        return model(states)
    k = model.config.context_len
    span = slice(max(0, t + 1 - k), t + 1)
    states = model.normalize_states(states[span])[None]
    actions = torch.tensor(np.array([*executed, np.zeros(2, np.float32)])[span])[None]
    times = torch.arange(t + 1)[span][None]
    mask = torch.ones_like(times, dtype=torch.bool)
    asked = 50.0 - np.concatenate(([0.0], np.cumsum(rewards)))
    returns = torch.tensor(asked[span] / model.config.return_scale, dtype=torch.float32)[None, :, None]
    with torch.no_grad():
        found = model.distribution(states, actions, returns, times, mask)
    return found


def by_hand(policy, own, distribution, noise):
    """The starts (M, A) of a step, from its formulas in `rollout.starts`."""
    low, high = (np.array(BOUNDS[name]) for name in ("action_low", "action_high"))
    mean, log_std = (np.asarray(part.detach(), np.float64).reshape(-1, 2)[-1] for part in distribution)
    drawn = mean + np.exp(log_std) * noise
    if isinstance(policy.model, OnlineDecisionTransformer | TanhGaussianPolicy):
        drawn = (high + low) / 2 + (high - low) / 2 * np.tanh(drawn)
    return np.concatenate((own[None], np.clip(drawn, low, high)))


@pytest.mark.parametrize(("steps", "spread"), [(0, 1.0), (3, 1.0), (3, 0.5)])
def test_the_executed_action_is_that_of_refine_on_candidates(policy, critic, counting, steps, spread):
    """Step by step of one episode: the same policy acts in a loop of its own, told what was executed."""
    setting = AGSetting(steps, 0.3, starts=6, spread=spread)
    result = evaluate(policy, critic=critic, settings=[setting], episodes=3, seed=4, workers=1)
    played = [event for event in counting.CountingEnv.events if event[0] == "step" and event[1] == 5]
    executed = np.array([event[3] for event in played])
    target = 50.0 if policy.model.takes_target_return else None
    actor, everyone = make_actor(policy, 1, target, True, None, None, None), np.ones(1, bool)
    actor.reset(everyone, target, 5)
    env = counting.CountingEnv()
    state, _ = env.reset(seed=5)
    rng = np.random.default_rng([5, *b"starts"])
    seen, rewards, winners, q_best = [], [], set(), []
    for action in executed:
        seen.append(np.float32(state))
        own = actor.act(seen[-1][None], everyone)[0]
        distribution = own_distribution(policy, own, seen, executed[: len(seen) - 1], rewards)
        starts = by_hand(policy, own, distribution, spread * rng.standard_normal((5, 2)))
        found, info = refine(
            critic.critic,
            torch.tensor(seen[-1])[None],
            torch.tensor(starts, dtype=torch.float32)[None],
            steps=steps,
            lr=0.3,
            bounds=policy.info.action_bounds,
            return_info=True,
        )
        assert np.allclose(found[0], action, atol=2e-5)
        winners.add(int(info.best_candidate))
        q_best.append(float(info.q_best))
        state, reward, *_ = env.step(action)
        rewards.append(reward)
        actor.record(action[None], np.array([reward]), everyone)
    assert len(winners) > 1  # the starts matter
    (mine,) = result.settings
    assert np.isclose(mine.mean_q_0[1] + mine.mean_q_gain[1], np.mean(q_best), atol=1e-4)


def test_an_episode_depends_on_its_seed_and_its_setting_alone(policy, critic):
    options = {"critic": critic, "episodes": 5, "seed": 2}
    together = evaluate(policy, settings=SETTINGS, max_envs=13, workers=2, **options)
    alone = [evaluate(policy, settings=[s], max_envs=5, workers=1, **options) for s in SETTINGS]
    expect_equal(numbers(together), [numbers(one)[0] for one in alone])
    assert len({tuple(mine) for mine in numbers(together)}) == len(SETTINGS)
    assert [s.setting.starts for s in together.settings] == [1, 1, 4, 4, 9]
    assert together.to_dict()["settings"][3]["setting"]["starts"] == 4
    expect_equal(
        numbers(evaluate(policy, settings=SETTINGS, max_envs=13, workers=2, **options)), numbers(together)
    )


def test_over_whole_windows_it_is_the_same_episode(stochastic, critic):
    policy = stochastic("odt")
    options = {"critic": critic, "settings": SETTINGS[2:4], "episodes": 3}
    compiled = evaluate(policy, **options)
    policy.model.attention = "sdpa"
    assert np.allclose(numbers(compiled), numbers(evaluate(policy, **options)), rtol=1e-3, atol=1e-4)


def test_weights_that_change_between_steps_are_followed(stochastic):
    policy = stochastic("odt")
    crew = [make_actor(policy, 2, 50.0, True, None, None, None) for _ in range(2)]
    crew[1].decoder = None  # goes over windows
    pairs = [(actor, Starts(actor, 2, [AGSetting(starts=3)])) for actor in crew]
    rng, rows, everyone = np.random.default_rng(0), np.arange(2), np.ones(2, bool)
    for _, starts in pairs:
        starts.begin(0, 3), starts.begin(1, 4)
    for step in range(6):
        if step == 4:
            with torch.no_grad():
                policy.model.log_std_head.bias.add_(0.5)
                policy.model.embed_state.weight.mul_(1.2)
        seen = rng.normal(size=(2, 3)).astype("f4")
        drawn = []
        for actor, starts in pairs:
            actions = actor.act(seen, everyone)
            drawn.append(starts.draw(rows, seen, actions, np.zeros(2, int)))
            actor.record(drawn[0][::2], np.ones(2), everyone)
        np.testing.assert_allclose(*drawn, atol=1e-5)


@pytest.mark.parametrize("batch_invariant", [False, True])
def test_more_starts_never_lose_q(critic, batch_invariant):
    """Of frozen steps: rows of any numbers of starts in one call, and twice, in memory that is kept."""
    settings = [AGSetting(n, 0.2, starts=m, reduce=r) for n in (0, 4) for m in (1, 3, 8) for r in ("min", 1)]
    refinement = Refinement(critic.critic, (-1.0, 1.0), settings, batch_invariant=batch_invariant)
    rng = np.random.default_rng(0)
    for which in (rng.integers(0, 12, 40), np.arange(12), np.arange(12)):
        rows = len(which)
        states, own = rng.normal(size=(rows, 3)).astype("f4"), rng.uniform(-1, 1, (rows, 2)).astype("f4")
        counts = np.array([settings[i].starts for i in which])
        draws = rng.uniform(-1, 1, (int((counts - 1).sum()), 2)).astype("f4")
        found = refinement(states, own, which, draws)
        places = np.cumsum(counts - 1) - (counts - 1)
        for row, i in enumerate(which):
            mine = np.concatenate((own[row : row + 1], draws[places[row] :][: counts[row] - 1]))
            s = settings[i]
            options = {
                "steps": s.steps,
                "lr": s.lr,
                "reduce": s.reduce,
                "bounds": (-1.0, 1.0),
                "return_info": True,
            }
            best, info = refine(critic.critic, states[row : row + 1], mine[None], **options)
            _, alone = refine(critic.critic, states[row : row + 1], own[row : row + 1], **options)
            assert np.allclose(found.actions[row], best[0], atol=1e-5)
            assert np.isclose(found.q_best[row], info.q_best[0], atol=1e-5)
            assert np.isclose(found.q_0[row], alone.q_0[0], atol=1e-5)
            assert found.q_best[row] >= alone.q_best[0] - 1e-6
            if s.starts > 1 and s.steps == 0:
                assert (np.abs(mine - found.actions[row]).max(axis=1) < 1e-6).any()


def test_with_a_behaviour_the_greatest_f_wins(critic):
    with torch.random.fork_rng():
        torch.manual_seed(2)
        model = BehaviourModel(3, 2, hidden=(8,))
    settings = [AGSetting(4, behaviour=Behaviour(2.0), starts=5), AGSetting(4, 0.2, starts=3)]
    options = {"batch_invariant": True, "behaviour": model}
    refinement = Refinement(critic.critic, (-1.0, 1.0), settings, **options)
    rng = np.random.default_rng(0)
    states, own = rng.normal(size=(9, 3)).astype("f4"), rng.uniform(-1, 1, (9, 2)).astype("f4")
    draws = rng.uniform(-1, 1, (9, 4, 2)).astype("f4")
    found = refinement(states, own, np.zeros(9, int), draws.reshape(-1, 2))
    starts = torch.tensor(np.concatenate((own[:, None], draws), axis=1))
    asked = model.options(torch.tensor(states), steps=4, weight=2.0)
    best, info = refine(
        critic.critic, torch.tensor(states), starts, bounds=(-1.0, 1.0), return_info=True, **asked
    )
    assert np.allclose(found.actions, best, atol=1e-5) and np.allclose(found.q_best, info.q_best, atol=1e-5)
    assert (info.best_candidate != info.candidate_q_best.argmax(1)).any()  # by Q another would have won


def test_a_q_that_is_not_finite_never_wins(critic):
    class Holes(torch.nn.Module):
        """NaN where an action's first dimension is above 0, infinite below -0.9."""

        def forward(self, states, actions):
            q = actions.sum(-1) - 5 * (actions[..., 0] < -0.5)
            q = torch.where(actions[..., 0] > 0, torch.nan, q)
            return torch.where(actions[..., 0] < -0.9, torch.inf, q)

    with pytest.warns(RuntimeWarning, match="slow autograd reference"):
        refinement = Refinement(Holes(), (-1.0, 1.0), [AGSetting(starts=3)])
        states, which = np.zeros((3, 3), "f4"), np.zeros(3, int)
        own = np.array([[-0.6, 0.0], [0.5, 0.0], [0.5, 0.5]], "f4")
        draws = np.array([[0.5, 0], [-0.95, 0], [-0.2, 0], [0.6, 0], [0.7, 0], [-0.95, 0]], "f4")
        found = refinement(states, own, which, draws)
    assert found.actions.tolist() == np.stack((own[0], draws[2], own[2])).tolist()


def test_ties_go_to_the_earliest(critic):
    refinement = Refinement(critic.critic, (-1.0, 1.0), [AGSetting(2, 0.0, starts=3)], batch_invariant=True)
    own = np.array([[0.1, 0.2]], "f4")
    draws = np.array([[0.1, 0.2], [0.1, 0.2]], "f4")
    found = refinement(np.ones((1, 3), "f4"), own, np.zeros(1, int), draws)
    assert found.actions.tolist() == own.tolist() and found.q_best == found.q_0


@pytest.mark.parametrize("kind", ["dt", "edt", "adt", "bc"])
def test_policies_without_a_distribution_are_refused(make_policy, critic, counting, kind):
    for settings in ([AGSetting(3, starts=4)], [AGSetting(), AGSetting(starts=4)]):
        with pytest.raises(
            ValueError, match=r"starts: AG n=. .*starts=4 draws .* has none; leave starts out"
        ):
            evaluate(make_policy(kind), critic=critic, settings=settings, episodes=1)
    assert counting.CountingEnv.events == []


def test_what_does_not_go_with_starts_is_refused(stochastic, critic, counting):
    odt, setting = stochastic("odt"), AGSetting(3, starts=4)
    with pytest.raises(ValueError, match="critic: AG n=0 starts=2 needs a critic, got None"):
        evaluate(odt, settings=[AGSetting(starts=2)])
    with pytest.raises(ValueError, match=r"starts: .* candidates act with another; leave one of them out"):
        evaluate(odt, critic=critic, settings=[setting], candidates=Candidates(3))
    with pytest.raises(ValueError, match="ag: a collector begins Action Gradient at one action, got AG n=3"):
        Collector(odt, slots=1, exploration=Exploration("none"), critic=critic, ag=setting)
    with pytest.raises(ValueError, match="starts: expected a whole number of at least 1, got 0"):
        AGSetting(3, starts=0)
    assert counting.CountingEnv.events == []


def test_an_elastic_history_draws_around_the_length_it_acts_with(stochastic, critic):
    policy, settings = stochastic("reinformer"), [AGSetting(2, 0.1), AGSetting(2, 0.1, starts=5)]
    options = {"critic": critic, "history_lengths": [1, 3], "episodes": 4, "seed": 1}
    together = evaluate(policy, settings=settings, **options)
    expect_equal(numbers(together)[1:], numbers(evaluate(policy, settings=settings[1:], **options)))
    assert together.settings[0].returns != together.settings[1].returns


def test_starts_are_no_part_of_a_captured_step(stochastic, critic):
    for starts, reason in ((1, None), (2, "starts of Action Gradient are drawn on the host")):
        refinement = Refinement(critic.critic, (-1.0, 1.0), [AGSetting(2), AGSetting(2, starts=starts)])
        assert refinement.why_not_captured(3, 2) == reason
    actor = make_actor(stochastic("odt"), 1, 50.0, False, None, None, None)
    assert "CUDA graphs need a GPU" in why_not_captured(actor, refinement)


def test_latency_is_that_of_all_starts(policy, critic, counting):
    setting = AGSetting(3, 0.3, starts=4)
    played = evaluate(policy, critic=critic, settings=[setting], episodes=1, workers=1)
    executed = [event[3] for event in counting.CountingEnv.events if event[0] == "step"]
    counting.CountingEnv.events.clear()
    count = len(executed)
    found = measure_latency(policy, critic=critic, settings=[setting], actions=count, warmup=0)
    again = [event[3] for event in counting.CountingEnv.events if event[0] == "step"]
    assert np.allclose(executed, again[:count], atol=1e-5) and played.settings[0].lengths == [count]
    assert list(found.settings[0].parts) == ["policy", "refine", "environment", "total"]
