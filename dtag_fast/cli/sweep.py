"""`dtag sweep RUN`: many evaluation-time settings, all cores or a Ray cluster, one table, resumable."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import tyro
from rich.table import Table

from dtag_fast.cli import action_gradient
from dtag_fast.cli.main import EXIT_DONE, EXIT_INCOMPLETE, EXIT_INTERRUPTED
from dtag_fast.cli.terminal import make_console, numbers, progress_bar


@dataclass(frozen=True)
class Args:
    """Sweep over settings of a trained policy. Lists are separated by commas; all their combinations are
    played, and the plain policy with them. The same command again plays only what is missing."""

    run: tyro.conf.Positional[Path]  # run or checkpoint folder of a policy
    critic: Path | None = None  # run or checkpoint folder of a critic; needed by Action Gradient
    ag_steps: str | None = None  # n, e.g. 0,5,10; 0 is the plain policy. Default: 0,10 with a critic, else 0
    ag_lr: str | None = None  # step sizes, e.g. 0.01,0.03. Default: 0.03
    ag_optimizer: str | None = None  # e.g. sgd,adam,rmsprop. Default: sgd
    ag_momentum: float | None = None  # of sgd. Default: 0
    ag_gradient: str | None = None  # e.g. raw,unit,clip:1. Default: raw
    ag_radius: str | None = None  # largest distance from the policy's action, e.g. none,0.1. Default: none
    ag_reduce: str = "min"  # of the critic's members: e.g. min,mean,0
    ag_select: str = "best"  # which iterate is executed: best,last
    # M, e.g. 1,4,16: climb from the policy's action and M - 1 draws from its distribution, and execute the
    # best end. For reinformer and odt, and the policies of iql, awac and cql.
    ag_starts: str = "1"
    ag_spread: str = "1"  # of those draws, in deviations of the distribution, e.g. 0.3,1
    # Steps in units of the data, regularised by what they do: WEIGHT or WEIGHT:RADIUS, e.g. 0.2,0.4,0.8:0.5.
    # Stands in place of the five options from --ag-lr to --ag-radius; with one of these given too, their
    # combinations are played beside it. Needs the critic's dataset the first time.
    ag_behaviour: str | None = None
    # End climbs where the members of the critic disagree by more than this quantile of what they do about its
    # own dataset, e.g. 0.9; for all settings. Needs that dataset, and a critic of two members or more.
    ag_gate: float | None = None
    settings: Path | None = None  # JSON list of settings, instead of the --ag lists
    target_returns: str | None = None  # returns to ask for, e.g. 3600,1800. Default: those of the checkpoint
    checkpoints: str = "last"  # last, all, or steps
    history_lengths: str | None = None  # elastic history of a reinformer, e.g. 1,3,5. Default: context_len
    candidates: int | None = None  # actions at each step, one chosen by --critic or that of RUN. Default: off
    candidate_noise: float = 0.1  # deviation of the candidates' scaled returns-to-go
    candidate_choice: Literal["softmax", "argmax"] = "softmax"  # of the critic's Q: drawn, or the largest
    episodes: int = 10  # per setting, target return and checkpoint
    seed: int = 0  # episode e starts with reset(seed=seed + e), the same for every setting
    env: str | None = None  # Gymnasium id; default: the environment of the training data
    out: Path | None = None  # folder of the table. Default: RUN/sweep
    executor: Literal["local", "ray"] = "local"  # processes of this machine, or a Ray cluster
    jobs: int | None = None  # at once; 1 is this process. Default: one per core; with ray all of the cluster
    ray_address: str | None = None  # of a running cluster. Default: one found, else one started for the sweep
    stop_worse: bool = False  # drop settings that are clearly worse, by successive elimination
    block: int = 5  # episodes between two decisions of --stop-worse
    confirm: int = 0  # episodes on fresh seeds for the best setting and the plain policy
    max_envs: int = 64  # environments alive at once, per process
    env_timeout: float | None = None  # seconds for one reset or step, in a process per job. Default: any time
    device: str = "cpu"  # cpu or cuda


# options of raw steps, which a behaviour stands in place of, and their defaults
_RAW = (
    ("ag_lr", "0.03"),
    ("ag_optimizer", "sgd"),
    ("ag_momentum", 0.0),
    ("ag_gradient", "raw"),
    ("ag_radius", "none"),
)


def main(argv: Sequence[str]) -> int:
    """Entry of the verb; returns the exit code: 0, 1 when a job failed, 130 when interrupted."""
    args = tyro.cli(Args, prog="dtag sweep", args=list(argv))
    lists = _lists(args)
    which: Any = args.checkpoints
    if which not in ("last", "all"):
        which = numbers("--checkpoints", which, int)
    targets, lengths = (
        None if text is None else numbers(option, text, kind)
        for option, text, kind in (
            ("--target-returns", args.target_returns, float),
            ("--history-lengths", args.history_lengths, int),
        )
    )
    if args.critic is None and args.ag_gate is not None:
        raise ValueError("--ag-gate: expected together with --critic")
    console = make_console()
    # Imported late: `dtag sweep --help` and a mistyped option need neither torch nor Gymnasium.
    from dtag_fast.rollout.candidates import Candidates
    from dtag_fast.sweep import read_settings, settings_grid, sweep

    settings = settings_grid(**lists) if args.settings is None else read_settings(args.settings)
    candidates, options = None, (args.candidate_noise, args.candidate_choice)
    if args.candidates is not None:
        candidates = Candidates(args.candidates, *options)
    elif options != (Args.candidate_noise, Args.candidate_choice):
        raise ValueError("--candidate-noise, --candidate-choice: expected together with --candidates")
    out = args.out or args.run / "sweep"
    try:
        with progress_bar(console, f"sweeping {args.run.name}") as report:
            result = sweep(
                args.run,
                critic=args.critic,
                gate=args.ag_gate,
                settings=settings,
                out=out,
                checkpoints=which,
                target_returns=targets,
                episodes=args.episodes,
                seed=args.seed,
                env_id=args.env,
                history_lengths=lengths,
                candidates=candidates,
                max_envs=args.max_envs,
                env_timeout=args.env_timeout,
                device=args.device,
                executor=args.executor,
                jobs=args.jobs,
                ray_address=args.ray_address,
                stop_worse=args.stop_worse,
                block=args.block,
                confirm=args.confirm,
                progress=report,
                fit_progress=partial(report, note="updates: fitting the behaviour of the data"),
            )
    except KeyboardInterrupt:
        print(
            f"dtag sweep: interrupted; the same command goes on from {out / 'table.jsonl'}", file=sys.stderr
        )
        return EXIT_INTERRUPTED
    return _show(console, result)


def _lists(args: Args) -> dict[str, list]:
    """The --ag lists as `settings_grid` takes them."""
    steps = args.ag_steps if args.ag_steps is not None else "0" if args.critic is None else "0,10"
    if args.settings is not None:
        given = [name for name in vars(args) if name.startswith("ag_") and name != "ag_gate"]
        changed = [name for name in given if getattr(args, name) != getattr(Args, name)]
        if changed:
            option = "--" + changed[0].replace("_", "-")
            raise ValueError(f"--settings: the file takes the place of the --ag lists, got {option} as well")
    raw = {name: default if getattr(args, name) is None else getattr(args, name) for name, default in _RAW}
    lists = {
        "steps": numbers("--ag-steps", steps, int),
        "lr": numbers("--ag-lr", raw["ag_lr"], float),
        "optimizer": action_gradient.optimizers(raw["ag_optimizer"], raw["ag_momentum"]),
        "reduce": [action_gradient.reduction(part) for part in args.ag_reduce.split(",")],
        "gradient": [action_gradient.gradient(part) for part in raw["ag_gradient"].split(",")],
        "radius": [action_gradient.radius(part) for part in raw["ag_radius"].split(",")],
        "select": args.ag_select.split(","),
        "starts": numbers("--ag-starts", args.ag_starts, int),
        "spread": numbers("--ag-spread", args.ag_spread, float),
    }
    if args.ag_behaviour is None:
        return lists
    asks_for_raw = any(getattr(args, name) is not None for name, _ in _RAW)
    behaviours = action_gradient.behaviours(args.ag_behaviour, lists["steps"], args.critic is not None)
    return lists | {"behaviour": behaviours, "lr": lists["lr"] if asks_for_raw else []}


def _show(console, result) -> int:
    if result.baseline_added:
        console.print("the plain policy was added: it is what gains are measured against")
    if result.gate_limit is not None:
        console.print(f"gate at a deviation of {result.gate_limit:.3g}")
    console.print(cells_table(result))
    if len({r.cell.checkpoint_step for r in result.cells}) > 1:
        console.print(checkpoints_table(result))
    stopped = sum(r.dropped is not None for r in result.cells)
    if stopped:
        console.print(f"{stopped} of {len(result.cells)} settings were stopped early as clearly worse")
    console.print(result.choice, markup=False, soft_wrap=True)
    if result.confirmation is not None:
        console.print(confirmation_sentence(result.confirmation), markup=False, soft_wrap=True)
    asked = sum(r.episodes for r in result.cells)
    had = max(0, asked - result.played)
    console.print(
        f"{result.played:,} episodes played, {had:,} were in the table; written to {result.out}",
        markup=False,
        soft_wrap=True,
    )
    if result.no_parquet:
        console.print(result.no_parquet, markup=False, soft_wrap=True)
    for sentence in result.failures:
        print(f"dtag sweep: failed: {sentence}", file=sys.stderr)
    return EXIT_INCOMPLETE if result.failures else EXIT_DONE


def cells_table(result) -> Table:
    """One row per cell of a SweepResult."""
    title = f"{result.run}, {result.env_id}, {result.episodes} episodes from seed {result.seed}"
    table = Table(title=title, title_justify="left")
    several = len({r.cell.checkpoint_step for r in result.cells}) > 1
    if several:
        table.add_column("step", justify="right")
    table.add_column("setting")
    for column in ("episodes", "return", "95 % of the mean", "IQM", "normalised", "gain over plain (95 %)"):
        table.add_column(column, justify="right")
    table.add_column("Q gain", justify="right")
    for r in result.cells:
        row = [r.cell.label, f"{r.episodes}" + (", stopped" if r.dropped else "")]
        if r.returns is None:
            row += ["-"] * 6
        else:
            row += [
                f"{r.returns.mean:.1f} ± {r.returns.std:.1f}",
                f"{r.returns.ci95[0]:.1f} .. {r.returns.ci95[1]:.1f}",
                f"{r.returns.iqm:.1f}",
                f"{r.score.mean:.1f} ± {r.score.std:.1f}" if r.score else "-",
                _gain(r),
                "-" if r.mean_q_gain is None else f"{r.mean_q_gain:.3g}",
            ]
        table.add_row(*([f"{r.cell.checkpoint_step:,}"] if several else []), *row)
    if result.not_normalized:
        table.caption, table.caption_justify = f"normalised: none; {result.not_normalized}", "left"
    return table


def checkpoints_table(result) -> Table:
    """Last and best checkpoint of a SweepResult under every setting."""
    table = Table(title="checkpoints (best: chosen by these same episodes)", title_justify="left")
    for column in ("setting", "last step", "last return", "best step", "best return"):
        table.add_column(column, justify="left" if column == "setting" else "right")
    for last, best in result.last_and_best():
        row = [last.cell.label]
        for r in (last, best):
            mean = "-" if r.returns is None else f"{r.returns.mean:.1f} ± {r.returns.std:.1f}"
            row += [f"{r.cell.checkpoint_step:,}", mean]
        table.add_row(*row)
    return table


def confirmation_sentence(confirmation) -> str:
    """What fresh episodes say of the best cell."""
    c = confirmation
    if c.best.returns is None:
        return "confirmation: its episodes failed"
    seeds = f"seeds {c.first_seed}..{c.first_seed + c.episodes - 1}"
    mean, low, high = c.best.returns.mean, *c.best.returns.ci95
    text = f"confirmed on {c.best.episodes} fresh episodes ({seeds}): {c.best.cell.label} {mean:.1f} "
    text += f"({low:.1f} .. {high:.1f})"
    if c.best.score:
        text += f", normalised {c.best.score.mean:.1f}"
    return text + (f", gain over plain {_gain(c.best)}" if c.best.paired else "")


def _gain(result) -> str:
    pair = result.paired
    return f"{pair.mean:+.1f} ({pair.ci95[0]:+.1f} .. {pair.ci95[1]:+.1f})" if pair else "-"
