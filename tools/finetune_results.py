"""What result files of tools.finetune_study say: the table of the documents, and the curves of the figure."""

import statistics
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from benchmarks import machine
from dtag_fast.experiments.over_seeds import mean_curve, mean_over, with_interval
from dtag_fast.experiments.plots import Curve
from dtag_fast.experiments.tables import Table
from dtag_fast.training.files import read_json

BASELINE = "odt"  # what the other algorithms are compared with
HEADER = (
    *("data", "algorithm", "seeds x episodes", "updates of the policy, offline + online"),
    *("environment steps", "before", "at the end", "gain", f"end, minus {BASELINE}'s"),
    *("over the run", f"over the run, minus {BASELINE}'s"),
)


def table(*files: Path) -> str:
    """A row per file and algorithm: first and last evaluation of its runs, and their mean, over seeds."""
    results = [read(file) for file in files]
    scored = has_scores(results)
    rows, machines, sizes = [], set(), set()
    for result in results:
        groups = by_algorithm(result)
        for algorithm, runs in groups.items():
            before, after = ends(runs, scored)
            gains = {seed: after[seed] - before[seed] for seed in after}
            last = ends(groups[BASELINE], scored)[1] if BASELINE in groups else {}
            whole = over_run(runs, scored)
            baselines = over_run(groups[BASELINE], scored) if BASELINE in groups else {}
            offline, online = (_mean(run[part]["policy_updates"] for run in runs) for part in _PARTS)
            rows.append(
                (
                    name_of(result),
                    algorithm,
                    f"{len(runs)} x {result['settings']['eval_episodes']}",
                    f"{offline:,.0f} + {online:,.0f}",
                    f"{_mean(run['online']['env_steps'] for run in runs):,.0f}",
                    with_interval(before.values()),
                    with_interval(after.values()),
                    with_interval(gains.values(), "+"),
                    "" if algorithm == BASELINE else difference(after, last),
                    with_interval(whole.values()),
                    "" if algorithm == BASELINE else difference(whole, baselines),
                )
            )
            machines |= {machine.name(run["machine"]) for run in runs}
            sizes |= {_size(run["online"]["config"]) for run in runs}
    note = (
        f"{'Normalised score' if scored else 'Return'} of the mean action: mean over training seeds and its "
        "95 % interval by Student's t over them. Over the run: the mean of the curve over steps of the "
        f"environment. Columns minus {BASELINE}'s pair runs of the same seed. Updates and environment steps "
        f"are means over the seeds. {'; '.join(sorted(sizes))}. "
        f"{'; '.join(sorted(machines))}."
    )
    return Table(HEADER, rows, text_columns=2, note=note).markdown()


def panels(files: Sequence[Path]) -> tuple[dict[str, list[Curve]], str]:
    """A panel per file: its dataset -> a curve per algorithm over steps of the environment; and what y is.

    Raises:
        ValueError: a file that is no result of a study, or two of the same dataset.
    """
    results, found = [read(file) for file in files], {}
    scored = has_scores(results)
    for result in results:
        if name_of(result) in found:
            raise ValueError(f"files: expected one of {name_of(result)}, got two; draw them apart")
        found[name_of(result)] = [
            mean_curve(algorithm, [curve(run, scored) for run in runs])
            for algorithm, runs in by_algorithm(result).items()
        ]
    return found, "normalised score" if scored else "return"


def read(file: Path) -> dict:
    """A result file.

    Raises:
        ValueError: it is none, or holds no run, or a run without an evaluation before its first step.
    """
    result = read_json(file)
    if not isinstance(result, dict) or not {"settings", "runs"} <= result.keys():
        raise ValueError(f"{file}: expected a result file of tools.finetune_study")
    if not result["runs"]:
        raise ValueError(f"{file}: expected at least one run that is over, got none")
    for run in result["runs"]:
        found = [evaluation["env_steps"] for evaluation in run["evaluations"]]
        if found[:1] != [0] or len(found) < 2:
            raise ValueError(
                f"{file}: {run['algorithm']}, seed {run['seed']}: expected evaluations at step 0 and later, "
                f"got them at {found}"
            )
    return result


def has_scores(results: Sequence[dict]) -> bool:
    """Whether every evaluation has a normalised score; otherwise returns are told."""
    runs = [run for result in results for run in result["runs"]]
    return all(e["normalized_score"] is not None for run in runs for e in run["evaluations"])


def by_algorithm(result: dict) -> dict[str, list[dict]]:
    """The runs of each algorithm, by seed."""
    groups = defaultdict(list)
    for run in sorted(result["runs"], key=lambda run: run["seed"]):
        groups[run["algorithm"]].append(run)
    return dict(sorted(groups.items()))


def name_of(result: dict) -> str:
    """Of its dataset."""
    about = result["runs"][0]["dataset"]
    return (about["dataset_id"] or about["env_id"]).removeprefix("local/")


def curve(run: dict, scored: bool) -> tuple[list[float], list[float]]:
    """Steps of the environment, and score or return there."""
    key = "normalized_score" if scored else "return_mean"
    return [e["env_steps"] for e in run["evaluations"]], [e[key] for e in run["evaluations"]]


def ends(runs: Sequence[dict], scored: bool) -> tuple[dict[int, float], dict[int, float]]:
    """Seed -> first value of its curve, and seed -> last one."""
    values = {run["seed"]: curve(run, scored)[1] for run in runs}
    return {seed: y[0] for seed, y in values.items()}, {seed: y[-1] for seed, y in values.items()}


def over_run(runs: Sequence[dict], scored: bool) -> dict[int, float]:
    """Seed -> mean of its curve over steps of the environment, by the trapezoidal rule."""
    return {run["seed"]: mean_over(*curve(run, scored)) for run in runs}


def difference(values: dict[int, float], others: dict[int, float]) -> str:
    """Of runs of the same seed; empty where there are none."""
    paired = [value - others[seed] for seed, value in values.items() if seed in others]
    return with_interval(paired, "+") if paired else ""


_PARTS = ("offline", "online")


def _mean(values) -> float:
    return statistics.fmean(values)


def _size(config: dict) -> str:
    return (
        f"K={config['context_len']}, d={config['d_model']}, n_layer={config['n_layer']}, "
        f"{config['batch_size']} windows an update"
    )
