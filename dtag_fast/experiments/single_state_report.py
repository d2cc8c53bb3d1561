"""Table and claims of the problem of one state (single_state.py)."""

import statistics
from collections.abc import Sequence

from dtag_fast.experiments.claims import Claim
from dtag_fast.experiments.single_state import (
    METHODS,
    PEAK_DISTANCE,
    PEAK_REWARD,
    SingleStateConfig,
    distance_from_data,
    reaches_peak,
)
from dtag_fast.experiments.tables import Table

ENOUGH = 0.9  # share of the seeds in which a method with a critic has to end at the peak
NEAR = 0.05  # distance of ODT's last action from the data


def tables(results: list[dict]) -> dict[str, Table]:
    """{"single-state": a row per method}; results of run_single_state."""
    config = SingleStateConfig(**results[0]["config"])
    pretrained = config.pretrain_epochs
    published, end = pretrained + config.published_epochs, pretrained + config.online_epochs
    rows = []
    for method, label in METHODS.items():
        paths = _paths(results, method)
        first = [_first_at_peak(path, pretrained) for path in paths]
        found = [epoch for epoch in first if epoch is not None]
        rows.append(
            (
                label,
                _span([path[pretrained] for path in paths]),
                _share(paths, published),
                _share(paths, end),
                _span([path[end] for path in paths]),
                f"{statistics.fmean(_last_rewards(results, method)):.3f}",
                f"{statistics.median(found):.0f} ({min(found)} to {max(found)})" if found else "never",
            )
        )
    header = (
        "method",
        "action after pretraining",
        f"at the peak after online epoch {config.published_epochs}",
        f"at the peak after online epoch {config.online_epochs}",
        "last action",
        "mean last reward",
        "first epoch at the peak",
    )
    note = (
        f"{len(results)} seeds; actions are the median over seeds and their range. At the peak: |a| <= "
        f"{PEAK_DISTANCE:g} and a reward above {PEAK_REWARD:g}, when asked for the peak's reward of "
        f"{config.target_return:g}. First epoch: the median and range over the seeds that get there."
    )
    return {"single-state": Table(header, rows, note=note)}


def claims(results: list[dict]) -> list[Claim]:
    """What the paper's figure shows: methods with a critic end at the peak, ODT stays at its data."""
    odt = _paths(results, "odt")
    farthest = max(distance_from_data(path[-1]) for path in odt)
    # Before the first epoch the untrained actor may stand anywhere, at the peak too.
    visits = sum(reaches_peak(action) for path in odt for action in path[1:])
    best = max(max(run["reward"][1:]) for r in results for run in r["methods"] if run["method"] == "odt")
    found = [
        Claim(
            "ODT is at the peak after no epoch", visits == 0, f"its best reward after any epoch is {best:.3f}"
        ),
        Claim(
            f"ODT ends within {NEAR:g} of its data",
            farthest <= NEAR,
            f"the farthest last action is {farthest:.3f} away",
        ),
    ]
    for method in ("ddpg", "odt-ddpg"):
        count = sum(reaches_peak(path[-1]) for path in _paths(results, method))
        found.append(
            Claim(
                f"{METHODS[method]} ends at the peak in at least {ENOUGH:.0%} of the seeds",
                count >= ENOUGH * len(results),
                f"{count} of {len(results)}",
            )
        )
    return found


def _paths(results: list[dict], method: str) -> list[list[float]]:
    """The policy's actions of every seed."""
    return [run["action"] for result in results for run in result["methods"] if run["method"] == method]


def _last_rewards(results: list[dict], method: str) -> list[float]:
    return [run["reward"][-1] for result in results for run in result["methods"] if run["method"] == method]


def _first_at_peak(path: Sequence[float], pretrained: int) -> int | None:
    """The first online epoch after which the policy is at the peak."""
    online = path[pretrained + 1 :]
    return next((epoch for epoch, action in enumerate(online, start=1) if reaches_peak(action)), None)


def _share(paths: list[list[float]], epoch: int) -> str:
    return f"{sum(reaches_peak(path[epoch]) for path in paths)} of {len(paths)}"


def _span(actions: list[float]) -> str:
    return f"{statistics.median(actions):.3f} ({min(actions):.3f} to {max(actions):.3f})"
