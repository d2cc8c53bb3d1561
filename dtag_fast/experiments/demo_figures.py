"""The demonstration's figures, drawn from its results."""

from collections.abc import Iterable
from pathlib import Path

from dtag_fast.experiments import plots


def draw_figures(folder: Path, toy: list[dict], table: list[dict], sweep: list[dict]) -> list[Path]:
    """Write toy, score_against_n and q_gain_against_return_gain as PNG and SVG; returns the files.

    Args:
        toy: ToyResult dicts, the first is drawn.
        table, sweep: rows of comparison.compare_policies; the figures show the sweep's episodes.
    """
    first = {
        key: toy[0][key] for key in ("grid", "true_reward", "critic", "demonstrated", "imitated", "paths")
    }
    figures = {
        "toy": plots.toy_landscape(**first),
        "score_against_n": plots.score_against_steps(
            [
                plots.Curve(
                    label,
                    [row["steps"] for row in rows],
                    [row["score"]["mean"] for row in rows],
                    [row["score"]["ci95"][0] for row in rows],
                    [row["score"]["ci95"][1] for row in rows],
                )
                for label, rows in _by_policy(sweep)
            ],
            score_name="D4RL score (mean, 95 % interval)",
            title=_title(sweep),
        ),
        "q_gain_against_return_gain": plots.q_gain_against_return_gain(
            [
                plots.GainPath(
                    label,
                    [row["steps"] for row in rows],
                    [row["q_gain"] for row in rows],
                    [row["return_gain"]["mean"] for row in rows],
                    [row["return_gain"]["ci95"][0] for row in rows],
                    [row["return_gain"]["ci95"][1] for row in rows],
                )
                for label, rows in _by_policy(sweep)
            ],
            return_name="return over the policy without AG",
            title=_title(sweep),
        ),
    }
    return [file for name, figure in figures.items() for file in plots.save(figure, folder / name)]


def _by_policy(rows: list[dict]) -> Iterable[tuple[str, list[dict]]]:
    labels = dict.fromkeys(row["label"] for row in rows)
    return [(label, [row for row in rows if row["label"] == label]) for label in labels]


def _title(rows: list[dict]) -> str:
    return f"PointMaze-UMaze, {len(rows[0]['returns'])} episodes each, step size {rows[0]['lr']:g}"
