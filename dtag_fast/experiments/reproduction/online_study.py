"""Online fine-tuning: ODT and TD3+ODT, trained offline and gone on with in the environment."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from dtag_fast.experiments import plots
from dtag_fast.experiments.claims import Claim, on_most
from dtag_fast.experiments.over_seeds import mean_curve, mean_over, with_interval
from dtag_fast.experiments.reproduction.budget import FIRST_EPISODE
from dtag_fast.experiments.reproduction.finetunings import Finetuning, read_curve
from dtag_fast.experiments.reproduction.lab import Lab
from dtag_fast.experiments.reproduction.scores import NONE, Goal
from dtag_fast.experiments.reproduction.study import Findings, Study
from dtag_fast.experiments.reproduction.tasks import ANTMAZE, GYM
from dtag_fast.experiments.reproduction.trainings import Training
from dtag_fast.experiments.reproduction.work import Shelf
from dtag_fast.experiments.tables import Table

BASELINE, OURS = "odt", "td3-odt"
POLICY_DELAY = 2  # of td3-odt on Gym: updates of its critic for one of its policy; 1 elsewhere
HEADER = (
    *("task", "algorithm", "seeds", "environment steps", "before", "at the end", "gain"),
    *(f"end - {BASELINE}'s", "over the run", f"over the run - {BASELINE}'s"),
)
NOTE = (
    "Normalised scores of the mean action (returns where a task has no references): mean over training seeds "
    "and its 95 % interval by Student's t. At the end: of the last policy, whatever came between. Over the "
    "run: the mean of the curve over steps of the environment. Differences pair runs of the same seed."
)


@dataclass(frozen=True)
class Run:
    """A fine-tuned run.

    Attributes:
        env_steps, returns, scores: (N,) of its evaluations, the first one before the first step; scores are
            None where the task has no references.
        policy_updates: made online. diverged: update at which it, or its training offline, diverged; then
            there are no evaluations.
    """

    task: str
    algorithm: str
    seed: int
    env_steps: tuple[int, ...] = ()
    returns: tuple[float, ...] = ()
    scores: tuple[float, ...] | None = None
    policy_updates: int = 0
    dataset: str = ""
    diverged: int | None = None

    @property
    def values(self) -> tuple[float, ...]:
        """The scores, or the returns where there are none."""
        return self.returns if self.scores is None else self.scores


def goals(lab: Lab, tasks: Sequence[str]) -> list[Goal]:
    return [
        Goal(task, algorithm, seed, finetuning(lab, task, algorithm, seed))
        for task in tasks
        for seed in lab.reported
        for algorithm in (BASELINE, OURS)
    ]


def finetuning(lab: Lab, task: str, algorithm: str, seed: int) -> Finetuning:
    """A run with the budget's settings; both algorithms make the same number of updates of the policy."""
    budget = lab.budget
    longer, further = (1, 1) if task in GYM else budget.elsewhere
    return Finetuning(
        offline(lab, task, algorithm, seed, longer),
        env_steps=further * budget.env_steps,
        online=tuple(sorted(budget.online.items())),
        eval_every=budget.eval_every,
        episodes=budget.episodes,
        seed=FIRST_EPISODE,
    )


def offline(lab: Lab, task: str, algorithm: str, seed: int, longer: int) -> Training:
    if algorithm == BASELINE:
        found, each = lab.training(task, algorithm, seed), 1
    else:
        each = POLICY_DELAY if task in GYM else 1
        found = lab.training(task, algorithm, seed, policy_delay=each)
    return replace(found, updates=longer * each * found.updates)


def read_run(goal: Goal, shelf: Shelf) -> Run | None:
    """None where the run is not over, or one of the two ends of its curve has no finished episode."""
    found = read_curve(goal.work, shelf)
    if found is None:
        return None
    if "diverged" in found:
        return Run(goal.task, goal.method, goal.seed, diverged=found["diverged"]["update"])
    curve = found["evaluations"]
    steps = tuple(evaluation["env_steps"] for evaluation in curve)
    if steps[:1] != (0,) or steps[-1] != found["env_steps"]:
        return None
    scores = tuple(evaluation["normalized_score"] for evaluation in curve)
    return Run(
        task=goal.task,
        algorithm=goal.method,
        seed=goal.seed,
        env_steps=steps,
        returns=tuple(evaluation["return_mean"] for evaluation in curve),
        scores=None if None in scores else scores,
        policy_updates=found["policy_updates"],
        dataset=found["dataset"] or "",
    )


def report(rows: Sequence[Run], tasks: Sequence[str]) -> Findings:
    return Findings(
        tables={"online": table(rows, tasks)},
        figures={"online": figure(rows, tasks)} if any(row.values for row in rows) else {},
        claims=[ends_above(rows, tasks), improves(rows, tasks)],
    )


def table(rows: Sequence[Run], tasks: Sequence[str]) -> Table:
    cells = []
    for task in tasks:
        others = of(rows, task, BASELINE)
        for algorithm in (BASELINE, OURS):
            mine = of(rows, task, algorithm)
            runs = list(mine.values())
            paired = [(run, others[seed]) for seed, run in mine.items() if seed in others]
            if algorithm == BASELINE:
                paired = []
            lost = [r for r in rows if (r.task, r.algorithm) == (task, algorithm) and r.diverged is not None]
            seeds = f"{len(mine)}, {len(lost)} diverged" if lost else f"{len(mine)}"
            played = f"{fmean(run.env_steps[-1] for run in runs):,.0f}" if runs else NONE
            columns = (
                _cell([run.values[0] for run in runs]),
                _cell([run.values[-1] for run in runs]),
                _cell([run.values[-1] - run.values[0] for run in runs], "+"),
                _cell([run.values[-1] - other.values[-1] for run, other in paired], "+"),
                _cell([_whole(run) for run in runs]),
                _cell([_whole(run) - _whole(other) for run, other in paired], "+"),
            )
            cells.append((task, algorithm, seeds, played, *columns))
    return Table(HEADER, cells, text_columns=2, note=NOTE)


def figure(rows: Sequence[Run], tasks: Sequence[str]):
    """A panel for each task: mean and range over seeds against steps of the environment."""
    panels = {}
    for task in tasks:
        groups = {name: list(of(rows, task, name).values()) for name in (BASELINE, OURS)}
        curves = [
            mean_curve(name, [(run.env_steps, run.values) for run in runs], band="range")
            for name, runs in groups.items()
            if runs
        ]
        if curves:
            panels[task] = curves
    scored = all(row.scores is not None for row in rows if row.values)
    return plots.learning_curves(panels, score_name="normalised score" if scored else "score or return")


def ends_above(rows: Sequence[Run], tasks: Sequence[str]) -> Claim:
    gaps = []
    for task in tasks:
        mine, others = of(rows, task, OURS), of(rows, task, BASELINE)
        if both := mine.keys() & others.keys():
            gaps.append(fmean(mine[seed].values[-1] - others[seed].values[-1] for seed in both))
    return on_most(
        f"{OURS} ends above {BASELINE} in the mean over seeds on most tasks", [gap > 0 for gap in gaps]
    )


def improves(rows: Sequence[Run], tasks: Sequence[str]) -> Claim:
    groups = [of(rows, task, OURS).values() for task in tasks]
    gains = [fmean(run.values[-1] - run.values[0] for run in runs) for runs in groups if runs]
    return on_most(
        f"{OURS} ends above the policy it began with, in the mean, on most tasks",
        [gain > 0 for gain in gains],
    )


def of(rows: Sequence[Run], task: str, algorithm: str) -> dict[int, Run]:
    """Seed -> run, of those that did not diverge."""
    return {r.seed: r for r in rows if (r.task, r.algorithm) == (task, algorithm) and r.values}


def _cell(values: Sequence[float], sign: str = "") -> str:
    return with_interval(values, sign) if values else NONE


def _whole(run: Run) -> float:
    return mean_over(run.env_steps, run.values)


ONLINE_TASKS = ("hopper-medium-replay", "halfcheetah-medium-replay", "door-human", *ANTMAZE, "maze2d-umaze")

STUDY = Study(
    title="ODT and TD3+ODT fine-tuned online: locomotion, a hand, mazes",
    source="Reinforcement Learning Gradients as Vitamin for Online Finetuning Decision Transformers, "
    "arXiv 2410.24108, tables 1 to 3 and 11",
    tasks=ONLINE_TASKS,
    goals=goals,
    report=report,
    read=read_run,
)
