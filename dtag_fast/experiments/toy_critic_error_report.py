"""What toy_critic_error.py found: tables, claims and a figure."""

from itertools import pairwise
from statistics import fmean
from typing import Any

from dtag_fast.experiments import plots
from dtag_fast.experiments.claims import Claim
from dtag_fast.experiments.tables import Table
from dtag_fast.experiments.toy_critic_error import OPTIMIZERS

EXACT_ENDS = 0.05
HIGH_ERROR = 0.2  # RMSE of Q; all that the imitator's best lacks is 0.25
ADAPTIVE = ("Adam", "RMSprop")


def tables(results: list[dict]) -> dict[str, Table]:
    """{"critic-error": a row for every error and optimizer, "trained-critic": a row per seed}."""
    steps = _steps(results)
    rows = []
    for waves, q_rmse in _errors(results):
        for optimizer in OPTIMIZERS:
            found = _rows(results, waves=waves, q_rmse=q_rmse, optimizer=optimizer)
            last = [row for row in found if row["steps"] == steps[-1]]
            rows.append(
                (
                    f"{q_rmse:g}",
                    f"{waves}" if waves else "-",
                    f"{last[0]['gradient_rmse']:.2f}",
                    optimizer,
                    *(f"{_mean(found, 'reward', n):.3f}" for n in steps),
                    f"{_mean(last, 'distance'):.3f}",
                    f"{max(row['farthest'] for row in last):.3f}",
                    f"{_mean(last, 'q_gain'):.3f}",
                )
            )
    header = (
        "RMSE of Q",
        "half-waves k",
        "RMSE of dQ/da",
        "optimizer",
        *(f"reward, n={n}" for n in steps),
        f"mean |a|, n={steps[-1]}",
        "largest |a|",
        "Q gain",
    )
    imitator = fmean(result["critic_error"]["imitator_reward"] for result in results)
    note = (
        f"Means over {len(results)} seeds, the phases of the wave and the imitator's actions, whose true "
        f"reward is {imitator:.3f}. Errors on |a| <= 1."
    )
    trained = [
        (
            str(result["seed"]),
            f"{result['critic_error']['trained']['q_rmse']:.4f}",
            f"{result['critic_error']['trained']['gradient_rmse']:.3f}",
            f"{result['critic_error']['imitator_reward']:.3f}",
            f"{result['critic_error']['refined_reward']:.3f}",
        )
        for result in results
    ]
    of_trained = ("seed", "RMSE of Q", "RMSE of dQ/da", "reward of the imitator", "after Action Gradient")
    return {
        "critic-error": Table(header, rows, text_columns=4, note=note),
        "trained-critic": Table(of_trained, trained),
    }


def claims(results: list[dict]) -> list[Claim]:
    """The exact critic leads to the optimum, errors cost reward, rough ones more with Adam."""
    most, errors = _steps(results)[-1], _errors(results)
    farthest = max(row["farthest"] for row in _rows(results, q_rmse=0.0, steps=most))
    smooth, rough = errors[1][0], errors[-1][0]

    def rewards(optimizer: str, wanted: list[tuple[int, float]]) -> list[float]:
        found = (_rows(results, waves=k, q_rmse=e, optimizer=optimizer) for k, e in wanted)
        return [_mean(rows, "reward", most) for rows in found]

    growing = [error for error in errors if error[0] in (0, smooth)]
    falling = [all(a > b for a, b in pairwise(rewards(name, growing))) for name in OPTIMIZERS]
    high = [error for error in errors if error[0] == rough and error[1] >= HIGH_ERROR]
    behind = [
        sgd - other
        for name in ADAPTIVE
        for sgd, other in zip(rewards("SGD", high), rewards(name, high), strict=True)
    ]
    return [
        Claim(
            f"with the exact critic every optimizer ends at |a| < {EXACT_ENDS:g} after {most} steps",
            farthest < EXACT_ENDS,
            f"{farthest:.4f} most",
        ),
        Claim(
            f"the reward after {most} steps falls with every growth of a smooth error (k = {smooth})",
            all(falling),
            f"for {sum(falling)} of {len(falling)} optimizers; SGD: "
            + ", ".join(f"{value:.3f}" for value in rewards("SGD", growing)),
        ),
        Claim(
            f"where the critic's error is high and rough (RMSE of Q from {HIGH_ERROR:g} on, k = {rough}) "
            "Adam and RMSprop end with less reward than SGD",
            all(lead > 0 for lead in behind),
            f"less by {min(behind):.3f} to {max(behind):.3f}",
        ),
    ]


def draw(results: list[dict]) -> dict[str, Any]:
    """{"critic-error": true reward against the error of Q; columns: k, rows: n, optimizers}."""
    steps, errors = _steps(results), _errors(results)
    waves = list(dict.fromkeys(k for k, _ in errors if k))
    imitator = fmean(result["critic_error"]["imitator_reward"] for result in results)
    with plots.style():
        size = (4.2 * len(waves), 6.2)
        figure, axes = plots.new_axes(2, len(waves), size=size, squeeze=False, sharex="col", sharey=True)
        for column, k in enumerate(waves):
            levels = [error for error in errors if error[0] in (0, k)]
            above, below = axes[:, column]
            for n, look in zip(steps, plots.line_styles(), strict=False):
                _line(above, results, levels, "SGD", n, f"SGD, n = {n}", look)
            for name, look in zip(OPTIMIZERS, plots.line_styles(), strict=False):
                _line(below, results, levels, name, steps[-1], f"{name}, n = {steps[-1]}", look)
            for place in (above, below):
                place.axhline(imitator, color=plots.GREY, lw=1, ls=":", label="imitator")
            above.set_title(f"k = {k}: RMSE of dQ/da is {k}$\\pi$ that of Q")
            below.set_xlabel("RMSE of Q on $|a| \\leq 1$")
            below.set_xticks(range(len(levels)), [f"{e:g}" for _, e in levels])
        for place in axes[:, 0]:
            place.set_ylabel("true reward")
            place.legend(fontsize=8)
    return {"critic-error": figure}


def _line(axes, results, levels, optimizer: str, n: int, label: str, look: dict) -> None:
    values = [_mean(_rows(results, waves=k, q_rmse=e, optimizer=optimizer), "reward", n) for k, e in levels]
    axes.plot(range(len(levels)), values, label=label, **look)


def _rows(results: list[dict], **wanted: Any) -> list[dict]:
    """Of all seeds those with these values."""
    rows = (row for result in results for row in result["critic_error"]["rows"])
    return [row for row in rows if all(row[key] == value for key, value in wanted.items())]


def _mean(rows: list[dict], key: str, steps: int | None = None) -> float:
    return fmean(row[key] for row in rows if steps in (None, row["steps"]))


def _errors(results: list[dict]) -> list[tuple[int, float]]:
    """(k, e) in the order in which they were run; the exact critic is first."""
    return list(dict.fromkeys((row["waves"], row["q_rmse"]) for row in _rows(results)))


def _steps(results: list[dict]) -> list[int]:
    return sorted({row["steps"] for row in _rows(results)})
