"""Collected episodes: checked against the environment's own record, the evaluation, and a literal loop."""

import numpy as np
import pytest
import torch
from collecting import NOISE, NONE, SAMPLE, TARGET, assert_same, bits, collect, literal_actions

from dtag_fast.data import TrajectoryStore, delayed
from dtag_fast.rollout import AGSetting, CollectionTask, Collector, Exploration, evaluate
from dtag_fast.rollout.exploration import ActionNoise
from dtag_fast.rollout.reference import autograd_action_gradient


def test_episodes_are_what_the_environments_saw(make_policy, counting):
    collection = collect(make_policy("odt"), range(20, 33), NOISE)
    played = {}
    for event in counting.CountingEnv.events:
        if event[0] == "reset":
            assert event[1] not in played
            played[event[1]] = []
        else:
            played[event[1]].append(event[3:])
    assert [c.task.seed for c in collection.episodes] == list(range(20, 33)) == sorted(played)
    for c in collection.episodes:
        episode, seed, steps = c.episode, c.task.seed, counting.episode_length(c.task.seed)
        assert [part.shape for part in episode] == [(steps + 1, 3), (steps, 2), (steps,), (steps,), (steps,)]
        assert [part.dtype for part in episode] == [np.float32] * 3 + [np.bool_] * 2
        assert np.array_equal(episode.actions, [action for action, _ in played[seed]])
        assert np.array_equal(episode.rewards, np.float32([reward for _, reward in played[seed]]))
        memory = [0.1 * (seed % 4)]
        for action in episode.actions:
            memory.append(0.5 * memory[-1] + float(action.sum()))
        states = np.stack((np.arange(steps + 1), memory, np.full(steps + 1, seed % 5)), axis=1)
        assert np.array_equal(episode.observations, states.astype(np.float32))
        by_time = counting.ends_by_time(seed)
        assert episode.truncations.tolist() == [False] * (steps - 1) + [by_time]
        assert episode.terminations.tolist() == [False] * (steps - 1) + [not by_time]
        assert c.played.episode_return == sum(reward for _, reward in played[seed])
        assert (c.played.length, c.played.terminated) == (steps, not by_time)
    assert collection.env_steps == sum(map(len, played.values())) and collection.failures == []
    store = TrajectoryStore.from_episodes([c.episode for c in collection.episodes])
    assert np.allclose(store.episode_returns, [c.played.episode_return for c in collection.episodes])


@pytest.mark.parametrize("kind", ["dt", "odt", "adt", "reinformer", "bc"])
@pytest.mark.parametrize("refined", [False, True])
def test_without_exploration_episodes_are_those_of_an_evaluation(make_policy, critic, kind, refined):
    policy, setting = make_policy(kind), AGSetting(3, 0.2)
    options = {"critic": critic} if refined else {}
    settings = {"settings": [setting]} if refined else {}
    (wanted,) = evaluate(policy, episodes=9, seed=4, max_envs=4, workers=1, **options, **settings).settings
    ag = {"ag": setting} if refined else {}
    found = [c.played for c in collect(policy, range(4, 13), **options, **ag).episodes]
    assert [p.episode_return for p in found] == wanted.returns
    assert [p.mean_q_0 for p in found] == (wanted.mean_q_0 or [None] * 9)
    assert [p.mean_q_gain for p in found] == (wanted.mean_q_gain or [None] * 9)


@pytest.mark.parametrize("exploration", [NOISE, SAMPLE], ids=lambda e: e.kind)
@pytest.mark.parametrize("ag_steps", [0, 4])
@pytest.mark.parametrize("padding", ["left", "right"])
def test_actions_are_those_of_the_literal_loop(make_policy, critic, exploration, ag_steps, padding):
    policy = make_policy("odt")
    object.__setattr__(policy.model.config, "padding", padding)
    ag = {"critic": critic, "ag": AGSetting(ag_steps, 0.3)} if ag_steps else {}
    improve = autograd_action_gradient(critic.critic, ag_steps, 0.3, -1.0, 1.0) if ag_steps else None
    explored = refined = 0.0
    for c in collect(policy, range(8), exploration, **ag).episodes:
        assert np.allclose(literal_actions(policy, c, exploration, improve), c.episode.actions, atol=5e-5)
        explored += np.abs(literal_actions(policy, c, NONE, improve) - c.episode.actions).max()
        refined += np.abs(literal_actions(policy, c, exploration) - c.episode.actions).max()
        assert (np.abs(c.episode.actions) <= 1).all()
    assert explored > 0.1 and (refined > 1e-3) == (ag_steps > 0)


def test_noise_is_in_units_of_half_a_range_and_stays_inside():
    rows, low, high = np.arange(4000), np.array([-1.0, 0.0]), np.array([1.0, 10.0])
    noise = ActionNoise(0.1, (low, high), 4000)
    for row in rows:
        noise.start(int(row), int(row))
    actions = np.tile(np.float32([0.0, 5.0]), (4000, 1))
    where = rows % 2 == 0
    noise.add(rows, actions, where)
    assert np.array_equal(actions[~where], np.tile(np.float32([0.0, 5.0]), (2000, 1)))
    assert np.allclose(actions[where].mean(axis=0), [0.0, 5.0], atol=[0.01, 0.05])
    assert np.allclose(actions[where].std(axis=0), [0.1, 0.5], rtol=0.06)
    wild = ActionNoise(50.0, (low, high), 1)
    wild.start(0, 0)
    found = actions[:1].copy()
    wild.add(rows[:1], found, np.ones(1, bool))
    assert set(found[0]) <= {-1.0, 0.0, 1.0, 10.0}


def test_noise_of_no_deviation_changes_no_bit(make_policy):
    policy = make_policy("dt")
    assert bits(collect(policy, range(6), Exploration("noise", 0.0))) == bits(collect(policy, range(6)))


@pytest.mark.parametrize("exploration", [NONE, NOISE, SAMPLE], ids=lambda e: e.kind)
def test_an_episode_depends_on_its_task_and_the_networks_alone(make_policy, make_critic, exploration):
    sizes = {"state_dim": 11, "action_dim": 3}
    policy = make_policy("odt", **sizes, env_id="Hopper-v5", max_episode_steps=11)
    options = {"critic": make_critic(**sizes), "ag": AGSetting(2, 0.1), "reward_delay": 4}
    one = collect(policy, range(11), exploration, slots=1, **options)
    lengths = [c.played.length for c in one.episodes]
    assert 11 in lengths and [c.episode.truncations[-1] for c in one.episodes] == [n == 11 for n in lengths]
    assert all(c.episode.terminations[-1] for c in one.episodes if c.played.length < 11)
    rng = torch.get_rng_state()
    assert_same(one, collect(policy, range(11), exploration, slots=5, workers=2, **options))
    assert torch.equal(rng, torch.get_rng_state())
    assert_same(one, collect(policy, range(11), exploration, slots=4, env_processes=2, **options))
    few = collect(policy, [7, 2], exploration, slots=5, **options)
    assert [c.task.seed for c in few.episodes] == [7, 2]
    one.episodes[:] = [one.episodes[7], one.episodes[2]]
    assert_same(few, one)


@pytest.mark.parametrize("refined", [False, True])
@pytest.mark.parametrize("exploration", [NOISE, SAMPLE], ids=lambda e: e.kind)
def test_the_guide_acts_first_and_neither_noise_nor_critic_changes_that(
    make_policy, critic, exploration, refined
):
    policy, guide = make_policy("odt"), make_policy("dt-original", context_len=3)
    ag = {"critic": critic, "ag": AGSetting(4, 0.3)} if refined else {}
    improve = autograd_action_gradient(critic.critic, 4, 0.3, -1.0, 1.0) if refined else None
    collection = collect(policy, range(12), exploration, 3, guide=guide, **ag)
    differs = 0.0
    for c in collection.episodes:
        wanted = literal_actions(policy, c, exploration, improve, guide)
        assert np.allclose(wanted, c.episode.actions, atol=5e-5)
        unguided = literal_actions(policy, c, exploration, improve)
        differs += np.abs(unguided[:3] - c.episode.actions[:3]).max()
    assert differs > 0.1 and max(c.played.length for c in collection.episodes) > 6


@pytest.mark.parametrize("kind", ["dt", "bc", "reinformer"])
def test_a_guide_of_the_whole_episode_is_its_evaluation_and_of_no_step_changes_nothing(make_policy, kind):
    policy, guide = make_policy("odt"), make_policy(kind)
    (wanted,) = evaluate(guide, episodes=8, max_envs=4, workers=1).settings
    whole = collect(policy, range(8), NOISE, 100, guide=guide)
    assert [c.played.episode_return for c in whole.episodes] == wanted.returns
    assert bits(collect(policy, range(8), NOISE, 0, guide=guide)) == bits(collect(policy, range(8), NOISE))


def test_every_task_has_its_own_guide_steps(make_policy):
    policy, guide, steps = make_policy("odt"), make_policy("dt"), [0, 2, 5, 0, 1, 9, 3]
    tasks = [CollectionTask(seed, TARGET, count) for seed, count in enumerate(steps)]
    with Collector(policy, slots=3, exploration=SAMPLE, guide=guide) as collector:
        together = collector.collect(tasks)
        for task, c in zip(tasks, together.episodes, strict=True):
            (alone,) = collector.collect([task]).episodes
            assert all(np.allclose(*pair, atol=1e-5) for pair in zip(c.episode, alone.episode, strict=True))
            wanted = literal_actions(policy, c, SAMPLE, guide=guide)
            assert np.allclose(wanted, c.episode.actions, atol=5e-5)


@pytest.mark.parametrize("every", [2, 3, 50])
def test_delayed_rewards_are_those_of_the_dataset_and_what_the_policy_is_told(make_policy, every):
    bc, dt = make_policy("bc"), make_policy("dt")
    at_once, late = (collect(bc, range(12), NOISE, reward_delay=m) for m in (1, every))
    store = delayed(TrajectoryStore.from_episodes([c.episode for c in at_once.episodes]), every)
    for index, (c, before) in enumerate(zip(late.episodes, at_once.episodes, strict=True)):
        assert all(np.array_equal(*pair) for pair in zip(c.episode, store.episode(index), strict=True))
        assert c.played == before.played
    changed = 0.0
    for c, before in zip(
        collect(dt, range(12), reward_delay=every).episodes, collect(dt, range(12)).episodes, strict=True
    ):
        assert np.allclose(literal_actions(dt, c), c.episode.actions, atol=5e-5)
        assert c.played.episode_return == pytest.approx(c.episode.rewards.sum(), rel=1e-5)
        changed = max(changed, np.abs(c.episode.actions - before.episode.actions).max())
    assert changed > 0.1  # the return-to-go that it acts on is another
