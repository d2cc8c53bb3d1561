"""README.md of a policy that leaves the house: what it is, how to load it, and what was measured of it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, NamedTuple

from dtag_fast.training.checkpoint import RunInfo
from dtag_fast.training.files import read_json


class Evaluation(NamedTuple):
    """An evaluation of this policy: `rollout.EvaluationResult` as a dictionary."""

    result: dict[str, Any]


def read_evaluation(path: str | os.PathLike, info: RunInfo) -> Evaluation:
    """The evaluation of the checkpoint of `info` in a JSON file of `dtag evaluate --json`.

    Raises:
        FileNotFoundError, ValueError: there is no such file, it is something else, or of another policy.
    """
    path = Path(path)
    content = read_json(path)
    results = content.get("checkpoints", [content]) if isinstance(content, dict) else []
    if not results or not all(isinstance(r, dict) and {"settings", "policy"} <= set(r) for r in results):
        raise ValueError(f"{path}: expected the JSON of `dtag evaluate --json`, it is something else")
    names = ("algorithm", "step", "seed", "dataset_id")
    wanted = {name: getattr(info, name) for name in names}
    for result in results:
        if {name: result["policy"].get(name, wanted[name]) for name in names} == wanted:
            return Evaluation(result)
    raise ValueError(
        f"{path}: expected an evaluation of {wanted['algorithm']} at step {wanted['step']} (seed "
        f"{wanted['seed']}), found {results[-1]['policy'].get('algorithm')} at step "
        f"{results[-1]['policy'].get('step')}"
    )


def model_card(
    name: str, network: str, info: RunInfo, critic: RunInfo | None, evaluation: Evaluation | None
) -> str:
    """The text of README.md. It holds no number that is not in the checkpoints or in the evaluation."""
    parts = [_head(name, info, evaluation), f"# {name}\n", _about(network, info, critic)]
    parts += [_loading(critic is not None), _facts(info)]
    if evaluation is not None:
        parts.append(_scores(evaluation))
    return "\n".join(parts)


def _head(name: str, info: RunInfo, evaluation: Evaluation | None) -> str:
    """The YAML block. JSON strings and numbers are YAML too, and quote themselves."""
    tags = ["reinforcement-learning", "offline-rl", "dtag_fast", info.algorithm]
    tags += [info.env_id] if info.env_id else []
    lines = ["---", "library_name: dtag_fast", "pipeline_tag: reinforcement-learning", "tags:"]
    lines += [f"- {json.dumps(tag)}" for tag in tags]
    measured = [] if evaluation is None else _finished(evaluation)
    if measured:
        env = evaluation.result["env_id"]
        lines += ["model-index:", f"- name: {json.dumps(name)}", "  results:"]
        for setting in measured:
            lines += ["  - task:", "      type: reinforcement-learning", "    dataset:"]
            lines += [f"      name: {json.dumps(env)}", f"      type: {json.dumps(env)}", "    metrics:"]
            lines += _metric("mean_return", setting["mean"], f"mean return, {setting['label']}")
            if setting["normalized"]:
                score = setting["normalized"]["mean"]
                lines += _metric("normalized_score", score, f"normalised score, {setting['label']}")
    return "\n".join([*lines, "---\n"])


def _metric(kind: str, value: float, name: str) -> list[str]:
    return [f"    - type: {kind}", f"      value: {json.dumps(value)}", f"      name: {json.dumps(name)}"]


def _finished(evaluation: Evaluation) -> list[dict[str, Any]]:
    return [setting for setting in evaluation.result["settings"] if setting["mean"] is not None]


def _about(network: str, info: RunInfo, critic: RunInfo | None) -> str:
    env = f" for `{info.env_id}`" if info.env_id else ""
    text = f"A policy{env}: {network}, {_origin(info)}."
    if critic is not None:
        text += f" Beside it a critic, {_origin(critic)}, with which Action Gradient refines its actions."
    return text + "\n"


def _origin(info: RunInfo) -> str:
    """Whose training made it, as far as that is known."""
    data = f" on `{info.dataset_id}`" if info.dataset_id else ""
    if "converted_from" in info.config:
        return f"converted from `{info.config['converted_from']}`" + (f", trained{data}" if data else "")
    updates = f" for {info.step:,} updates" if info.step else ""  # unknown of another library's critic
    return f"trained by `{info.algorithm}`{data}{updates}"


def _loading(with_critic: bool) -> str:
    lines = ["## How to load it", "", "```python", "from dtag_fast.interop import from_pretrained", ""]
    lines += ["policy, critic = from_pretrained(FOLDER)", "```", "", "Or play it:", "", "```"]
    lines += [f"dtag evaluate FOLDER{' --critic FOLDER' if with_critic else ''}", "```\n"]
    return "\n".join(lines)


def _facts(info: RunInfo) -> str:
    trained_here = "converted_from" not in info.config
    versions = ", ".join(f"{name} {version}" for name, version in info.versions.items())
    rows = {
        "states, actions": f"{info.state_dim}, {info.action_dim}",
        "context (steps)": info.context_len,
        "returns are divided by": info.return_scale if info.context_len else None,
        "target returns": ", ".join(f"{r:g}" for r in info.target_returns) or None,
        "best return in the data": f"{info.best_return:g}" if info.dataset_id else None,
        "seed": info.seed if info.step else None,
        "trained with" if trained_here else "converted with": versions or None,
    }
    lines = ["## What it takes", "", "| | |", "| --- | --- |"]
    lines += [f"| {name} | {value} |" for name, value in rows.items() if value is not None]
    statistics = "State mean and deviation and the action bounds are in `config.json` under `info`."
    return "\n".join([*lines, "", f"{statistics} States are standardised inside of the policy.\n"])


def _scores(evaluation: Evaluation) -> str:
    result, rows = evaluation.result, []
    for setting in _finished(evaluation):
        normalized = setting["normalized"]
        score = f"{normalized['mean']:.1f} ± {normalized['std']:.1f}" if normalized else "-"
        spread = f"{setting['mean']:.1f} ± {setting['std']:.1f}"
        rows.append(f"| {setting['label']} | {len(setting['seeds'])} | {spread} | {score} |")
    if not rows:
        return "## Evaluation\n\nNo episode of the evaluation was finished.\n"
    head = [
        "## Evaluation",
        "",
        f"In `{result['env_id']}`, seeds from {result['seed']}; mean ± deviation.",
        "",
    ]
    table = ["| setting | episodes | return | normalised |", "| --- | --- | --- | --- |", *rows]
    critic = result.get("critic")
    if critic is not None:
        table += [
            "",
            f"Action Gradient (AG) with a critic of `{critic['algorithm']}`, step {critic['step']:,}.",
        ]
    notes = [setting["normalized"] for setting in _finished(evaluation) if setting["normalized"]]
    if notes:
        first = notes[0]
        where = f"{first['source']}; {first['note']}" if first["note"] else first["source"]
        table += [
            "",
            f"Normalised: 0 is a return of {first['ref_min']:g}, 100 of {first['ref_max']:g} ({where}).",
        ]
    return "\n".join([*head, *table]) + "\n"
