"""Refiner: weights that follow the critic, lifetime, threads."""

import copy
import gc
import pickle
import threading
import weakref

import gymnasium
import numpy as np
import pytest
import torch
from small_critics import A, H, S, backends, critic_of, inputs, quiet, step_by_optimizer
from torch import nn

from dtag_fast import Refiner, refine

pytestmark = quiet


def fresh(critic, states, actions, **options):
    """What a critic with these numbers gives when nothing was prepared."""
    return refine(copy.deepcopy(critic), states, actions, backend="torch", **options)


def load_state(critic):
    critic.load_state_dict(critic_of(7).state_dict())


def assign_state(critic):
    critic.load_state_dict(critic_of(8).state_dict(), assign=True)


def replace_parameter(critic):
    critic[0].weight = nn.Parameter(torch.randn(H, S + A))


def polyak(critic):
    with torch.no_grad():
        for p, q in zip(critic.parameters(), critic_of(9).parameters(), strict=True):
            p.lerp_(q, 0.5)


@backends
@pytest.mark.parametrize("change", [step_by_optimizer, load_state, assign_state, replace_parameter, polyak])
def test_new_weights_are_noticed(backend, change):
    critic, (states, actions) = critic_of(), inputs()
    refiner = Refiner(critic, lr=0.3, backend=backend)
    before = refiner(states, actions), refine(critic, states, actions, lr=0.3, backend=backend)
    change(critic)
    expected = fresh(critic, states, actions, lr=0.3)
    for again in (refiner(states, actions), refine(critic, states, actions, lr=0.3, backend=backend)):
        torch.testing.assert_close(again, expected, rtol=0, atol=1e-4)
        assert not torch.equal(again, before[0])


@backends
def test_refresh_after_changes_without_a_version(backend):
    critic, (states, actions) = critic_of(), inputs()
    refiner = Refiner(critic, lr=0.3, backend=backend)
    refiner(states, actions)
    for p in critic.parameters():
        p.data.mul_(-1.5)
    refiner.refresh()
    torch.testing.assert_close(
        refiner(states, actions), fresh(critic, states, actions, lr=0.3), rtol=0, atol=1e-4
    )
    critic[1] = nn.Tanh()  # another structure altogether
    refiner.refresh()
    torch.testing.assert_close(
        refiner(states, actions), fresh(critic, states, actions, lr=0.3), rtol=0, atol=1e-4
    )


@backends
def test_nothing_outlives_the_critic(backend):
    critic, (states, actions) = critic_of(), inputs()
    weights = weakref.ref(critic[0].weight)
    alive = weakref.ref(critic)
    for lr in (0.1, 0.2):
        refine(critic, states, actions, lr=lr, backend=backend)
        refine([critic, critic_of(1)], states, actions, lr=lr, backend=backend)
    del critic
    gc.collect()
    assert alive() is None and weights() is None


def test_many_settings_do_not_pile_up():
    critic, (states, actions) = critic_of(), inputs(1)
    for i in range(100):
        refine(critic, states, actions, steps=1, lr=0.001 * i)
    from dtag_fast.ops.refine.api import _refiners

    assert len(_refiners._entries[critic]) <= _refiners._limit


def test_a_refiner_keeps_its_critic():
    states, actions = inputs()
    refiner = Refiner(critic_of())
    gc.collect()
    assert refiner(states, actions).shape == actions.shape


def test_copies_and_pickles_are_refiners_of_their_own():
    critic, (states, actions) = critic_of(), inputs()
    refiner = Refiner(critic, lr=0.3, bounds=(-0.5, 0.5))
    expected = refiner(states, actions)
    copied, pickled = copy.deepcopy(refiner), pickle.loads(pickle.dumps(refiner))
    step_by_optimizer(critic)
    assert torch.equal(copied(states, actions), expected)
    assert torch.equal(pickled(states, actions), expected)


@backends
def test_threads(backend):
    """Several threads on one Refiner, with other batch sizes, while the compiled backend is made to re-pack.

    Autograd itself refuses weights that change under it, so the reference is left alone.
    """
    critic = critic_of()
    refiner = Refiner(critic, steps=3, backend=backend)
    cases = [inputs(rows) for rows in (1, 2, 9, 40)]
    expected = [refiner(*case) for case in cases]
    right: list = []
    done = threading.Event()

    def call(k):
        right.extend(torch.equal(refiner(*cases[k]), expected[k]) for _ in range(40))

    def touch():
        while backend != "torch" and not done.is_set():
            with torch.no_grad():
                critic[0].weight.mul_(1.0)

    workers = [threading.Thread(target=call, args=(k,)) for k in range(len(cases))]
    toucher = threading.Thread(target=touch)
    for thread in (*workers, toucher):
        thread.start()
    for thread in workers:
        thread.join()
    done.set()
    toucher.join()
    assert len(right) == 40 * len(cases) and all(right)


@backends
def test_bounds_of_every_kind_agree(backend):
    critic, (states, actions) = critic_of(), inputs()
    low, high = np.array([-0.5, -1, -0.2]), np.array([0.5, 1, 0.3])
    box = gymnasium.spaces.Box(low.astype(np.float32), high.astype(np.float32))
    kinds = (box, (low, high), (low.tolist(), high.tolist()), (torch.tensor(low), torch.tensor(high)))
    results = [refine(critic, states, actions, lr=0.5, bounds=b, backend=backend) for b in kinds]
    for result in results[1:]:
        assert torch.equal(result, results[0])
    assert (results[0] >= torch.tensor(box.low)).all() and (results[0] <= torch.tensor(box.high)).all()
    box.high[:] = 0.1  # a Box that changed is another Box
    assert refine(critic, states, actions, lr=0.5, bounds=box, backend=backend).max() <= 0.1


@pytest.mark.parametrize("copied", [False, True])
def test_a_rows_bits_do_not_depend_on_the_batch_where_that_is_asked_for(copied):
    """Also not of a copy; the rule takes the row kernel for few rows, which rounds differently."""
    pytest.importorskip("dtag_fast._C", reason="the compiled module is not built")
    torch.manual_seed(0)
    critic = nn.Sequential(nn.Linear(S + A, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1))
    states, actions = torch.randn(40, S), torch.rand(40, A) * 2 - 1

    def rounded_alike(refiner: Refiner) -> bool:
        refiner = copy.deepcopy(refiner) if copied else refiner
        whole = refiner(states, actions)
        return all(torch.equal(refiner(states[:n], actions[:n]), whole[:n]) for n in (1, 3, 8, 16, 17))

    options = {"lr": 0.3, "backend": "cpu"}
    assert rounded_alike(Refiner(critic, batch_invariant=True, **options))
    assert not rounded_alike(Refiner(critic, **options))
