"""Which jobs play what a table lacks: wide batches, short enough to lose one, and one for every worker."""

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from pathlib import Path

from dtag_fast.rollout.settings import AGSetting
from dtag_fast.sweep.cells import Cell, has_default_options
from dtag_fast.sweep.jobs import HowToPlay, Job

EPISODES_PER_JOB = 128  # what an interruption may lose, and two batches of the default max_envs


def plan(
    cells: Sequence[Cell],
    seeds: Iterable[int],
    played: Callable[[Cell, int], bool],
    checkpoints: dict[int, Path],
    critic: Callable[[Path], Path | None],
    how: HowToPlay,
    workers: int,
) -> list[Job]:
    """Jobs that play what is missing of every cell and seed, and nothing else.

    Args:
        played: whether the table has a cell's episode.
        checkpoints: folder by step. critic: the critic's folder for a checkpoint's.
        workers: how many play; there is one job for each at least, where there are enough episodes.
    """
    seeds = sorted(seeds)
    alike: dict[tuple[int, int, int], list[Cell]] = {}  # (checkpoint, first seed, episodes) -> cells
    for cell in cells:
        for first, count in _stretches([seed for seed in seeds if not played(cell, seed)]):
            alike.setdefault((cell.checkpoint_step, first, count), []).append(cell)
    jobs = []
    for (step, first, count), group in alike.items():
        for settings, targets in _products(group):
            width = max(1, how.max_envs // len(targets))
            for chunk in _batches(settings, width):
                cells_in_chunk = len(chunk) * len(targets)
                blocks = -(-count // max(1, EPISODES_PER_JOB // cells_in_chunk))
                blocks = min(count, -(-blocks // workers) * workers)
                edges = [first + count * b // blocks for b in range(blocks + 1)]
                chosen = critic(checkpoints[step])
                jobs += [
                    Job(
                        str(checkpoints[step]),
                        None if chosen is None else str(chosen),
                        tuple(chunk),
                        targets,
                        begin,
                        end - begin,
                        how,
                    )
                    for begin, end in pairwise(edges)
                ]
    return jobs


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
    """Settings that share a batch, at most `width` each.

    The plain policy's Q is reduced as the first refined setting of its batch asks. It is therefore put beside
    one of default options, or alone: its rows must not depend on what else is in the sweep.
    """
    ordered = sorted(settings, key=lambda s: (not s.is_plain, not has_default_options(s)))
    alone = []
    if ordered[0].is_plain and (width == 1 or not all(map(has_default_options, ordered[1:2]))):
        alone, ordered = [ordered[:1]], ordered[1:]
    return alone + [ordered[i : i + width] for i in range(0, len(ordered), width)]
