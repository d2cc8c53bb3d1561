"""Which jobs play what a table lacks: wide enough to share a batch, short enough to lose."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from dtag_fast.rollout.settings import AGSetting
from dtag_fast.sweep.cells import Cell
from dtag_fast.sweep.jobs import HowToPlay, Job

EPISODES_PER_JOB = 64  # what an interruption may lose of every worker; at the fastest a few seconds


def plan(
    cells: Sequence[Cell],
    seeds: range,
    played: Callable[[Cell, int], bool],
    checkpoints: dict[int, Path],
    critic: Callable[[Path], Path | None],
    how: HowToPlay,
) -> list[Job]:
    """Jobs that play what is missing of every cell and seed, and nothing else.

    Which cells and seeds share a job follows from `cells` and `seeds` alone, whoever plays them and however
    often the sweep was interrupted between two jobs.

    Args:
        played: whether the table has a cell's episode.
        checkpoints: folder by step. critic: the critic's folder for a checkpoint's.
    """
    jobs = []
    for step, folder in checkpoints.items():
        chosen = critic(folder)
        for group in _groups([cell for cell in cells if cell.checkpoint_step == step]):
            width = max(1, EPISODES_PER_JOB // len(group))
            for i in range(0, len(seeds), width):
                for settings, targets, first, count in _missing(group, seeds[i : i + width], played):
                    networks = (str(folder), None if chosen is None else str(chosen))
                    jobs.append(Job(*networks, tuple(settings), targets, first, count, how))
    return jobs


def _groups(cells: Sequence[Cell]) -> Iterator[list[Cell]]:
    """Cells of one checkpoint that share a batch."""
    for settings, targets in _products(cells):
        by_setting = {
            s: [c for c in cells if c.setting == s and c.target_return in targets] for s in settings
        }
        for chunk in _batches(settings, max(1, EPISODES_PER_JOB // len(targets))):
            yield [cell for setting in chunk for cell in by_setting[setting]]


def _missing(
    cells: Sequence[Cell], seeds: range, played: Callable[[Cell, int], bool]
) -> Iterator[tuple[list[AGSetting], tuple[float | None, ...], int, int]]:
    """What is missing as products (settings, targets, first seed, episodes): one, unless a table was cut."""
    alike: dict[tuple[int, int], list[Cell]] = {}  # (first seed, episodes) -> cells
    for cell in cells:
        for stretch in _stretches([seed for seed in seeds if not played(cell, seed)]):
            alike.setdefault(stretch, []).append(cell)
    for (first, count), group in alike.items():
        for settings, targets in _products(group):
            for batch in _batches(settings, len(settings)):
                yield batch, targets, first, count


def _stretches(seeds: Sequence[int]) -> list[tuple[int, int]]:
    """Ascending numbers as (first, how many) of the stretches without gaps."""
    starts = [i for i, seed in enumerate(seeds) if i == 0 or seed != seeds[i - 1] + 1]
    ends = [*starts[1:], len(seeds)][: len(starts)]  # nothing has no stretches
    return [(seeds[a], b - a) for a, b in zip(starts, ends, strict=True)]


def _products(cells: Sequence[Cell]) -> list[tuple[list[AGSetting], tuple[float | None, ...]]]:
    """Cells of one checkpoint as products of settings and targets."""
    targets: dict[AGSetting, list[float | None]] = {}
    for cell in cells:
        targets.setdefault(cell.setting, []).append(cell.target_return)
    products: dict[tuple[float | None, ...], list[AGSetting]] = {}
    for setting, asked in targets.items():
        products.setdefault(tuple(asked), []).append(setting)
    return [(settings, asked) for asked, settings in products.items()]


def _batches(settings: Sequence[AGSetting], width: int) -> list[list[AGSetting]]:
    """Settings that share a batch, at most `width` each."""
    return [list(settings[i : i + width]) for i in range(0, len(settings), width)]
