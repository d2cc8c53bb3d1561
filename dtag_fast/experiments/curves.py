"""Curves out of what runs and evaluations leave on disk."""

from collections.abc import Sequence
from pathlib import Path

from dtag_fast.experiments.plots import Curve
from dtag_fast.training.files import read_json, read_json_lines

# Keys of evaluations; the last one holds a list, which tells them from what `dtag sweep` writes.
_ONE, _SEVERAL = ("env_id", "episodes", "settings"), ("run", "checkpoints")
UNPLOTTED = ("time/",)  # metrics that grow with the clock and say nothing as a curve
ENV_STEPS = (
    "online/env_steps",
    "eval/env_steps",
)  # steps of the environment so far, of either kind of record


def is_run(path: Path) -> bool:
    """Whether `path` is a run folder with metrics."""
    return (path / "metrics.jsonl").is_file()


def is_online(run: Path) -> bool:
    """Whether a run with metrics counts steps of an environment, as those of `dtag finetune` do.

    Raises:
        ValueError: as `training_panels`.
    """
    return _count_env_steps(_records(run / "metrics.jsonl"))


def training_panels(runs: dict[str, Path]) -> dict[str, list[Curve]]:
    """Metric -> one curve per run that logged it, in the order in which the metrics were first logged.

    A run that `is_online` has its curves over steps of the environment, any other over updates.

    Args:
        runs: label -> run folder.

    Raises:
        ValueError: a run has logged nothing yet, or a line of its metrics is damaged.
    """
    panels: dict[str, list[Curve]] = {}
    for label, run in runs.items():
        records, points = _records(run / "metrics.jsonl"), {}
        places = ENV_STEPS if _count_env_steps(records) else ("step",)
        for record in records:
            place = next(record[name] for name in places if name in record)
            for name, value in record.items():
                if _is_drawn(name) and isinstance(value, int | float):
                    points.setdefault(name, []).append((place, value))
        for name, found in points.items():
            x, y = zip(*found, strict=True)
            panels.setdefault(name, []).append(Curve(label, x, y))
    return panels


def _count_env_steps(records: list[dict]) -> bool:
    """Whether all of them do."""
    return all(any(name in record for name in ENV_STEPS) for record in records)


def _is_drawn(name: str) -> bool:
    return name not in ("step", *ENV_STEPS) and not name.startswith(UNPLOTTED)


def run_labels(paths: Sequence[Path]) -> dict[str, Path]:
    """Shortest distinct labels: the last part of each path, with its parents where two would be the same."""
    parts = [path.resolve().parts for path in paths]
    depth = 1
    while len({part[-depth:] for part in parts}) < len(set(parts)):
        depth += 1
    return {"/".join(part[-depth:]): path for part, path in zip(parts, paths, strict=True)}


def _records(file: Path) -> list[dict]:
    records = read_json_lines(file)
    if not records:
        raise ValueError(f"{file}: nothing logged yet; let the run go on for a while")
    return records


def score_curves(evaluations: dict[str, Path]) -> tuple[list[Curve], str]:
    """Score against n out of JSON files of `dtag evaluate`: one curve per file and choice of all else than n.

    The plain policy is the point n = 0 of every curve with its target return.

    Args:
        evaluations: label -> file.

    Returns:
        The curves, those of a single n left out, and the name of their values: the normalised score where all
        files have one, else the return.

    Raises:
        ValueError: a file is no evaluation.
    """
    results = read_evaluations(evaluations)
    for result in results.values():  # a setting of which no episode could be finished has no place
        result["settings"] = [setting for setting in result["settings"] if setting["mean"] is not None]
    every = [setting for result in results.values() for setting in result["settings"]]
    normalised = all(setting["normalized"] for setting in every)
    curves = []
    for label, result in results.items():
        for choice, points in _by_choice(result["settings"]).items():
            if len(points) < 2:
                continue
            values = [point["normalized"] if normalised else point for _, point in points]
            curves.append(
                Curve(
                    ", ".join(part for part in (label if len(results) > 1 else "", choice) if part),
                    [n for n, _ in points],
                    [value["mean"] for value in values],
                    [value["ci95"][0] for value in values],
                    [value["ci95"][1] for value in values],
                )
            )
    return curves, f"{'normalised score' if normalised else 'return'} (mean, 95 % interval)"


def is_evaluation(path: Path) -> bool:
    """Whether `path` is a JSON file that `dtag evaluate` or `EvaluationResult.to_json` wrote."""
    return _evaluation(path) is not None


def _evaluation(path: Path) -> dict | None:
    """What an evaluation's JSON file holds; None for any other path."""
    if path.suffix != ".json" or not path.is_file():
        return None
    try:
        content = read_json(path)
    except ValueError:
        return None
    if not isinstance(content, dict):
        return None
    forms = (_ONE, _SEVERAL)
    known = any(content.keys() >= set(keys) and isinstance(content[keys[-1]], list) for keys in forms)
    return content if known else None


def read_evaluations(files: dict[str, Path]) -> dict[str, dict]:
    """Label -> evaluation of one checkpoint; where a file holds several, the label names the step too.

    Args:
        files: label -> JSON file.

    Raises:
        ValueError: a file is no evaluation.
    """
    found = {}
    for label, file in files.items():
        if (content := _evaluation(file)) is None:
            raise ValueError(f"{file}: not a JSON file of `dtag evaluate`")
        checkpoints = content.get("checkpoints", [content])
        for result in checkpoints:
            step = "" if len(checkpoints) == 1 else f" step {result['policy']['step']}"
            found[label + step] = result
    return found


def read_latencies(files: dict[str, Path]) -> dict[str, dict]:
    """Label -> what `dtag evaluate --latency` measured, of those JSON files that hold it."""
    contents = {label: read_json(file) for label, file in files.items()}
    return {label: content["latency"] for label, content in contents.items() if "latency" in content}


def _by_choice(settings: list[dict]) -> dict[str, list[tuple[int, dict]]]:
    """Name of all that a setting chose but n -> its (n, setting), by n."""
    choices: dict[str, list[tuple[int, dict]]] = {}
    beginnings: dict[str, tuple] = {}
    for setting in settings:
        if setting["setting"]["steps"] > 0:
            name = _choice(setting, settings)
            choices.setdefault(name, []).append((setting["setting"]["steps"], setting))
            beginnings[name] = _beginning(setting)
    for setting in settings:
        if setting["setting"]["steps"] == 0:
            for name, points in choices.items():
                if beginnings[name] == _beginning(setting):
                    points.append((0, setting))
    return {name: sorted(points, key=lambda point: point[0]) for name, points in choices.items()}


def _beginning(setting: dict) -> tuple:
    """What a setting has in common with the one of n = 0 that its line begins with: the plain policy, or with
    several starts the best of them."""
    options = setting["setting"]
    if (starts := options.get("starts", 1)) == 1:
        return setting["target_return"], 1
    how = starts, options.get("spread", 1.0), options["reduce"], str(options.get("behaviour"))
    return setting["target_return"], *how


def _choice(setting: dict, settings: list[dict]) -> str:
    """What tells this setting from the others of its file, n aside: "lr=0.03, optimizer=..., target=..."."""
    refined = [other for other in settings if other["setting"]["steps"] > 0]
    behaviour = setting["setting"].get("behaviour")
    parts = [f"lr={setting['setting']['lr']:g}"]
    if behaviour is not None:
        parts = [f"behaviour weight={behaviour['weight']:g} radius={behaviour['radius']:g}"]
    for key, value in setting["setting"].items():
        if key not in ("steps", "lr", "behaviour") and any(
            other["setting"][key] != value for other in refined
        ):
            parts.append(f"{key}={value}")
    if any(other["target_return"] != setting["target_return"] for other in settings):
        parts.append(f"target={setting['target_return']:g}")
    return ", ".join(parts)
