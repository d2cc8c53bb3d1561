"""The tables of the documents: one function per name, from the text of result files to Markdown."""

import json
import statistics
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from benchmarks import machine, report
from dtag_fast.experiments.over_seeds import half_width
from dtag_fast.experiments.suites import SUITES
from dtag_fast.experiments.tables import Table

from . import finetune_results


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; columns after the second are numbers."""
    rule = ["---" if i < 2 else "---:" for i in range(len(header))]
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, rule, *rows))


def demo(file: Path) -> str:
    """Table of `dtag demo`: its results.json."""
    results = json.loads(file.read_text())
    rows = []
    for row in results["table"]:
        score, gain, refined = row["score"], row["return_gain"], row["steps"] > 0
        rows.append(
            (
                row["label"],
                f"n = {row['steps']}, step size {row['lr']:g}" if refined else "without",
                spread(row["return"]["mean"], row["return"]["std"]),
                spread(score["mean"], score["std"]),
                interval(score["ci95"]),
                f"{gain['mean']:+.1f} ({interval(gain['ci95'], '+')})" if refined else "",
            )
        )
    header = ("policy", "Action Gradient", "return", "score", "score, 95 % interval", "paired gain in return")
    episodes = results["config"]["episodes"]
    note = f"PointMaze-UMaze, one training seed, {episodes} episodes; ± is the spread over episodes."
    return f"{markdown(header, rows)}\n\n{note}"


def evaluation(*files: Path) -> str:
    """Table of `dtag evaluate --json` files; those that differ only in the training seed share a row.

    Of each file the newest checkpoint counts. Scores are means over training seeds of the mean over episodes;
    ± is the standard deviation over those seeds (divisor: their number), left out where there is but one.
    """
    groups: dict[tuple, list[tuple[dict, dict]]] = defaultdict(list)
    for file in files:
        result = max(json.loads(file.read_text())["checkpoints"], key=lambda c: c["policy"]["step"])
        about = result["policy"]
        for setting in result["settings"]:
            if setting["mean"] is None:
                raise ValueError(f"{file}: {setting['label']}: no episode of it was finished")
            key = (about["dataset_id"], about["algorithm"], setting["target_return"], setting["label"])
            groups[key].append((result, setting))
    rows = []
    for (dataset, algorithm, target, label), found in groups.items():
        seeds = [result["policy"]["seed"] for result, _ in found]
        if len(set(seeds)) != len(seeds):
            raise ValueError(f"{dataset}, {algorithm}, {label}: training seed twice in {sorted(seeds)}")
        means = np.array([setting["mean"] for _, setting in found])
        scores = [setting["normalized"] and setting["normalized"]["mean"] for _, setting in found]
        rows.append(
            (
                f"{dataset}, {algorithm}",
                label if target is None else f"{label}, target {target:g}",
                f"{len(found)} x {found[0][0]['episodes']}",
                over_seeds(means),
                "" if None in scores else over_seeds(scores),
                ", ".join(f"{mean:.0f}" for mean in means),
            )
        )
    header = ("data and policy", "setting", "seeds x episodes", "return", "normalised score", "each seed")
    return markdown(header, rows)


def short_training(file: Path, kind: str) -> str:
    """Table of tools.short_training: held-out errors of the "policies" or of the "critics"."""
    result = json.loads(file.read_text())
    if kind not in ("policies", "critics"):
        raise ValueError(f"short_training: expected policies or critics after the file, got {kind}")
    measure = "action_error" if kind == "policies" else "unexplained"
    found = {name: entry for name, entry in result["algorithms"].items() if measure in entry}
    rows, constant = [], result["mean_action_error"]
    cloned = result["algorithms"][result["yardstick"]]["action_error"]
    for name, entry in found.items():
        changed = [f"{key} {value['here']}" for key, value in entry["settings"].items()]
        error = entry[measure]
        if kind == "policies":
            numbers = (f"{error:.4f}", f"{error / cloned:.2f}", f"{error / constant:.2f}")
        else:
            numbers = (f"{error:.3f}", f"{result['bound']:g}")
        rows.append((name, ", ".join(changed) or "as published", *numbers))
    headings = {
        "policies": ("error of the actions", f"of {result['yardstick']}'s", "of the mean action's"),
        "critics": ("unexplained variance", "bound"),
    }
    header = ("algorithm", "settings not as published", *headings[kind])
    data, versions = result["dataset"], result["machine"]["versions"]
    note = (
        f"{data['id']}, {result['updates']:,} updates, one seed; {data['held_out_episodes']:,} of "
        f"{data['episodes']:,} episodes held out. {machine.name(result['machine'])}, torch "
        f"{versions['torch']}, {result['date']}."
    )
    return f"{markdown(header, rows)}\n\n{note}"


def benchmarks(file: Path, *prefixes: str) -> str:
    """Table of a file kept by benchmarks.report: the rows whose names begin with a prefix, or all."""
    result = json.loads(file.read_text())
    rows = [row for row in report.interleaved(result) if not prefixes or row[0].startswith(prefixes)]
    if not rows:
        raise ValueError(f"{file}: no benchmark begins with {' or '.join(prefixes)}")
    versions = result["machine"]["versions"]
    named = ", ".join(f"{name} {versions[name]}" for name in ("torch", "jax") if versions.get(name))
    return f"{report.table(rows)}\n\n{machine.name(result['machine'])}, {named}, {result['date']}."


def suite(file: Path, part: str = "table") -> str:
    """Of a results.json of `dtag reproduce`: its "claims" and whether they hold, or a table by its name.

    Where it has what each seed of a suite of seeds gave, "table" is all of the tables, made anew from that.
    """
    result = json.loads(file.read_text())
    about = SUITES.get(result["suite"])
    if part == "claims":
        rows = [(c["text"], "yes" if c["holds"] else "**no**", c["measured"]) for c in _claims(result)]
        return Table(("claim", "holds", "measured"), rows, text_columns=3).markdown()
    if about is not None and part == "table" and "seeds" in result:
        return "\n\n".join(table.markdown() for table in about.tables(result["seeds"]).values())
    if part not in result.get("tables", {}):
        known = ", ".join(("claims", *result.get("tables", ("table",))))
        raise ValueError(f"suite: expected one of {known} after {file.name}, got {part}")
    return Table(**result["tables"][part]).markdown()


def suites(*files: Path) -> str:
    """Of results of suites: the data and training seeds of each, and how many of its claims hold."""
    rows = []
    for file in files:
        result = json.loads(file.read_text())
        claims = _claims(result)
        seeds = len(result.get("training_seeds") or result.get("seeds", ()))
        rows.append(
            (
                f"[{result['suite']}](#{result['suite']})",
                ", ".join(result.get("tasks", ())) or "made by the suite",
                str(seeds or "-"),
                f"{sum(c['holds'] for c in claims)} of {len(claims)}",
            )
        )
    return markdown(("suite", "data", "training seeds", "claims that hold"), rows)


def _claims(result: dict) -> list[dict]:
    """Of a suite's results; made anew where it has what each seed gave."""
    about = SUITES.get(result["suite"])
    if about is not None and "seeds" in result:
        return [asdict(claim) for claim in about.claims(result["seeds"])]
    return result["claims"]


def cuda_resources(file: Path) -> str:
    """Table of tools.cuda_check: what each kernel takes of a multiprocessor on each architecture."""
    result = json.loads(file.read_text())
    rows = []
    for kernel in result["kernels"]:
        shared = f"{kernel['static_smem']:,}"
        if kernel["dynamic_smem"]:
            shared += f" + {kernel['dynamic_smem']:,}"
        local = f"{kernel['stack']} / {kernel['spill_stores']} / {kernel['spill_loads']}"
        sass = kernel["sass"] or {}
        counts = [str(sass.get(opcode, "")) for opcode in ("FFMA", "HMMA", "HGMMA")]
        registers, barriers = str(kernel["registers"]), str(kernel["barriers"])
        rows.append((f"`{kernel['kernel']}`", kernel["arch"], registers, local, shared, barriers, *counts))
    header = (
        *("kernel", "architecture", "registers per thread", "stack / spill stores / spill loads, bytes"),
        *("shared memory, bytes (static + dynamic)", "barriers", "FFMA", "HMMA", "HGMMA"),
    )
    note = f"nvcc {result['nvcc']}; the last three columns count instructions of the machine code."
    if not any(kernel["sass"] for kernel in result["kernels"]):
        note = f"nvcc {result['nvcc']}; the machine code was not looked at (no cuobjdump)."
    return f"{markdown(header, rows)}\n\n{note}"


def triton_resources(file: Path) -> str:
    """Table of tools.triton_resources: what the Triton kernel takes on each target, by rows of a program."""
    result = json.loads(file.read_text())
    rows = [
        (
            *(k["target"], k["precision"], str(k["rows"]), str(k["num_warps"]), str(k["registers"])),
            *(str(k["spills"]), f"{k['shared']:,}"),
        )
        for k in result["kernels"]
    ]
    header = (
        *("target", "precision", "rows", "warps", "registers per thread"),
        *("spills", "shared memory, bytes"),
    )
    note = f"Triton {result['triton']}. On AMD registers are vector and accumulation registers together."
    return f"{markdown(header, rows)}\n\n{note}"


def attention_resources(file: Path) -> str:
    """Table of tools.attention_resources: what the attention kernels take on each target."""
    return attention_table(json.loads(file.read_text()))


def attention_table(result: dict) -> str:
    """The same of its result."""
    note = "with padding on both sides and dropout."
    return _op_table(result, ("tokens", "width"), "sequences x queries x keys of a program", note)


def embedding_resources(file: Path) -> str:
    """Table of tools.embedding_resources: what the kernels that make tokens take on each target."""
    return embedding_table(json.loads(file.read_text()))


def embedding_table(result: dict) -> str:
    """The same of its result."""
    note = "tokens of returns, states and actions."
    return _op_table(result, ("states", "actions", "width"), "steps x columns of a program", note)


def block_resources(file: Path) -> str:
    """Table of tools.block_resources: what the kernels of a transformer block take on each target."""
    return block_table(json.loads(file.read_text()))


def block_table(result: dict) -> str:
    """The same of its result."""
    sizes = ("batch", "tokens", "width", "heads", "norm")
    note = "with padding on both sides, dropout and GELU."
    return _op_table(result, sizes, "batch rows x tokens of a program", note)


def _op_table(result: dict, sizes: Sequence[str], tile: str, note: str) -> str:
    """Of a result of tools.op_resources. sizes: names of those of a shape. tile: what `tile` says."""
    rows = [
        (
            *(k["target"], f"{k['kernel']}, {k['precision']}", " x ".join(str(k[size]) for size in sizes)),
            *(k["tile"], str(k["num_warps"]), str(k["registers"]), str(k["spills"]), f"{k['shared']:,}"),
        )
        for k in result["kernels"]
    ]
    header = (
        *("target", "kernel", " x ".join(sizes), tile, "warps"),
        *("registers per thread", "spills", "shared memory, bytes"),
    )
    return f"{markdown(header, rows)}\n\nTriton {result['triton']}; {note} Spills: bytes of a thread."


def spread(mean: float, std: float) -> str:
    return f"{mean:.1f} ± {std:.1f}"


def over_seeds(means: Sequence[float]) -> str:
    return spread(np.mean(means), np.std(means)) if len(means) > 1 else f"{means[0]:.1f}"


def interval(bounds: Sequence[float], sign: str = "") -> str:
    return f"{bounds[0]:{sign}.1f} to {bounds[1]:{sign}.1f}"


def behaviour_study(*files: Path) -> str:
    """Table of tools.behaviour_study: gains of the returns with their 95 % intervals, a row per file."""
    rows, machines = [], set()
    for file in files:
        found = json.loads(file.read_text())
        machines.add(machine.name(found["machine"]))
        families = defaultdict(list)
        for row in found["settings"]:
            families[row["family"]].append(row)
        best = max(families["raw"], key=lambda row: row["mean"])
        critic, policy = found["critic"], found["policy"]
        rows.append(
            (
                found["dataset"].removeprefix("local/"),
                f"{policy['updates']:,}, {critic['updates']:,}, {found['episodes']}",
                f"{families['plain'][0]['mean']:.0f}",
                _gain(families["raw"], "lr=0.03"),
                f"{_gain([best], '')}, {best['label'].split()[-1]}",
                _gains(families["radius"], "radius=0.1 "),
                _gains(families["radius"], "radius=0.5 "),
                *(_gains(families["behaviour"], f"weight={weight} ") for weight in ("0.2", "0.4", "0.8")),
            )
        )
    header = (
        "data",
        "updates of policy and critic, episodes",
        "plain",
        "raw, lr=0.03",
        "raw, best of 7 step sizes",
    )
    header += ("radius 0.1 alone", "radius 0.5 alone", "weight 0.2", "weight 0.4", "weight 0.8")
    note = (
        "Mean return of the plain policy and gains over it on the same seeds: the raw gradient's with 95 % "
        "intervals, the others' with each fit of the behaviour."
    )
    return f"{markdown(header, rows)}\n\n{note} {'; '.join(sorted(machines))}."


def behaviour_seeds(*files: Path) -> str:
    """Table of tools.behaviour_study over several training seeds, a row per file."""
    rows, machines = [], set()
    for file in files:
        runs = json.loads(file.read_text())["runs"]
        machines |= {machine.name(run["machine"]) for run in runs}
        gains: dict[str, list[float]] = defaultdict(list)  # by setting, one of each seed
        raw = [row["label"] for row in runs[0]["settings"] if row["family"] == "raw"]
        for run in runs:
            for row in run["settings"]:
                if row["gain"] is not None and row["fit"] == 0:
                    gains[row["label"]].append(row["gain"]["mean"])
        tuned = max(raw, key=lambda label: statistics.fmean(gains[label]))
        each = statistics.fmean(max(gains[label][i] for label in raw) for i in range(len(runs)))
        plain = statistics.fmean(run["settings"][0]["mean"] for run in runs)
        weights = {w: gains[f"AG n=10 behaviour weight={w} radius=1"] for w in ("0.2", "0.4", "0.8")}
        about = (runs[0]["policy"]["updates"], runs[0]["critic"]["updates"], runs[0]["episodes"])
        rows.append(
            (
                runs[0]["dataset"].removeprefix("local/"),
                f"{len(runs)}; " + ", ".join(f"{number:,}" for number in about),
                f"{plain:.0f}",
                f"{_over_seeds(gains[tuned])}, {tuned.split()[-1]}",
                f"{each:+.0f}",
                *(_over_seeds(found) for found in weights.values()),
                f"{sum(gain < 0 for gain in weights['0.4'])} of {len(runs)}",
            )
        )
    header = (
        "data",
        "seeds; updates of policy and critic, episodes",
        "plain",
        "raw, best step size of the data",
    )
    header += ("raw, best of each seed", "weight 0.2", "weight 0.4", "weight 0.8", "0.4 below plain")
    note = (
        "Mean over training seeds of the gain in mean return over the plain policy on the same episodes, and "
        "its 95 % interval by Student's t over the seeds."
    )
    return f"{markdown(header, rows)}\n\n{note} {'; '.join(sorted(machines))}."


def _over_seeds(gains: Sequence[float]) -> str:
    """Mean and 95 % interval of a few numbers."""
    mean, half = statistics.fmean(gains), half_width(gains)
    if half is None:
        return f"{mean:+.0f}"
    return f"{mean:+.0f} ({mean - half:+.0f} to {mean + half:+.0f})"


def _gains(rows: Sequence[dict], label: str) -> str:
    """The gains of one setting with every fit of the behaviour."""
    return ", ".join(f"{row['gain']['mean']:+.0f}" for row in rows if label in f"{row['label']} ")


def _gain(rows: Sequence[dict], label: str) -> str:
    (row,) = (r for r in rows if label in f"{r['label']} ")
    return f"{row['gain']['mean']:+.0f} ({interval(row['gain']['ci95'], '+')})"


TABLES: dict[str, Callable[..., str]] = {
    "demo": demo,
    "evaluation": evaluation,
    "short_training": short_training,
    "behaviour_study": behaviour_study,
    "behaviour_seeds": behaviour_seeds,
    "finetuning": finetune_results.table,
    "benchmarks": benchmarks,
    "suite": suite,
    "suites": suites,
    "cuda_resources": cuda_resources,
    "triton_resources": triton_resources,
    "attention_resources": attention_resources,
    "embedding_resources": embedding_resources,
    "block_resources": block_resources,
}
# The files of a mark that names none.
DEFAULT_FILES = {
    "demo": ("docs/results/demo.json",),
    "cuda_resources": ("docs/results/cuda-resources.json",),
    "triton_resources": ("docs/results/triton-resources.json",),
    "attention_resources": ("docs/results/attention-resources.json",),
    "embedding_resources": ("docs/results/embedding-resources.json",),
    "block_resources": ("docs/results/block-resources.json",),
}
