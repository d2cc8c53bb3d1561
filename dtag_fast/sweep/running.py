"""A sweep from its question to its table: what is missing is played, written as it comes, and summarised."""

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np

from dtag_fast.data import why_no_score
from dtag_fast.executors.choice import Executor, make_executor
from dtag_fast.executors.interrupts import Interrupts
from dtag_fast.executors.job import Outcome
from dtag_fast.rollout.arguments import check_timeout, check_together, targets_of
from dtag_fast.rollout.candidates import Candidates
from dtag_fast.rollout.run_evaluation import find_checkpoints
from dtag_fast.rollout.scored_task import scored_task
from dtag_fast.rollout.settings import AGSetting, expect_whole
from dtag_fast.sweep.cells import Cell, make_cells
from dtag_fast.sweep.elimination import clearly_worse
from dtag_fast.sweep.jobs import HowToPlay, Job
from dtag_fast.sweep.planning import plan
from dtag_fast.sweep.question import agree, describe, run_name
from dtag_fast.sweep.result import CellResult, Confirmation, SweepResult, best_of, cell_result
from dtag_fast.sweep.table import Table, write_parquet
from dtag_fast.training.behaviour import behaviour_checksum, behaviour_of
from dtag_fast.training.checkpoint import (
    find_checkpoint,
    load_critic,
    load_policy,
    read_checkpoint_config,
)
from dtag_fast.training.gate import load_gated

BLOCK = 5  # episodes between two decisions of stop_worse

Progress = Callable[[int, int], None]


def sweep(
    run: str | os.PathLike,
    *,
    critic: str | os.PathLike | None = None,
    gate: float | None = None,
    settings: Sequence[AGSetting] = (AGSetting(),),
    out: str | os.PathLike | None = None,
    checkpoints: Literal["last", "all"] | Sequence[int] = "last",
    target_returns: Sequence[float] | None = None,
    episodes: int = 10,
    seed: int = 0,
    env_id: str | None = None,
    history_lengths: Sequence[int] | None = None,
    candidates: Candidates | None = None,
    max_envs: int = 64,
    env_timeout: float | None = None,
    device: str = "cpu",
    executor: Literal["local", "ray"] = "local",
    jobs: int | None = None,
    ray_address: str | None = None,
    stop_worse: bool = False,
    block: int = BLOCK,
    confirm: int = 0,
    progress: Progress | None = None,
    fit_progress: Progress | None = None,
) -> SweepResult:
    """Play every setting under every target return at every checkpoint, and keep the episodes in a table.

    Episodes that the table in `out` has are not played again: an interrupted sweep goes on where it was, and
    cells or episodes can be added. On a CPU the rows are the same bits whatever the executor, the number of
    jobs and what else is in the sweep (docs/sweep.md). Worker processes are spawned, so a script that
    calls this needs the usual `if __name__ == "__main__":`.

    Args:
        run: run or checkpoint folder of a policy. critic: of a critic, needed by settings with steps > 0
            or several starts.
            Candidates without one are chosen by the critic that the policy's checkpoint holds.
        gate: quantile of `training.load_gated`, which puts a gate around the critic for all cells; its limit
            is measured on the critic's dataset before anything is played.
        settings: see `settings_grid`; the plain policy is added where it is missing. Those with a behaviour
            need the model of `behaviour_of`, which is fitted to the critic's dataset before anything is
            played, once, and kept in the critic's checkpoint.
        out: folder for table.jsonl, table.parquet (with pyarrow), summary.json, sweep.json; None: RUN/sweep.
        checkpoints: "last", "all", or steps.
        target_returns, env_id, history_lengths, candidates: as in `evaluate`.
        max_envs: environments alive at once per process.
        env_timeout: as in `evaluate`; every job then has a child process that steps its environments.
        episodes: per cell; episode e starts with reset(seed=seed + e).
        executor, jobs, ray_address: see `make_executor`.
        stop_worse: after every `block` episodes, drop the cells that are clearly worse than the leader (see
            `elimination`), never the plain policy.
        confirm: episodes on fresh seeds for the best cell and the plain policy, after the seeds in the table;
            they go to confirm.jsonl.
        progress: called as progress(episodes done, episodes in all).
        fit_progress: called as fit_progress(updates done, updates in all) while the model of the behaviour is
            fitted.

    Raises:
        ValueError, OSError: bad arguments, a policy and a critic that do not go together, a folder of another
            sweep, or an error that every job met.
        KeyboardInterrupt: all that was played by then is in the table, or with the second Ctrl-C all
            but the job that was being written.
    """
    _check(episodes=episodes, max_envs=max_envs, block=block, confirm=confirm)
    check_timeout(env_timeout)
    folders = find_checkpoints(Path(run), checkpoints)
    policy = load_policy(folders[-1], device)
    by_step = {_step_of(folder): folder.resolve() for folder in folders}
    critic_folder = None if critic is None else find_checkpoint(Path(critic)).resolve()

    def critic_of(checkpoint: Path) -> Path | None:
        return checkpoint if critic_folder is None and candidates is not None else critic_folder

    how = HowToPlay(
        run=run_name(folders[-1]),
        critic=None if critic_folder is None else run_name(critic_folder),
        env_id=env_id or policy.info.env_id,
        device=device,
        max_envs=max_envs,
        history_lengths=None if history_lengths is None else tuple(history_lengths),
        candidates=candidates,
        env_timeout=env_timeout,
    )
    cells, added = make_cells(list(by_step), targets_of(policy, target_returns), settings)
    chooser = critic_of(folders[-1])
    if gate is not None and critic_folder is None:
        raise ValueError(f"gate: expected None without a critic, got {gate!r}")
    loaded = None if chooser is None else load_critic(chooser)
    asked = [cell.setting for cell in cells]
    regularised = [setting for setting in asked if setting.behaviour is not None]
    if regularised and critic_folder is None:
        raise ValueError(
            f"critic: {regularised[0].label} needs the run of a critic, which keeps the model of the "
            "behaviour, got None"
        )
    raw = [replace(setting, behaviour=None) for setting in asked]  # what is wrong without the model, too
    check_together(policy, loaded, raw, how.env_id, history_lengths, candidates)
    not_normalized = why_no_score(scored_task(policy.info, how.env_id)) or None
    crew = make_executor(executor, jobs, device, ray_address)
    out = Path(out) if out is not None else Path(run) / "sweep"
    if out.exists() and not out.is_dir():
        raise FileExistsError(f"out: {out} is a file; choose another folder")
    if gate is not None:
        how = replace(how, gate_limit=load_gated(critic_folder, gate).critic.limit)
    if regularised:
        model = behaviour_of(critic_folder, fit_progress)
        check_together(policy, loaded, regularised, how.env_id, behaviour=model)
        how = replace(how, behaviour=behaviour_checksum(critic_folder))
    out.mkdir(parents=True, exist_ok=True)

    with Interrupts() as interrupts, Table(out / "table.jsonl") as table:
        question = agree(out, describe(policy, by_step, critic_folder, how, seed))
        how = replace(how, run=question["run"])
        with crew:
            player = _Player(crew, interrupts, by_step, critic_of, how, progress)
            seeds, dropped = range(seed, seed + episodes), {}
            if stop_worse:
                dropped = _eliminate(player, table, cells, seeds, block)
            else:
                player.play(table, cells, seeds)
            results = [cell_result(cell, table.rows, seeds, dropped.get(cell)) for cell in cells]
            _raise_if_nothing_worked(player.failed, results)
            played, chosen, confirmation = player.played, best_of(results, episodes), None
            if confirm and chosen is not None:
                confirmation = _confirm(player, table, out / "confirm.jsonl", chosen.cell, confirm)
        result = SweepResult(
            run=how.run,
            out=out,
            env_id=how.env_id,
            seed=seed,
            episodes=episodes,
            cells=results,
            baseline_added=added,
            played=played,
            in_table=(len({key for key, _ in table.rows}), len(table.rows)),
            failures=[f"{outcome.job.name}: {outcome.error}" for outcome in player.failed]
            + _failed_episodes(table, cells, seeds),
            confirmation=confirmation,
            no_parquet=write_parquet(out / "table.parquet", [*table.rows.values(), *table.failed.values()]),
            not_normalized=not_normalized,
            gate_limit=how.gate_limit,
        )
        result.to_json(out / "summary.json")
    return result


class _Player:
    """Plays what a table lacks and writes it there, job by job.

    Attributes:
        played: episodes so far. failed: outcomes without a result.
    """

    def __init__(
        self,
        crew: Executor,
        interrupts: Interrupts,
        checkpoints: dict[int, Path],
        critic_of: Callable[[Path], Path | None],
        how: HowToPlay,
        progress: Progress | None,
    ):
        self.crew, self.interrupts, self.checkpoints = crew, interrupts, checkpoints
        self.critic_of, self.how, self.progress = critic_of, how, progress
        self.played, self.failed = 0, []

    def play(self, table: Table, cells: Sequence[Cell], seeds: range, total: int | None = None) -> None:
        """Play these cells on these seeds as far as they are missing.

        total: episodes of the progress report; None for those of these cells.
        """

        def has(cell: Cell, seed: int) -> bool:
            return (cell.key, seed) in table.rows

        jobs = plan(cells, seeds, has, self.checkpoints, self.critic_of, self.how)
        asked = len(cells) * len(seeds)
        done, total = asked - sum(job.units for job in jobs), asked if total is None else total

        def report(more: int) -> None:
            nonlocal done
            done = min(done + more, total)  # a job that is played twice counts twice
            if self.progress is not None:
                self.progress(done, total)

        report(0)
        spoilt = self._play(table, jobs, report)
        # One setting that cannot be played must not take the others of its batch along.
        alone = [replace(job, settings=(setting,)) for job in spoilt for setting in job.settings]
        self._play(table, alone, report)

    def _play(self, table: Table, jobs: Sequence[Job], report: Callable[[int], None]) -> list[Job]:
        """Returns the jobs of several settings that were refused; other failures are kept in `failed`."""
        spoilt = []
        for outcome in self.crew.run(jobs, report):
            if outcome.result is not None:
                with self.interrupts.held():
                    table.append(outcome.result)
                self.played += len(outcome.result)
            elif len(outcome.job.settings) > 1 and isinstance(outcome.error, ValueError):
                spoilt.append(outcome.job)
            else:
                self.failed.append(outcome)
        return spoilt


def _eliminate(
    player: _Player, table: Table, cells: Sequence[Cell], seeds: range, block: int
) -> dict[Cell, tuple[int, tuple[float, float]]]:
    """Play in blocks of episodes; returns the cells dropped on the way, see CellResult.dropped."""
    ends = [*range(block, len(seeds), block), len(seeds)]
    left, dropped = list(cells), {}
    for end in ends:
        total = len(left) * len(seeds)
        player.play(table, left, seeds[:end], total)
        left = [cell for cell in left if all((cell.key, seed) in table.rows for seed in seeds[:end])]
        if end == len(seeds):
            break
        returns = {
            cell: np.array([table.rows[cell.key, seed]["episode_return"] for seed in seeds[:end]])
            for cell in left
        }
        for cell, interval in clearly_worse(returns, len(cells), len(ends) - 1).items():
            if not cell.setting.is_plain:
                dropped[cell] = (end, interval)
        left = [cell for cell in left if cell not in dropped]
    return dropped


def _confirm(player: _Player, table: Table, path: Path, best: Cell, episodes: int) -> Confirmation:
    """Play the best cell and its plain policy on seeds that are not in the table."""
    first = 1 + max(seed for _, seed in [*table.rows, *table.failed])
    seeds, cells = range(first, first + episodes), list(dict.fromkeys([best, best.baseline]))
    with Table(path) as fresh:
        player.play(fresh, cells, seeds)
        found = {cell: cell_result(cell, fresh.rows, seeds) for cell in cells}
    return Confirmation(first, episodes, found[best], found[best.baseline])


def _failed_episodes(table: Table, cells: Sequence[Cell], seeds: Sequence[int]) -> list[str]:
    asked = {(cell.key, seed): cell for cell in cells for seed in seeds}
    return [
        f"step {asked[key].checkpoint_step}, {row['error']}"
        for key, row in table.failed.items()
        if key in asked
    ]


def _raise_if_nothing_worked(failed: Sequence[Outcome], results: Sequence[CellResult]) -> None:
    """A user's error that every job met is one of the question, not of a job."""
    kinds = {(type(outcome.error), str(outcome.error)) for outcome in failed}
    if len(kinds) == 1 and not any(result.episodes for result in results):
        error = failed[0].error
        if isinstance(error, (ValueError, OSError)):
            raise error


def _step_of(checkpoint: Path) -> int:
    return read_checkpoint_config(checkpoint)["info"]["step"]


def _check(**numbers: int) -> None:
    for name, value in numbers.items():
        expect_whole(name, value, 0 if name == "confirm" else 1)
