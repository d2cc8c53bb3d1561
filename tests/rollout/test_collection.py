"""Collected episodes: checked against the environment's own record, the evaluation, and a literal loop."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import faulty_env
import numpy as np
import pytest
import torch
from rounding import blas_rounds_rows_alike

from dtag_fast.data import TrajectoryStore, delayed
from dtag_fast.rollout import AGSetting, Behaviour, CollectionTask, Collector, Exploration, evaluate
from dtag_fast.rollout.captured import CapturedStep
from dtag_fast.rollout.exploration import ActionNoise
from dtag_fast.rollout.reference import autograd_action_gradient

NONE, NOISE, SAMPLE = Exploration("none"), Exploration("noise", 0.3), Exploration("sample")
TARGET = 50.0


def tasks_of(policy, seeds, guide_steps=0):
    target = TARGET if policy.model.takes_target_return else None
    return [CollectionTask(seed, target, guide_steps) for seed in seeds]


def collect(policy, seeds, exploration=NONE, guide_steps=0, **options):
    with Collector(policy, exploration=exploration, **({"slots": 4} | options)) as collector:
        return collector.collect(tasks_of(policy, seeds, guide_steps))


def bits(collection):
    """All that a collection holds, to compare."""
    return [
        (c.task, [part.tobytes() for part in c.episode], c.played) for c in collection.episodes
    ] + collection.failures


def assert_same(one, other):
    """Equal to the last bit where this machine's products round rows alike, else nearly so."""
    if blas_rounds_rows_alike():
        assert bits(one) == bits(other)
        return
    for a, b in zip(one.episodes, other.episodes, strict=True):
        assert all(np.allclose(x, y, atol=1e-4) for x, y in zip(a.episode, b.episode, strict=True))


def literal_actions(policy, found, exploration=NONE, improve=None, guide=None):
    """The actions of a collected episode once more: one step at a time over its own history."""
    model, episode, task = policy.model, found.episode, found.task
    k, scale = model.config.context_len, model.config.return_scale
    numbers = np.random.default_rng([task.seed, *b"exploration"])
    raw, executed = torch.from_numpy(episode.observations), torch.from_numpy(episode.actions)
    earned = np.cumsum([0.0, *episode.rewards[:-1]])
    returns = torch.tensor((task.target_return - earned) / scale, dtype=torch.float32)[:, None]
    actions = []
    for t in range(len(executed)):
        acts = model if guide is None or t >= task.guide_steps else guide.model
        steps = slice(max(0, t + 1 - k), t + 1)
        past = executed[steps].clone()
        past[-1] = 0.0
        times, mask = torch.arange(steps.start, t + 1), torch.ones(t + 1 - steps.start, dtype=torch.bool)
        window = (acts.normalize_states(raw[steps]), past, returns[steps], times, mask)
        window = [part[None] for part in window]
        noise = torch.from_numpy(numbers.standard_normal(executed.shape[1])).float()
        with torch.no_grad():
            action = acts(*window).actions[:, -1]
            if acts is model:
                if exploration.kind == "sample":
                    mean, log_std = (part[:, -1] for part in acts.distribution(*window))
                    action = torch.tanh(mean + log_std.exp() * noise)
                if improve is not None:
                    action = improve(raw[t : t + 1], action)
                if exploration.kind == "noise":
                    action = (action + exploration.std * noise).clamp(-1, 1)
        actions.append(action[0].numpy())
    return np.array(actions)


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


def test_environments_stay_open_between_calls(make_policy, monkeypatch):
    built = []
    construct = faulty_env.FaultyEnv.__init__
    monkeypatch.setattr(
        faulty_env.FaultyEnv, "__init__", lambda self, **kw: built.append(self) or construct(self, **kw)
    )
    policy = faulty(make_policy)
    with Collector(policy, slots=3, exploration=NOISE) as collector:
        first = bits(collector.collect(tasks_of(policy, range(7))))
        assert bits(collector.collect(tasks_of(policy, range(7)))) == first
        assert collector.collect([]).episodes == [] and collector.placement.processes == 0
    assert len(built) == 3
    with pytest.raises(RuntimeError, match="collect: the collector is closed"):
        collector.collect([])


def faulty(make_policy, *faults, policy_kind="odt", **about):
    spec = {"id": faulty_env.ENV_ID, "kwargs": {"faults": faults}, "max_episode_steps": 12}
    sizes = {"state_dim": faulty_env.STATE_DIM, "action_dim": faulty_env.ACTION_DIM}
    return make_policy(policy_kind, **sizes, env_id=faulty_env.ENV_ID, env_spec=spec, **about)


@pytest.mark.parametrize("exploration", [NONE, NOISE, SAMPLE], ids=lambda e: e.kind)
@pytest.mark.parametrize("workers", [1, 2])
def test_new_numbers_are_followed(make_policy, make_critic, exploration, workers):
    """No prepared weights of the policy or the critic grow stale."""
    policy, critic = make_policy("odt"), make_critic()
    other, better = make_policy("odt"), make_critic()
    with torch.no_grad():
        for tensor in [*other.model.parameters(), *better.critic.parameters()]:
            tensor.mul_(1.1).add_(0.02)
        other.model.normalizer.mean.add_(0.5)
        better.critic.get_buffer(next(name for name, _ in better.critic.named_buffers())).add_(0.1)
    options = {"exploration": exploration, "slots": 4, "workers": workers, "ag": AGSetting(3, 0.3)}
    tasks = tasks_of(policy, range(9))
    found = {}
    for name, actor, judge in (("old", policy, critic), ("new", other, better), ("critic", policy, better)):
        with Collector(actor, critic=judge, **options) as fresh:
            found[name] = bits(fresh.collect(tasks))
    assert found["old"] != found["new"] != found["critic"] != found["old"]
    with Collector(policy, critic=critic, **options) as collector:
        assert bits(collector.collect(tasks)) == found["old"]
        collector.take(other.model, better.critic)
        assert bits(collector.collect(tasks)) == found["new"]
        collector.take(policy.model, better.critic)
        assert bits(collector.collect(tasks)) == found["critic"]
        with torch.no_grad():  # of a network that is trained further, nothing is seen until it is taken
            for tensor in [*other.model.parameters(), *better.critic.parameters()]:
                tensor.zero_()
        assert bits(collector.collect(tasks)) == found["critic"]


def test_the_trained_network_is_left_alone(make_policy):
    policy = make_policy("odt")
    policy.model.train()
    before = {name: tensor.clone() for name, tensor in policy.model.state_dict().items()}
    with Collector(policy, slots=2, exploration=SAMPLE, guide=policy) as collector:
        collector.take(policy.model)
        collector.collect(tasks_of(policy, range(4), 2))
    assert policy.model.training and all(p.requires_grad for p in policy.model.parameters())
    assert all(torch.equal(before[name], tensor) for name, tensor in policy.model.state_dict().items())


@pytest.fixture
def two_threads():
    """PyTorch with two threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_collecting_beside_a_training(make_policy, two_threads):
    """In a background thread, while the network that was taken is trained: the same bits, and the trainer
    keeps its threads."""
    policy, tasks = make_policy("odt"), tasks_of(make_policy("odt"), range(40))
    alone = bits(collect(policy, range(40), SAMPLE))
    optimizer = torch.optim.SGD(policy.model.parameters(), lr=0.1)
    window = [torch.randn(4, 3, n, generator=torch.Generator().manual_seed(0)) for n in (3, 2, 1)]
    with Collector(policy, slots=4, exploration=SAMPLE) as collector, ThreadPoolExecutor(1) as pool:
        collector.take(policy.model)
        running, updates = pool.submit(collector.collect, tasks), 0
        while not running.done() or updates < 3:
            times, mask = torch.arange(3).expand(4, 3), torch.ones(4, 3, dtype=torch.bool)
            policy.model.train()(*window, times, mask).actions.square().mean().backward()
            optimizer.step()
            updates += 1
            assert torch.get_num_threads() == 2
        assert bits(running.result()) == alone
        collector.take(policy.model)
        assert bits(collector.collect(tasks)) != alone


@pytest.fixture
def waiting(make_policy):
    """A policy for an environment whose steps take a while."""
    sizes = {"state_dim": faulty_env.STATE_DIM, "action_dim": faulty_env.ACTION_DIM}
    return make_policy("odt", **sizes, env_id=f"faulty_env:{faulty_env.WAITING_ID}", max_episode_steps=30)


def test_nothing_is_taken_meanwhile_and_closing_gives_up(waiting):
    began = threading.Event()
    with Collector(waiting, slots=1, exploration=NOISE) as collector, ThreadPoolExecutor(1) as pool:
        reset = collector._crew[0].recorder.start
        collector._crew[0].recorder.start = lambda *given: (reset(*given), began.set())
        running = pool.submit(collector.collect, tasks_of(waiting, range(100)))
        assert began.wait(30)
        for call in (lambda: collector.take(waiting.model), lambda: collector.collect([])):
            with pytest.raises(RuntimeError, match="the collector is at work in another thread"):
                call()
        at = time.monotonic()
        collector.close()
        assert time.monotonic() - at < 5
        with pytest.raises(RuntimeError, match="collect: the collector is closed"):
            running.result(timeout=5)


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


@pytest.mark.filterwarnings("ignore:environment. closing it raised OSError:RuntimeWarning")
@pytest.mark.parametrize(
    ("kind", "processes", "timeout"),
    [("raise", 0, None), ("nan", 0, None), ("exit", 2, None), ("hang", 2, 1.0)],
)
def test_one_fault_loses_one_episode(make_policy, kind, processes, timeout):
    seeds, options = range(8), {"env_processes": processes, "reward_delay": 2}
    whole = collect(faulty(make_policy), seeds, SAMPLE, **options)
    broken = faulty(make_policy, (5, 3, kind))
    slots = 2 if kind == "exit" else 4  # the episodes beside one that ends its process fail with it
    with Collector(broken, slots=slots, exploration=SAMPLE, env_timeout=timeout, **options) as collector:
        found = collector.collect(tasks_of(broken, seeds))
        again = collector.collect(tasks_of(broken, range(3)))
    (failure,) = found.failures
    assert (failure.seed, failure.step, failure.label) == (5, 3, "plain policy")
    assert found.env_steps == sum(c.played.length for c in found.episodes) + 3
    del whole.episodes[5]
    assert [c.task.seed for c in found.episodes] == [0, 1, 2, 3, 4, 6, 7]
    found.failures.clear()
    assert_same(found, whole)
    assert_same(again, collect(faulty(make_policy), range(3), SAMPLE, **options))


@pytest.mark.filterwarnings("ignore:environment. closing it raised OSError:RuntimeWarning")
def test_the_slot_of_a_fault_owes_the_next_episode_nothing(make_policy):
    options, seeds = {"slots": 1, "reward_delay": 4}, range(3)
    whole = collect(faulty(make_policy, policy_kind="dt"), seeds, **options)
    broken = faulty(make_policy, (1, 3, "raise"), policy_kind="dt")
    at_once = collect(broken, [0], slots=1).episodes[0].episode.actions
    assert not np.array_equal(at_once, whole.episodes[0].episode.actions)  # it looks at what is left
    found = collect(broken, seeds, **options)
    assert [f.seed for f in found.failures] == [1]
    found.failures.clear(), whole.episodes.pop(1)
    assert bits(found) == bits(whole)


@pytest.mark.parametrize("refined", [False, True])
def test_steps_of_one_graph_are_explored_likewise(make_policy, critic, refined):
    """As a GPU has them, here without the graph."""
    policy, other = make_policy("odt"), make_policy("odt")
    ag = {"critic": critic, "ag": AGSetting(3, 0.3)} if refined else {}
    with torch.no_grad():
        other.model.action_head.bias.add_(0.2)
    with Collector(policy, slots=4, exploration=NOISE, **ag) as collector:
        (worker,) = collector._crew
        worker.captured = CapturedStep(worker.policy, worker.refinement, capture=False)
        for model in (policy.model, other.model):
            collector.take(model, critic.critic if refined else None)
            found = collector.collect(tasks_of(policy, range(8))).episodes
            with Collector(policy._replace(model=model), slots=4, exploration=NOISE, **ag) as usual:
                wanted = usual.collect(tasks_of(policy, range(8))).episodes
            for a, b in zip(found, wanted, strict=True):
                assert all(np.allclose(*pair, atol=1e-3) for pair in zip(a.episode, b.episode, strict=True))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"slots": 0}, "slots: expected a whole number of at least 1, got 0"),
        ({"slots": 2, "workers": 3}, "workers: expected at most one for each of the 2 slots, got 3"),
        ({"workers": 2, "env_processes": 1}, "env_processes: expected 0 or at least one for each of the 2"),
        ({"reward_delay": 0}, "reward_delay: expected a whole number of steps of at least 1 .* got 0"),
        ({"ag": AGSetting(3)}, "critic: AG n=3 lr=0.03 needs a critic, got None"),
        ({"ag": AGSetting(3, behaviour=Behaviour())}, "ag: a behaviour is of a critic that stays as it is"),
        ({"env_processes": 0, "env_timeout": 1.0}, "env_timeout: expected worker processes"),
    ],
)
def test_bad_arguments_are_one_sentence(make_policy, options, message):
    with pytest.raises(ValueError, match=message):
        Collector(make_policy("odt"), exploration=NOISE, **({"slots": 2} | options))


def test_what_does_not_go_together_is_one_sentence(make_policy, make_critic):
    odt, options = make_policy("odt"), {"slots": 2, "exploration": NOISE}
    for kind in ("dt", "reinformer", "bc", "iql"):
        with pytest.raises(ValueError, match=r"exploration: sample draws from .* has none; take noise"):
            Collector(make_policy(kind), slots=2, exploration=SAMPLE)
    with pytest.raises(ValueError, match=r"policy: collection explores continuous .* are Discrete\(2\)"):
        Collector(make_policy("odt", discrete_actions={"n": 2, "start": 0}), **options)
    with pytest.raises(ValueError, match="guide: expected the policy's state_dim = 3, got 4"):
        Collector(odt, guide=make_policy("odt", state_dim=4), **options)
    with pytest.raises(ValueError, match="guide: DecisionTransformer needs a return to aim for"):
        Collector(make_policy("reinformer"), guide=make_policy("dt"), **options)
    with pytest.raises(ValueError, match="env_id: the checkpoint names no environment"):
        Collector(make_policy("odt", env_id=None), **options)
    with pytest.raises(TypeError, match="guide: expected a LoadedPolicy"):
        Collector(odt, guide=odt.model, **options)
    with pytest.raises(TypeError, match="policy: expected a LoadedPolicy"):
        Collector(odt.model, **options)
    with pytest.raises(TypeError, match="exploration: expected an Exploration, got 'noise'"):
        Collector(odt, slots=2, exploration="noise")
    with pytest.raises(TypeError, match="ag: expected an AGSetting or None"):
        Collector(odt, ag=3, **options)


@pytest.mark.parametrize("std", [-0.1, float("nan"), float("inf"), "0.1", True])
def test_a_deviation_is_a_number_of_at_least_0(std):
    with pytest.raises(ValueError, match="std: expected a finite number of at least 0"):
        Exploration("noise", std)
    with pytest.raises(ValueError, match="exploration: expected one of none, noise, sample, got 'ou'"):
        Exploration("ou")


def test_bad_tasks_and_networks_are_refused_and_nothing_is_lost(make_policy, make_critic):
    policy, critic = make_policy("odt"), make_critic()
    options = {"critic": critic, "ag": AGSetting(2, 0.2)}
    with Collector(policy, slots=2, exploration=NOISE, **options) as collector:
        before = bits(collector.collect(tasks_of(policy, range(3))))
        for task, message in (
            (CollectionTask(0, TARGET, 2), "guide_steps: expected 0 without a guide, got 2"),
            (CollectionTask(0, TARGET, -1), "guide_steps: expected a whole number of at least 0"),
            (CollectionTask(-1, TARGET), "seed: expected a whole number of at least 0, got -1"),
            (CollectionTask(0, None), "target_return: OnlineDecisionTransformer needs a finite return"),
            (CollectionTask(0, float("nan")), "target_return: OnlineDecisionTransformer needs a finite"),
        ):
            with pytest.raises(ValueError, match=message):
                collector.collect([CollectionTask(0, TARGET), task])
        wider = make_policy("odt", state_dim=4)
        with torch.no_grad():
            other = make_policy("odt").model
            other.action_head.weight.add_(1.0)
        with pytest.raises(
            ValueError, match=r"model: expected the architecture that acts here, whose \S+ has"
        ):
            collector.take(wider.model, critic.critic)
        with pytest.raises(ValueError, match="critic: expected the architecture that acts here"):
            collector.take(other, make_critic(state_dim=4).critic)
        with pytest.raises(ValueError, match=r"critic: the collector acts with one, .* got None"):
            collector.take(other)
        assert bits(collector.collect(tasks_of(policy, range(3)))) == before


def test_a_target_for_a_policy_that_takes_none_is_refused(make_policy):
    with (
        Collector(make_policy("reinformer"), slots=1, exploration=NONE) as collector,
        pytest.raises(ValueError, match=r"target_return: Reinformer takes none, got 3\.0; give None"),
    ):
        collector.collect([CollectionTask(0, 3.0)])


def test_a_policy_that_gives_nan_ends_the_call_and_not_the_collector(make_policy):
    policy, broken = make_policy("odt"), make_policy("odt")
    tasks = tasks_of(policy, range(5))
    with torch.no_grad():
        broken.model.action_head.bias.fill_(float("nan"))
    with Collector(policy, slots=3, exploration=SAMPLE) as collector:
        wanted = bits(collector.collect(tasks))
        collector.take(broken.model)
        with pytest.raises(ValueError, match="policy: it gave an action that is not finite"):
            collector.collect(tasks)
        collector.take(policy.model)
        assert bits(collector.collect(tasks)) == wanted
