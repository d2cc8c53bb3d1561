"""The toy (toy.py) as a suite: table, claims and figure."""

from dataclasses import asdict
from typing import Any

from dtag_fast.experiments import plots
from dtag_fast.experiments.claims import Claim
from dtag_fast.experiments.tables import Table
from dtag_fast.experiments.toy import ToyConfig, run_toy

IMITATOR_STAYS, REFINED_ENDS = 0.4, 0.05


def run(seed: int, config: ToyConfig) -> dict[str, Any]:
    """The ToyResult of a seed and its two distances from the optimum."""
    result = run_toy(seed, config)
    return asdict(result) | {
        "imitator_distance": result.imitator_distance,
        "refined_distance": result.refined_distance,
    }


def tables(results: list[dict]) -> dict[str, Table]:
    """{"toy": a row per seed}."""
    rows = [
        (str(result["seed"]), f"{result['imitator_distance']:.3f}", f"{result['refined_distance']:.4f}")
        for result in results
    ]
    return {"toy": Table(("seed", "smallest |a| of the imitator", "largest |a| after Action Gradient"), rows)}


def claims(results: list[dict]) -> list[Claim]:
    """The imitator stays at its data, Action Gradient ends at the optimum."""
    nearest = min(result["imitator_distance"] for result in results)
    farthest = max(result["refined_distance"] for result in results)
    return [
        Claim(
            f"the imitator stays at |a| > {IMITATOR_STAYS:g}",
            nearest > IMITATOR_STAYS,
            f"{nearest:.3f} least",
        ),
        Claim(
            f"Action Gradient ends at |a| < {REFINED_ENDS:g}", farthest < REFINED_ENDS, f"{farthest:.4f} most"
        ),
    ]


def draw(results: list[dict]) -> dict[str, Any]:
    """{"toy": the landscape of the first seed}."""
    names = ("grid", "true_reward", "critic", "demonstrated", "imitated", "paths")
    return {"toy": plots.toy_landscape(**{name: results[0][name] for name in names})}
