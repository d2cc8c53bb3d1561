"""The limit of a gate from a critic's own data."""

import numpy as np
import pytest
import torch
from torch import nn

from dtag_fast.data import TrajectoryStore
from dtag_fast.data.store import Episode
from dtag_fast.models import TwinCritic
from dtag_fast.training import disagreement, gated, load_gated, train


class Apart(nn.Module):
    """Two members whose deviation is |s_0|."""

    def forward(self, states, actions):
        half = states[:, 0] / 2**0.5 + 0 * actions[:, 0]
        return half, -half


class NoQ(nn.Module):
    def forward(self, states, actions):
        q = torch.log(-1 - actions.square().sum(-1))
        return q, q


def counting_store(steps=101):
    """One episode whose states are 0, 1, 2, ..."""
    states = np.arange(steps + 1, dtype=np.float32)[:, None]
    flags = np.zeros(steps, bool)
    episode = Episode(
        states, np.zeros((steps, 1), np.float32), np.ones(steps, np.float32), flags, flags.copy()
    )
    return TrajectoryStore.from_episodes([episode], {"fingerprint": "counting"})


def test_disagreement_is_the_deviation_over_members_at_every_step():
    torch.testing.assert_close(disagreement(Apart(), counting_store()), torch.arange(101.0))


@pytest.mark.parametrize(("quantile", "limit"), [(0.0, 0.0), (0.5, 50.0), (0.9, 90.0), (1.0, 100.0)])
def test_the_limit_is_a_quantile_over_the_data(quantile, limit):
    assert gated(Apart(), counting_store(), quantile).limit == pytest.approx(limit, rel=1e-6)


@pytest.mark.parametrize("quantile", [-0.1, 1.1, True, "0.9", float("nan")])
def test_bad_quantiles(quantile):
    with pytest.raises(ValueError, match="quantile: expected"):
        gated(Apart(), counting_store(), quantile)


def test_q_that_is_not_finite_is_refused():
    with pytest.raises(ValueError, match="not finite"):
        disagreement(NoQ(), counting_store())


def test_a_run_whose_data_are_not_there(store, configs, tmp_path):
    train("iql", store, out=tmp_path / "run", config=configs["iql"], updates=1)
    with pytest.raises(FileNotFoundError, match="gate: its limit is a quantile over the critic's dataset: "):
        load_gated(tmp_path / "run")


def test_one_member_is_refused():
    with pytest.raises(ValueError, match="two members or more"):
        gated(TwinCritic(1, 1, (8,), members=1), counting_store())
