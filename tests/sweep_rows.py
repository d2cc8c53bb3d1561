"""Tables of sweeps with known scores, and what their figures show."""

import json

import numpy as np

from dtag_fast.experiments.sweep_panels import sweep_panels
from dtag_fast.experiments.sweep_tables import load_table

PLAIN = np.array([10.0, 20.0, 60.0, 30.0, 40.0])  # scores of the plain policy on the seeds 7, 8, ...
GAINS = {(2, 0.01): 1.0, (5, 0.01): 4.0, (2, 0.1): 6.0, (5, 0.1): -20.0}  # n, lr -> gain on seed 7
SWEEP_FIGURES = (
    "sweep_score_against_n",
    "sweep_score_against_lr",
    "sweep_gain_map",
    "sweep_q_gain_against_gain",
)


def row(seed, score, *, steps=0, lr=0.03, q_gain=0.0, **more):
    known = {
        "run": "dt", "checkpoint_step": 100, "algorithm": "dt", "dataset_id": "set-v0", "env_id": "Hopper-v5",
        "critic": "iql", "target_return": 3600.0, "steps": steps, "lr": lr, "optimizer": "sgd",
        "reduce": "min", "gradient": "raw", "radius": None, "select": "best",
        "setting": f"AG n={steps} lr={lr}" if steps else "plain policy", "seed": seed,
        "episode_return": None if score is None else 30 * score, "normalized_score": score, "length": 9,
        "terminated": True, "mean_q_0": 1.0, "mean_q_gain": q_gain, "error": None,
    }  # fmt: skip
    return known | more


def scores(n, lr):
    """Of a cell: the plain policy's, and a gain that shrinks by a tenth from seed to seed."""
    return PLAIN + GAINS[n, lr] * (1 - 0.1 * np.arange(len(PLAIN)))


def rows_of_a_sweep(**more):
    rows = [row(7 + e, score, **more) for e, score in enumerate(PLAIN)]
    for n, lr in GAINS:
        rows += [
            row(7 + e, s, steps=n, lr=lr, q_gain=n * lr * (1 + 0.1 * e), **more)
            for e, s in enumerate(scores(n, lr))
        ]
    return rows


def write(folder, rows):
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "table.jsonl"
    file.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return file


WEIGHTS = {(0.4, 1.0): 8.0, (0.8, 1.0): 3.0, (0.4, 0.5): 2.0}  # weight, radius -> gain on seed 7 per n


def regularised_rows(**more):
    """As `dtag sweep` writes them: what a behaviour stands in place of is null."""
    raw = dict.fromkeys(("lr", "optimizer", "gradient", "radius", "radius_norm"))
    return [
        row(7 + e, score + n * gain * (1 - 0.1 * e), steps=n, q_gain=n * gain, behaviour_weight=weight,
            behaviour_radius=radius, **raw, **more)
        for (weight, radius), gain in WEIGHTS.items() for n in (2, 5) for e, score in enumerate(PLAIN)
    ]  # fmt: skip


def panel_of(table):
    (panel,) = sweep_panels({"sweep": load_table(table)})
    return panel


def lines(axes):
    """label -> (x, y) of the lines in the legend."""
    handles, labels = axes.get_legend_handles_labels()
    parts = {label: handle if not hasattr(handle, "lines") else handle.lines[0] for handle, label in
             zip(handles, labels, strict=True)}  # fmt: skip
    return {label: (line.get_xdata(), line.get_ydata()) for label, line in parts.items()}


def plots_in(folder):
    return {file.stem for file in (folder / "plots").iterdir()}
