"""A collector between and beside its calls: what it keeps, takes, refuses and survives."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import faulty_env
import numpy as np
import pytest
import torch
from collecting import (
    NOISE,
    NONE,
    SAMPLE,
    TARGET,
    assert_same,
    bits,
    collect,
    faulty,
    tasks_of,
)

from dtag_fast.rollout import AGSetting, Behaviour, CollectionTask, Collector, Exploration
from dtag_fast.rollout.captured import CapturedStep


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
