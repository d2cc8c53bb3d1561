"""The toy (toy.py) and its critics of known error (toy_critic_error.py) as a suite."""

from dataclasses import asdict, dataclass, field
from typing import Any

from dtag_fast.experiments import plots, toy_critic_error_report
from dtag_fast.experiments.claims import Claim
from dtag_fast.experiments.tables import Table
from dtag_fast.experiments.toy import ToyConfig, run_toy
from dtag_fast.experiments.toy_critic_error import CriticErrorConfig, critic_error_of

IMITATOR_STAYS, REFINED_ENDS = 0.4, 0.05


@dataclass(frozen=True)
class ToySuiteConfig:
    """The toy, and the critics of known error that its imitator is refined with."""

    toy: ToyConfig = field(default_factory=ToyConfig)
    critic_error: CriticErrorConfig = field(default_factory=CriticErrorConfig)


def run(seed: int, config: ToySuiteConfig) -> dict[str, Any]:
    """The ToyResult of a seed, its two distances from the optimum, and what errors of the critic cost."""
    result = run_toy(seed, config.toy)
    return asdict(result) | {
        "imitator_distance": result.imitator_distance,
        "refined_distance": result.refined_distance,
        "critic_error": critic_error_of(result, config.critic_error),
    }


def tables(results: list[dict]) -> dict[str, Table]:
    """{"toy": a row per seed}, and those of critics of known error."""
    rows = [
        (str(result["seed"]), f"{result['imitator_distance']:.3f}", f"{result['refined_distance']:.4f}")
        for result in results
    ]
    toy = Table(("seed", "smallest |a| of the imitator", "largest |a| after Action Gradient"), rows)
    return {"toy": toy} | toy_critic_error_report.tables(results)


def claims(results: list[dict]) -> list[Claim]:
    """The imitator stays at its data, Action Gradient ends at the optimum; what errors of the critic cost."""
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
        *toy_critic_error_report.claims(results),
    ]


def draw(results: list[dict]) -> dict[str, Any]:
    """{"toy": the landscape of the first seed}, and the figure of critics of known error."""
    names = ("grid", "true_reward", "critic", "demonstrated", "imitated", "paths")
    landscape = plots.toy_landscape(**{name: results[0][name] for name in names})
    return {"toy": landscape} | toy_critic_error_report.draw(results)
