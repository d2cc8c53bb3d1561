"""Learning curves of online fine-tuning: algorithms side by side, trained offline and fine-tuned per seed.

    python -m tools.finetune_study DATASET --runs runs/study --out docs/results/finetuning-NAME.json --jobs 2
    python -m tools.finetune_study FILE [FILE ...] --figure docs/results/finetuning.png

Each run is trained offline and fine-tuned from there by the same algorithm with the same seed; it is
evaluated by its mean action on the same start seeds every time. Sizes and rates that are not given are those
of the presets. Offline all policies make the same number of updates: td3-odt, whose policy moves in every
`policy_delay`-th update, makes so many times more. RUNS/ALGORITHM/seed-N holds the run folders. A command
that is repeated goes on where it was, with more seeds, algorithms or steps of the environment if asked; FILE
is written whenever a run is over and holds all of those asked for that are. SIGTERM and Ctrl-C save all and
end the study, with exit code 1 as a run that fails does. The figure has a panel for each result file: means
over seeds with 95 % intervals by Student's t.
"""

import argparse
import dataclasses
import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from multiprocessing import connection
from pathlib import Path

from dtag_fast.algorithms import create
from dtag_fast.cli.training_verbs import stop_signal
from dtag_fast.data import load_dataset
from dtag_fast.experiments import plots
from dtag_fast.finetuning import online_preset
from dtag_fast.finetuning.start import online_algorithms
from dtag_fast.training.files import read_json, write_json

from .finetune_results import panels
from .finetune_run import FORMAT, RECORD, Settings, make_run, offline_config

NOTE = "study.json"  # in the folder of the runs: the settings
GROWS = "env_steps"  # the setting that may be raised later
POLL_EVERY = 0.2  # seconds
POLICY = {"d_model": int, "n_layer": int, "n_head": int, "context_len": int, "batch_size": int}
POLICY |= {"lr": float, "warmup": int}
ONLINE = {"episodes_per_iteration": int, "steps_per_iteration": int, "updates_per_iteration": int}

Task = tuple[str, int]  # algorithm, seed


def study(settings: Settings, tasks: Sequence[Task], runs: Path, out: Path, jobs: int) -> list[str]:
    """Make the runs that are missing in the folder `runs` and write the result file.

    Args:
        jobs: runs side by side, a process and a thread each.
    Returns:
        A sentence for every run that is not over at the end.
    Raises:
        ValueError: a setting that an algorithm does not take, or other settings than those of `runs`.
    """
    check(settings, [algorithm for algorithm, _ in tasks])
    note(settings, runs)
    missing = [task for task in tasks if not is_over(settings, folder_of(runs, task))]
    write_result(settings, tasks, runs, out, jobs)
    why = dict.fromkeys(missing, "stopped; repeat the command to go on")
    for task, code in side_by_side(settings, missing, runs, jobs):
        if code:
            why[task] = f"its process ended with code {code}; repeat the command to go on"
        elif is_over(settings, folder_of(runs, task)):
            del why[task]
            write_result(settings, tasks, runs, out, jobs)
            show(read_json(folder_of(runs, task) / RECORD))
    return [f"{algorithm}, seed {seed}: {reason}" for (algorithm, seed), reason in why.items()]


def side_by_side(
    settings: Settings, tasks: Sequence[Task], runs: Path, jobs: int
) -> Iterator[tuple[Task, int]]:
    """Make runs in processes of their own; yields each with the exit code of its process when that ends.

    They save and stop when this process is told to by SIGTERM, or ends for whatever reason.
    """
    context = multiprocessing.get_context("spawn")  # fork would copy the threads' locks of this process
    stopping, waiting, running = context.Event(), list(tasks), {}
    with stop_signal() as stopped:
        try:
            while running or (waiting and not stopped.is_set()):
                while waiting and len(running) < jobs and not stopped.is_set():
                    task = waiting.pop(0)
                    arguments = (settings, *task, folder_of(runs, task), stopping, os.getpid())
                    process = context.Process(target=_work, args=arguments)
                    process.start()
                    running[process.sentinel] = task, process
                for sentinel in connection.wait(list(running), POLL_EVERY):
                    task, process = running.pop(sentinel)
                    process.join()
                    yield task, process.exitcode
                if stopped.is_set():
                    stopping.set()
        finally:
            stopping.set()
            for _, process in running.values():
                process.join()


def _work(settings: Settings, algorithm: str, seed: int, folder: Path, stopping, parent: int) -> None:
    """Body of a process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches everyone; the parent says when to stop
    with stop_signal() as told:  # SIGTERM may reach everyone too

        def stop() -> bool:
            return told.is_set() or stopping.is_set() or os.getppid() != parent

        make_run(settings, algorithm, seed, folder, stop)


def check(settings: Settings, algorithms: Sequence[str]) -> None:
    """Refuse settings before anything is made; converts the dataset if that was never done."""
    for name in ("pretrain_updates", "env_steps", "eval_every", "eval_episodes"):
        if (value := getattr(settings, name)) < 1:
            raise ValueError(f"{name}: expected a positive number, got {value}")
    store = load_dataset(settings.dataset)
    for algorithm in dict.fromkeys(algorithms):
        create(algorithm, store, offline_config(algorithm, store.metadata, settings.policy), seed=0)
    dataclasses.replace(online_preset(store.metadata), **settings.online)


def note(settings: Settings, runs: Path) -> None:
    """Write the settings down in the folder of the runs, or refuse others than those that are there."""
    file, asked = runs / NOTE, dataclasses.asdict(settings)
    if file.exists():
        for name, before in read_json(file).items():
            if name == GROWS and asked[name] >= before:
                continue
            if asked[name] != before:
                more = " or more" if name == GROWS else ""
                raise ValueError(
                    f"runs: {name} was {before!r}{more} in {runs}, got {asked[name]!r}; give the same, or "
                    "take another folder"
                )
    elif runs.exists() and any(runs.iterdir()):
        raise ValueError(f"runs: {runs} holds files of something else; take another folder")
    runs.mkdir(parents=True, exist_ok=True)
    write_json(file, asked)


def folder_of(runs: Path, task: Task) -> Path:
    algorithm, seed = task
    return runs / algorithm / f"seed-{seed}"


def is_over(settings: Settings, folder: Path) -> bool:
    """Whether a run has played as many steps as are asked for."""
    file = folder / RECORD
    return file.exists() and read_json(file)["online"]["env_steps"] >= settings.env_steps


def write_result(settings: Settings, tasks: Sequence[Task], runs: Path, out: Path, jobs: int) -> None:
    """The result file: settings, and the record of every run that is over; nothing before there is one."""
    folders = [folder_of(runs, task) for task in tasks]
    records = [read_json(folder / RECORD) for folder in folders if is_over(settings, folder)]
    if not records:
        return
    told = dataclasses.asdict(settings)
    del told["dataset"]  # a path perhaps; the records name what was in it
    out.parent.mkdir(parents=True, exist_ok=True)
    write_json(out, {"format": FORMAT, "settings": told, "jobs": jobs, "runs": records})


def show(record: dict) -> None:
    """Print a line about a run."""
    first, last = record["evaluations"][0], record["evaluations"][-1]
    print(
        f"{record['algorithm']}, seed {record['seed']}: return {first['return_mean']:.1f} -> "
        f"{last['return_mean']:.1f} after {last['env_steps']:,} steps; "
        f"{record['online']['collect_seconds']:.0f} s of collection, "
        f"{record['online']['update_seconds']:.0f} s of updates",
        flush=True,
    )


def parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tools.finetune_study", description=__doc__.splitlines()[0]
    )
    parser.add_argument("inputs", nargs="+", help="the dataset; with --figure result files")
    parser.add_argument("--figure", type=Path, help="draw result files into this PNG and do nothing else")
    parser.add_argument("--runs", type=Path, help="folder of the run folders")
    parser.add_argument("--out", type=Path, help="the result file")
    parser.add_argument(
        "--algorithms", nargs="+", choices=online_algorithms(), default=["odt", "td3-odt"], metavar="NAME"
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--jobs", type=int, default=1, help="runs side by side, one thread each")
    parser.add_argument("--env", dest="env_id", help="environment id; default: the one of the data")
    for name, help in {
        "pretrain_updates": "of the policy, offline",
        "env_steps": "to play in all",
        "eval_every": "iterations between evaluations",
        "eval_episodes": "of each evaluation",
        "eval_seed": "of their first episode",
    }.items():
        default = Settings.__dataclass_fields__[name].default
        parser.add_argument(_option(name), type=int, default=default, help=f"{help} ({default:,})")
    for name, kind in (POLICY | ONLINE).items():
        parser.add_argument(_option(name), type=kind, help="default: the preset's")
    args = parser.parse_args(argv)
    if args.figure is None and (len(args.inputs) > 1 or args.runs is None or args.out is None):
        parser.error("expected one dataset with --runs and --out, or result files with --figure")
    if args.figure is not None and args.figure.suffix != ".png":
        parser.error(f"--figure: expected a file NAME.png, got {args.figure}")
    if args.jobs < 1:
        parser.error(f"--jobs: expected a positive number, got {args.jobs}")
    return args


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


def main(argv: Sequence[str]) -> int:
    """Run the study, or draw the figure; exit code 1 where a run is not over, 2 for what cannot be done."""
    args = parse(argv)
    try:
        if args.figure is not None:
            scored, score_name = panels([Path(file) for file in args.inputs])
            print(plots.save_png(plots.learning_curves(scored, score_name=score_name), args.figure))
            return 0
        tasks = [
            (name, seed) for seed in dict.fromkeys(args.seeds) for name in dict.fromkeys(args.algorithms)
        ]
        not_over = study(settings_of(args), tasks, args.runs, args.out, args.jobs)
    except (ValueError, OSError) as error:
        print(f"finetune_study: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; repeat the command to go on", file=sys.stderr)
        return 1
    print(*not_over, f"written to {args.out}" if args.out.exists() else "no run is over yet", sep="\n")
    return int(bool(not_over))


def settings_of(args: argparse.Namespace) -> Settings:
    given = {name: value for name, value in vars(args).items() if value is not None}
    kept = {field.name for field in dataclasses.fields(Settings)}
    return Settings(
        dataset=args.inputs[0],
        policy={name: given[name] for name in POLICY if name in given},
        online={name: given[name] for name in ONLINE if name in given},
        **{name: value for name, value in given.items() if name in kept},
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
