"""Table and claims of the regret of return-conditioned policies (return_regret.py)."""

import math
import statistics

from dtag_fast.experiments.claims import Claim
from dtag_fast.experiments.tables import Table

POLICIES = {"exact": "exact", "counted": "from counts", "network": "network"}
ROUNDING = 1e-9  # of exact values summed in float64


def tables(results: list[dict]) -> dict[str, Table]:
    """{"regret": a row per target}; results of run_return_regret."""
    rows = []
    for i, offset in enumerate(_offsets(results)):
        asked = [result["targets"][i] for result in results]
        rows.append(
            (
                f"{offset:+d}",
                f"{statistics.fmean(row['target'] for row in asked):.1f}",
                _median([1 / row["alpha"] if row["alpha"] else math.inf for row in asked]),
                _median([math.inf if row["bound"] is None else row["bound"] for row in asked]),
                *(f"{statistics.fmean(_asked_regrets(results, i, policy)):.2f}" for policy in POLICIES),
                *(f"{statistics.fmean(_best_regrets(results, i, policy)):.2f}" for policy in POLICIES),
            )
        )
    header = (
        "target less the data's best return",
        "mean target",
        "1 / alpha, median",
        "bound, median",
        *(f"target less return, {label}" for label in POLICIES.values()),
        *(f"best policy less return, {label}" for label in POLICIES.values()),
    )
    means = {
        key: statistics.fmean(result[key] for result in results) for key in ("best", "behaviour", "data_mean")
    }
    best_seen = statistics.fmean(result["data_best"] for result in results)
    config = results[0]["config"]
    note = (
        f"Means over {len(results)} random MDPs of {config['horizon']} steps with rewards 0 to "
        f"{config['max_reward']} and eps = {config['eps']:g}, {config['episodes']} episodes of data each. "
        f"The best policy's return is {means['best']:.2f}, that of the data's policy "
        f"{means['behaviour']:.2f}, the best in the data {best_seen:.1f}. "
        "Infinite: the target has probability 0."
    )
    return {"regret": Table(header, rows, note=note)}


def claims(results: list[dict]) -> list[Claim]:
    """What is proved, and so holds unless the program is wrong."""
    gaps = [
        row["target"] - row["exact"] - row["bound"]
        for result in results
        for row in result["targets"]
        if row["bound"] is not None
    ]
    chebyshev = [
        row["alpha"] * ((row["target"] - result["behaviour"]) / result["behaviour_std"]) ** 2
        for result in results
        for row in result["targets"]
    ]
    below_best = min(
        result["best"] - row[policy]
        for result in results
        for row in result["targets"]
        for policy in ("exact", "counted")
    )
    return [
        Claim(
            "the exact policy's regret is within eps (1 / alpha + 2) H^2 M",
            bool(gaps) and max(gaps) <= ROUNDING,
            f"at the nearest {-max(gaps):.2f} below it" if gaps else "no target has a bound",
        ),
        Claim(
            "1 / alpha is at least the square of the target's distance from the mean, in deviations",
            max(chebyshev) <= 1 + ROUNDING,
            f"at the nearest {max(chebyshev):.2f} of it",
        ),
        Claim(
            "no return-conditioned policy is worth more than the best policy",
            below_best >= -ROUNDING,
            f"at the nearest {below_best:.3f} less",
        ),
    ]


def best_regret(result: dict, row: dict, policy: str) -> float:
    """The best policy's return less that of a policy asked for a target."""
    return result["best"] - row[policy]


def _asked_regrets(results: list[dict], i: int, policy: str) -> list[float]:
    return [result["targets"][i]["target"] - result["targets"][i][policy] for result in results]


def _best_regrets(results: list[dict], i: int, policy: str) -> list[float]:
    return [best_regret(result, result["targets"][i], policy) for result in results]


def _offsets(results: list[dict]) -> list[int]:
    return [row["offset"] for row in results[0]["targets"]]


def _median(values: list[float]) -> str:
    value = statistics.median(values)
    if math.isinf(value):
        return "infinite"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
