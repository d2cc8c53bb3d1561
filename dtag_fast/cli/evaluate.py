"""`dtag evaluate RUN`: play a trained policy, with and without Action Gradient, all settings in one batch."""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import tyro
from rich.table import Table

from dtag_fast.cli import action_gradient
from dtag_fast.cli.main import EXIT_DONE, EXIT_INCOMPLETE
from dtag_fast.cli.terminal import expect_file, make_console, numbers, progress_bar


@dataclass(frozen=True)
class Args:
    """Evaluate a trained policy in its environment. Lists are separated by commas; all of them run in
    one batch."""

    run: tyro.conf.Positional[Path]  # run or checkpoint folder of a policy
    critic: Path | None = None  # run or checkpoint folder of a critic; needed by Action Gradient
    ag_steps: str | None = None  # n, e.g. 0,5,10; 0 is the plain policy. Default: 0,10 with a critic, else 0
    ag_lr: str = "0.03"  # step sizes, e.g. 0.01,0.03
    ag_optimizer: str = "sgd"  # sgd, adam, rmsprop
    ag_momentum: float = 0.0  # of sgd
    ag_reduce: str = "min"  # of the critic's members: min, mean or the number of one
    ag_gradient: str = "raw"  # raw, unit, or clip:C to limit its norm to C
    ag_radius: float | None = None  # largest distance from the policy's action, in every dimension
    ag_select: Literal["best", "last"] = "best"  # which iterate is executed
    # M, e.g. 1,4,16: climb from the policy's action and M - 1 draws from its distribution, and execute the
    # best end. For reinformer and odt, and the policies of iql, awac and cql.
    ag_starts: str = "1"
    ag_spread: str = "1"  # of those draws, in deviations of the distribution, e.g. 0.3,1
    # Also with steps in units of the data, regularised by what they do: WEIGHT or WEIGHT:RADIUS, or lists
    # of them, e.g. 0.4 or 0.4:1. Needs the critic's dataset the first time.
    ag_behaviour: str | None = None
    # End climbs where the members of the critic disagree by more than this quantile of what they do about its
    # own dataset, e.g. 0.9. Needs that dataset, and a critic of two members or more.
    ag_gate: float | None = None
    target_returns: str | None = None  # returns to ask for, e.g. 3600,1800. Default: those of the checkpoint
    history_lengths: str | None = None  # elastic history of a reinformer, e.g. 1,3,5. Default: context_len
    candidates: int | None = None  # actions at each step, one chosen by --critic or that of RUN. Default: off
    candidate_noise: float = 0.1  # deviation of the candidates' scaled returns-to-go
    candidate_choice: Literal["softmax", "argmax"] = "softmax"  # of the critic's Q: drawn, or the largest
    episodes: int = 10  # per setting and target return
    seed: int = 0  # episode e starts with reset(seed=seed + e), the same for every setting
    env: str | None = None  # Gymnasium id; default: the environment of the training data
    checkpoints: str = "last"  # last, all, or steps
    json: Path | None = None  # write everything here
    latency: bool = False  # also time single actions in one environment, after the evaluation
    latency_actions: int = 1000  # to time, per setting
    latency_warmup: int = 100  # to play before them, per setting
    max_envs: int = 64  # environments alive at once
    threads: int | None = None  # default: PyTorch's number of threads
    env_processes: int | None = None  # that step the environments, 0: none. Default: where it is faster
    env_timeout: float | None = None  # seconds for one reset or step, in worker processes. Default: any time
    device: str = "cpu"  # cpu or cuda
    precision: Literal["fp32", "bf16"] | None = (
        None  # of policy and critic. Default: fp32 and as PyTorch is set
    )


def main(argv: Sequence[str]) -> int:
    """Entry of the verb; returns the exit code: 0, or 1 where episodes could not be finished."""
    args = tyro.cli(Args, prog="dtag evaluate", args=list(argv))
    settings_options = _settings_options(args)
    targets = None if args.target_returns is None else numbers("--target-returns", args.target_returns, float)
    lengths = (
        None if args.history_lengths is None else numbers("--history-lengths", args.history_lengths, int)
    )
    which: Any = args.checkpoints
    if which not in ("last", "all"):
        which = numbers("--checkpoints", which, int)
    if args.threads is not None and args.threads < 1:
        raise ValueError(f"--threads: expected a whole number of at least 1, got {args.threads}")
    if args.json is not None:
        expect_file("--json", args.json)
    console = make_console()
    # Imported late: `dtag evaluate --help` and a mistyped option need neither torch nor Gymnasium.
    from dtag_fast.rollout.arguments import check_together
    from dtag_fast.rollout.candidates import Candidates
    from dtag_fast.rollout.run_evaluation import evaluate_run, measure_run
    from dtag_fast.rollout.settings import grid
    from dtag_fast.training.behaviour import behaviour_of
    from dtag_fast.training.checkpoint import load_critic, load_policy
    from dtag_fast.training.gate import load_gated

    behaviours: list[Any] = []
    if args.ag_behaviour is not None:
        steps = settings_options["steps"]
        behaviours = action_gradient.behaviours(args.ag_behaviour, steps, args.critic is not None)
    raw = grid(**settings_options)
    settings = grid(**settings_options, behaviour=behaviours)
    candidates, options = None, (args.candidate_noise, args.candidate_choice)
    if args.candidates is not None:
        candidates = Candidates(args.candidates, *options)
    elif options != (Args.candidate_noise, Args.candidate_choice):
        raise ValueError("--candidate-noise, --candidate-choice: expected together with --candidates")
    if args.critic is None and args.ag_gate is not None:
        raise ValueError("--ag-gate: expected together with --critic")
    critic = None if args.critic is None else load_critic(args.critic, args.device)
    if args.ag_gate is not None:
        critic = load_gated(args.critic, args.ag_gate, args.device)
    behaviour = None
    if behaviours:
        policy = load_policy(args.run)  # looked at before a minute goes into the fit
        check_together(policy, critic, raw, args.env or policy.info.env_id)
        with progress_bar(console, "fitting the behaviour of the data") as report:
            behaviour = behaviour_of(args.critic, report)
    asked = {
        "checkpoints": which,
        "device": args.device,
        "critic": critic,
        "settings": settings,
        "target_returns": targets,
        "history_lengths": lengths,
        "candidates": candidates,
        "precision": args.precision,
        "seed": args.seed,
        "env_id": args.env,
        "behaviour": behaviour,
    }
    with progress_bar(console, f"evaluating {args.run.name}") as report:
        result = evaluate_run(
            args.run,
            **asked,
            episodes=args.episodes,
            max_envs=args.max_envs,
            workers=args.threads,
            env_processes=args.env_processes,
            env_timeout=args.env_timeout,
            progress=report,
        )
    for checkpoint in result.checkpoints:
        console.print(results_table(checkpoint))
        console.print(speed_sentence(checkpoint))
    if len(result.checkpoints) > 1:
        console.print(best_table(result))
    if args.json is not None:
        result.to_json(args.json)  # before anything else can fail
    if args.latency:
        counts = {"actions": args.latency_actions, "warmup": args.latency_warmup}
        with progress_bar(console, f"timing {args.run.name}") as report:
            result = replace(result, latency=measure_run(args.run, **asked, **counts, progress=report))
        console.print(latency_table(result.latency))
        if args.json is not None:
            result.to_json(args.json)
    if args.json is not None:
        console.print(f"written to {args.json}", markup=False, soft_wrap=True)
    return report_failures(result)


def report_failures(result) -> int:
    """One line on stderr for each failed episode of a RunEvaluation, and its traceback with
    DTAG_TRACEBACK=1; returns the exit code."""
    several = len(result.checkpoints) > 1
    for step, failure in result.failures:
        checkpoint = f"checkpoint {step}, " if several else ""
        print(f"dtag evaluate: failed episode: {checkpoint}{failure}", file=sys.stderr)
        if os.environ.get("DTAG_TRACEBACK") == "1":
            print(failure.traceback, file=sys.stderr)
    return EXIT_INCOMPLETE if result.failures else EXIT_DONE


def _settings_options(args: Args) -> dict[str, Any]:
    steps = args.ag_steps if args.ag_steps is not None else "0" if args.critic is None else "0,10"
    return {
        "steps": numbers("--ag-steps", steps, int),
        "lr": numbers("--ag-lr", args.ag_lr, float),
        "optimizer": action_gradient.optimizers(args.ag_optimizer, args.ag_momentum),
        "reduce": action_gradient.reduction(args.ag_reduce),
        "gradient": action_gradient.gradient(args.ag_gradient),
        "radius": args.ag_radius,
        "select": args.ag_select,
        "starts": numbers("--ag-starts", args.ag_starts, int),
        "spread": numbers("--ag-spread", args.ag_spread, float),
    }


def results_table(result) -> Table:
    """One row per setting of an EvaluationResult."""
    about = result.policy
    chosen = f", {about['candidates']['count']} candidates" if about["candidates"] else ""
    if result.critic is not None and "gate_limit" in result.critic:
        chosen += f", gate at a deviation of {result.critic['gate_limit']:.3g}"
    table = Table(
        title=f"{about['algorithm']}, step {about['step']:,}, {result.env_id}, {result.episodes} episodes"
        + chosen,
        title_justify="left",
    )
    table.add_column("setting")
    for column in ("return", "95 % of the mean", "IQM", "normalised", "gain over plain (95 %)", "Q gain"):
        table.add_column(column, justify="right")
    for s in result.settings:
        pair = s.paired and s.paired.difference
        fewer = len(s.seeds) < result.episodes
        table.add_row(
            f"{s.label} ({len(s.seeds)} of {result.episodes} finished)" if fewer else s.label,
            spread(s),
            f"{s.ci95[0]:.1f} .. {s.ci95[1]:.1f}" if s.ci95 else "-",
            f"{s.iqm:.1f}" if s.seeds else "-",
            f"{s.normalized.mean:.1f} ± {s.normalized.std:.1f}" if s.normalized else "-",
            f"{pair.mean:+.1f} ({pair.ci95[0]:+.1f} .. {pair.ci95[1]:+.1f})" if pair else "-",
            f"{sum(s.mean_q_gain) / len(s.mean_q_gain):.3g}" if s.mean_q_gain else "-",
        )
    references = [s.normalized for s in result.settings if s.normalized]
    if references:
        r = references[0]
        note = f"; {r.note}" if r.note else ""
        table.caption = f"normalised: 0 = {r.ref_min:g}, 100 = {r.ref_max:g} ({r.source}){note}"
    elif result.not_normalized:
        table.caption = f"normalised: none; {result.not_normalized}"
    table.caption_justify = "left"
    return table


def speed_sentence(result) -> str:
    """Steps per second and where the time went."""
    split = ", ".join(f"{name} {100 * share:.0f} %" for name, share in result.wall_time.split.items())
    processes = result.wall_time.env_processes
    several = f"{processes} processes" if processes > 1 else "a process of their own"
    where = f"; environments in {several}: {result.wall_time.env_processes_reason}" * bool(processes)
    speed = f"{result.steps:,} environment steps, {result.steps_per_second:,.0f} a second ({split}{where})"
    kinds = ", ".join(f"{part} in {kind}" for part, kind in result.precision.items() if kind)
    return f"{speed}; {kinds}"


def latency_table(latency) -> Table:
    """One row per setting and part of a LatencyResult."""
    table = Table(
        title=f"microseconds per action, one environment ({latency.env_id}), {latency.device}, "
        f"PyTorch threads: {latency.threads}",
        title_justify="left",
        caption=f"{latency.actions:,} actions per setting, after {latency.warmup:,} that were left out; "
        f"percentiles by {latency.percentiles}; garbage collector "
        f"{'on' if latency.garbage_collector else 'off'}",
        caption_justify="left",
    )
    for column in ("setting", "part"):
        table.add_column(column)
    for column in ("p50", "p95", "p99", "mean"):
        table.add_column(column, justify="right")
    for s in latency.settings:
        parts = s.parts if s.captured is None else s.parts | {"captured (all but environment)": s.captured}
        for number, (part, times) in enumerate(parts.items()):
            figures = (f"{value:,.1f}" for value in (times.p50, times.p95, times.p99, times.mean))
            table.add_row("" if number else s.label, part, *figures, end_section=number == len(parts) - 1)
    return table


def best_table(result) -> Table:
    """Last and best checkpoint of a RunEvaluation under every setting."""
    table = Table(title="checkpoints (best: chosen by these same episodes)", title_justify="left")
    for column in ("setting", "last step", "last return", "best step", "best return"):
        table.add_column(column, justify="left" if column == "setting" else "right")
    step = result.checkpoints[-1].policy["step"]
    for number, last in enumerate(result.last):
        best_step, best = result.best(number)
        table.add_row(
            last.label,
            f"{step:,}",
            spread(last),
            f"{best_step:,}" if best.seeds else "-",
            spread(best),
        )
    return table


def spread(setting) -> str:
    """Mean and deviation of a SettingResult's returns; a dash where no episode was finished."""
    return f"{setting.mean:.1f} ± {setting.std:.1f}" if setting.seeds else "-"
