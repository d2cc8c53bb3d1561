"""The model of a dataset's behaviour: what it learns, that it repeats, how it is kept."""

import json

import numpy as np
import pytest
import torch

from dtag_fast.data import TrajectoryStore
from dtag_fast.data.store import Episode
from dtag_fast.models import TwinCritic
from dtag_fast.training import behaviour_of, fit_behaviour, load_behaviour, save_behaviour, train


class LinearQ(torch.nn.Module):
    """Q = 3 a_0 + s_0, whose quantiles over Gaussian actions are known."""

    def forward(self, states, actions):
        return 3 * actions[:, 0] + states[:, 0]


class NoQ(torch.nn.Module):
    def forward(self, states, actions):
        return torch.log(-1 - actions.square().sum(-1))


def known_store(episodes=40, steps=200) -> TrajectoryStore:
    """Actions ~ N(0.3 s, diag(0.1, 0.2 + 0.1 s_0)^2), states uniform in (-1, 1)."""
    rng = np.random.default_rng(0)

    def episode():
        states = rng.uniform(-1, 1, (steps + 1, 2)).astype(np.float32)
        std = np.stack([np.full(steps, 0.1), 0.2 + 0.1 * states[:-1, 0]], 1)
        actions = 0.3 * states[:-1] + std * rng.standard_normal((steps, 2))
        flags = np.zeros(steps, bool)
        return Episode(states, actions.astype(np.float32), np.ones(steps, np.float32), flags, flags.copy())

    return TrajectoryStore.from_episodes([episode() for _ in range(episodes)], {"fingerprint": "known"})


@pytest.fixture(scope="module")
def model():
    return fit_behaviour(LinearQ(), known_store(), updates=3000)


def test_it_learns_the_mean_deviation_and_spread_of_q(model):
    states = torch.tensor([[0.0, 0.0], [0.7, -0.7], [-0.7, 0.5]])
    local = model(states)
    torch.testing.assert_close(local.mean, 0.3 * states, atol=0.05, rtol=0)
    expected = torch.stack([torch.full((3,), 0.1), 0.2 + 0.1 * states[:, 0]], 1)
    torch.testing.assert_close(local.std, expected, atol=0.0, rtol=0.25)
    # From the median to the 90 % quantile of N(., (3 * 0.1)^2): 1.2816 deviations.
    torch.testing.assert_close(local.q_spread, torch.full((3,), 1.2816 * 0.3), atol=0.0, rtol=0.3)


def test_beyond_the_data_a_state_counts_as_the_edge(model):
    edge = torch.maximum(torch.minimum(torch.tensor([[50.0, -50.0]]), model.state_high), model.state_low)
    far = model(torch.tensor([[50.0, -50.0]]))
    for ours, theirs in zip(far, model(edge), strict=True):
        assert torch.equal(ours, theirs)
    assert (far.std <= model.action_std).all()


def test_same_seed_same_bits(store):
    critic = TwinCritic(store.state_dim, store.action_dim, hidden=(16, 16))
    first, again = (fit_behaviour(critic, store, updates=20, seed=3) for _ in range(2))
    other = fit_behaviour(critic, store, updates=20, seed=4)
    state = first.state_dict()
    assert all(torch.equal(state[name], value) for name, value in again.state_dict().items())
    assert not torch.equal(state["net.0.weight"], other.state_dict()["net.0.weight"])


@pytest.fixture(scope="module")
def run(store, configs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("critic") / "run"
    train("iql", store, out=folder, updates=2, config=configs["iql"], checkpoint_every=2)
    return folder


def test_a_kept_model_comes_back_bit_for_bit(run, store):
    assert load_behaviour(run) is None
    made = fit_behaviour(TwinCritic(store.state_dim, store.action_dim, hidden=(8,)), store, updates=5)
    save_behaviour(run, made)
    kept = load_behaviour(run)
    state = made.state_dict()
    assert all(torch.equal(state[name], value) for name, value in kept.state_dict().items())
    again = behaviour_of(run)  # it is kept: nothing is fitted, no dataset is needed
    assert torch.equal(again.net[0].weight, made.net[0].weight)


def test_a_damaged_file_is_named(run, store):
    save_behaviour(run, fit_behaviour(LinearQ(), store, updates=1))
    (file,) = (run / "checkpoints" / "last").glob("behaviour.json")
    text = json.loads(file.read_text())
    file.write_text(json.dumps(text | {"network": {"type": "Nonsense", "config": {}}}))
    with pytest.raises(ValueError, match=r"behaviour\.json: network type: expected one of"):
        load_behaviour(run)
    file.unlink()


def test_bad_input_is_refused(store, run):
    with pytest.raises(ValueError, match="updates: expected a whole number of at least 1, got 0"):
        fit_behaviour(LinearQ(), store, updates=0)
    quiet = pytest.warns(RuntimeWarning, match="slow autograd reference")
    with quiet, pytest.raises(ValueError, match="its Q of the data's actions is not finite"):
        fit_behaviour(NoQ(), store)
    with pytest.raises(FileNotFoundError, match="expected a run or a checkpoint folder"):
        behaviour_of(run / "nowhere")
