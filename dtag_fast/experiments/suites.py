"""The suites of `dtag reproduce`: what is run for each seed, what must come out, tables and figures.

A suite is one entry of SUITES; suite_runs.py runs them. Its seeds are independent of each other.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from dtag_fast.experiments import (
    return_regret_figures,
    return_regret_report,
    single_state_figures,
    single_state_report,
    toy_report,
)
from dtag_fast.experiments.claims import Claim
from dtag_fast.experiments.return_regret import ReturnRegretConfig, run_return_regret
from dtag_fast.experiments.single_state import SingleStateConfig, run_single_state
from dtag_fast.experiments.tables import Table


@dataclass(frozen=True)
class Suite:
    """What a name stands for. All functions take results as a JSON file gives them back.

    Attributes:
        title: one line. source: paper and section.
        config: frozen dataclass of the settings. seeds: how many by default.
        seconds: about what one seed takes on one core.
        code: folders and files of the package on which the numbers depend.
        run: (seed, config) -> result of a seed, a dict of JSON values.
        tables: results of all seeds -> name -> Table.
        claims: results of all seeds -> what must hold, and whether it does.
        draw: results of all seeds -> name -> matplotlib figure.
    """

    title: str
    source: str
    config: Any
    seeds: int
    seconds: float
    code: tuple[str, ...]
    run: Callable[[int, Any], dict]
    tables: Callable[[list[dict]], dict[str, Table]]
    claims: Callable[[list[dict]], list[Claim]]
    draw: Callable[[list[dict]], dict[str, Any]]


SUITES: dict[str, Suite] = {
    "single-state": Suite(
        title="one state: DDPG, ODT and ODT + DDPG from data far from the peak",
        source="TD3+ODT, arXiv 2410.24108, section 3.1 and appendix F",
        config=SingleStateConfig(),
        seeds=10,
        seconds=9,
        code=("experiments/single_state.py",),
        run=run_single_state,
        tables=single_state_report.tables,
        claims=single_state_report.claims,
        draw=single_state_figures.draw,
    ),
    "regret": Suite(
        title="what asking for a return beyond the data costs, in MDPs where all is known",
        source="TD3+ODT, arXiv 2410.24108, section 3.3 and appendix E",
        config=ReturnRegretConfig(),
        seeds=10,
        seconds=14,
        code=("experiments/return_regret.py", "experiments/layered_mdp.py", "models", "ops"),
        run=run_return_regret,
        tables=return_regret_report.tables,
        claims=return_regret_report.claims,
        draw=return_regret_figures.draw,
    ),
    "toy": Suite(
        title="reward 1 - a^2, data only where |a| > 0.5: imitation, Action Gradient, errors of the critic",
        source="Action Gradient, arXiv 2510.05285, toy experiment",
        config=toy_report.ToySuiteConfig(),
        seeds=5,
        seconds=9,
        code=("experiments/toy.py", "experiments/toy_critic_error.py", "models", "ops", "data"),
        run=toy_report.run,
        tables=toy_report.tables,
        claims=toy_report.claims,
        draw=toy_report.draw,
    ),
}
