"""The toy under critics of known error: the error is what it is said to be, and so is what it costs."""

import math

import numpy as np
import pytest
import torch

from dtag_fast.experiments import toy_critic_error_report as report
from dtag_fast.experiments.toy import ToyResult, reward
from dtag_fast.experiments.toy_critic_error import (
    OPTIMIZERS,
    CriticErrorConfig,
    WavyCritic,
    critic_error_of,
    run_critic_error,
    trained_critic_error,
)

TINY = CriticErrorConfig(q_rmse=(0.1, 0.8), waves=(1, 4), phases=16, steps=(3, 30))
STARTS = (-0.8, -0.5, 0.5, 0.8)


def rows_of(rows, **wanted):
    return [row for row in rows if all(row[key] == value for key, value in wanted.items())]


@pytest.mark.parametrize(("e", "waves"), [(0.1, 1), (0.3, 4)])
def test_the_errors_of_q_and_of_its_gradient_are_e_and_e_k_pi(e, waves):
    actions = torch.linspace(-1, 1, 4001, dtype=torch.float64)[:-1, None].requires_grad_()  # whole periods
    states = torch.tensor([[e, waves, 0.7]], dtype=torch.float64).expand(len(actions), 3)
    q = WavyCritic()(states, actions)
    (gradient,) = torch.autograd.grad(q.sum(), actions)
    error = q.detach() - reward(actions.detach()[:, 0])
    assert float(error.square().mean().sqrt()) == pytest.approx(e)
    slope = gradient + 2 * actions.detach()
    assert float(slope.square().mean().sqrt()) == pytest.approx(e * waves * math.pi)


@pytest.fixture(scope="module")
def rows():
    return run_critic_error(0, STARTS, TINY)


def test_under_the_exact_critic_sgd_is_a_geometric_series(rows):
    """dQ/da = -2 a, so a_n = a_0 (1 - 2 lr)^n."""
    for n in TINY.steps:
        (row,) = rows_of(rows, q_rmse=0.0, optimizer="SGD", steps=n)
        ends = np.array(STARTS) * (1 - 2 * 0.1) ** n
        assert row["distance"] == pytest.approx(np.abs(ends).mean(), rel=1e-4)
        assert row["farthest"] == pytest.approx(np.abs(ends).max(), rel=1e-4)
        assert row["reward"] == pytest.approx((1 - ends**2).mean(), rel=1e-6)
        # without an error Q rises by what the reward does
        assert row["q_gain"] == pytest.approx((np.square(STARTS) - ends**2).mean(), rel=1e-5)


def test_every_optimizer_reaches_the_optimum_of_the_exact_critic(rows):
    for name in OPTIMIZERS:
        (row,) = rows_of(rows, q_rmse=0.0, optimizer=name, steps=30)
        assert row["farthest"] < report.EXACT_ENDS


def test_every_error_optimizer_and_n_is_there_once_and_errors_cost_reward(rows):
    assert len(rows) == (1 + 2 * 2) * len(OPTIMIZERS) * 2
    keys = {(row["waves"], row["q_rmse"], row["optimizer"], row["steps"]) for row in rows}
    assert len(keys) == len(rows)
    for name in OPTIMIZERS:
        found = {row["q_rmse"]: row for row in rows_of(rows, optimizer=name, steps=30) if row["waves"] != 4}
        assert found[0.0]["reward"] > found[0.1]["reward"] > found[0.8]["reward"]
        assert found[0.8]["gradient_rmse"] == pytest.approx(0.8 * math.pi)
    assert all(row["q_gain"] >= 0 for row in rows)  # the best iterate is never worse than the first
    assert run_critic_error(0, STARTS, TINY) == rows
    assert run_critic_error(1, STARTS, TINY) != rows


def toy_result(seed=0):
    """A toy whose trained critic is 0.1 + 0.2 a above the reward."""
    grid = np.linspace(-1, 1, 201)
    return ToyResult(
        config={},
        seed=seed,
        imitated=list(STARTS),
        refined=[0.0, 0.0, 0.1, 0.1],
        paths=[list(STARTS), [0.0, 0.0, 0.1, 0.1]],
        grid=grid.tolist(),
        true_reward=reward(grid).tolist(),
        critic=(reward(grid) + 0.1 + 0.2 * grid).tolist(),
        demonstrated=[0.5, -0.5],
    )


def test_the_trained_critic_is_placed_on_the_same_scale():
    found = trained_critic_error(toy_result())
    # the mean of (0.1 + 0.2 a)^2 is 0.01 + 0.04 / 3
    assert found["q_rmse"] == pytest.approx(math.sqrt(0.01 + 0.04 / 3), rel=1e-2)
    assert found["gradient_rmse"] == pytest.approx(0.2)


def test_tables_claims_and_figure_are_of_all_seeds():
    results = [{"seed": seed, "critic_error": critic_error_of(toy_result(seed), TINY)} for seed in (0, 1)]
    tables = report.tables(results)
    assert len(tables["critic-error"].rows) == 5 * len(OPTIMIZERS)
    assert tables["trained-critic"].rows[1] == ("1", "0.1532", "0.200", "0.555", "0.995")
    first = tables["critic-error"].rows[0]
    assert first[:4] == ("0", "-", "0.00", "SGD") and first[-3:-1] == ("0.001", "0.001")
    exact, falling, _ = report.claims(results)
    assert exact.holds and falling.holds and "for 4 of 4" in falling.measured
    panels = report.draw(results)["critic-error"].axes
    assert [len(axes.lines) for axes in panels] == [3, 3, 5, 5]  # n, or optimizers, and the imitator

    # Where every critic is the exact one, nothing falls and nothing is behind.
    same = [dict(row) for row in results[0]["critic_error"]["rows"]]
    for row in same:
        row["reward"] = 1.0
    flat = [results[0] | {"critic_error": results[0]["critic_error"] | {"rows": same}}]
    assert [claim.holds for claim in report.claims(flat)] == [True, False, False]
