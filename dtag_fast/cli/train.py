"""`dtag train ALGO DATASET --out RUN`: train a policy or a critic, evaluating it on the way if asked to."""

import dataclasses
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console

from dtag_fast.cli.settings_file import with_settings_of
from dtag_fast.cli.terminal import load_with_progress, make_console, progress_bar
from dtag_fast.cli.training_verbs import loggers_of, parse_options, stop_signal

# Updates of the published code: min-decision-transformer, Reinformer, ODT offline, the baseline beside the
# original Decision Transformer, EDT, QT, ODT with a critic (5,000 steps of the policy; TD3's are every second
# update), and the critics' own or CORL.
DEFAULT_UPDATES = {"dt": 20_000, "reinformer": 50_000, "odt": 5_000, "adt": 100_000, "bc": 100_000}
DEFAULT_UPDATES |= {"edt": 50_000, "qt": 500_000, "td3-odt": 10_000, "ddpg-odt": 5_000, "td3": 10_000}
DEFAULT_UPDATES |= dict.fromkeys(("sac-odt", "awac-odt", "iql-odt"), 5_000)
DEFAULT_UPDATES |= dict.fromkeys(("iql", "td3bc", "awac", "cql"), 1_000_000)

_CAPTURE = tyro.conf.create_mutex_group(
    required=False, title="updates in CUDA graphs; default: where they can be captured"
)


@dataclass(frozen=True, kw_only=True)
class Args:
    """Train on a dataset and write a run folder.

    Settings of the algorithm that are not given come from --config, else from the preset of the dataset, else
    from the paper.
    """

    dataset: tyro.conf.Positional[str]  # Minari id, folder, D4RL file or pickle
    out: Path  # run folder
    critic: Path | None = None  # run or checkpoint folder of a critic, for settings that learn from one
    updates: int | None = None  # gradient steps in all; default: as published
    seed: int = 0  # of weights, dropout and batches
    seeds: int | None = None  # train so many, from --seed on, together; run folders OUT/seed-K
    device: str = "cpu"  # cpu or cuda
    threads: int | None = None  # of PyTorch; default: its own choice
    resume: bool = False  # go on from the newest checkpoint in --out
    config: Path | None = None  # JSON file with settings of the algorithm
    log_every: int = 100  # updates averaged into one record of metrics
    checkpoint_every: int = 5_000  # updates between checkpoints
    keep_last: int | None = None  # checkpoints to keep, the best one besides; default: all
    precision: Literal["fp32", "tf32", "bf16"] | None = None  # of the networks; default: as PyTorch is set
    compile: bool = False  # networks through torch.compile
    tensorboard: bool = False  # write event files to RUN/tensorboard too
    wandb: str | None = None  # log to this project of Weights & Biases too
    holdout: float | None = None  # fraction of the episodes that is kept for validation; default: none
    validate_every: int | None = None  # updates between validations on them
    eval_every: int | None = None  # updates between evaluations of a policy; default: none
    eval_episodes: int = 10  # per target return
    eval_seed: int = 0  # of the first episode
    capture: Annotated[bool, tyro.conf.FlagCreatePairsOff, _CAPTURE] = False  # always, or an error
    no_capture: Annotated[bool, tyro.conf.FlagCreatePairsOff, _CAPTURE] = False  # never


def main(argv: Sequence[str]) -> int:
    """Entry of the verb; returns the exit code, 0."""
    names = ", ".join(DEFAULT_UPDATES)
    if not argv or argv[0] in ("-h", "--help"):
        print("usage: dtag train ALGO DATASET --out RUN [options]\n")
        print(f"ALGO is one of {names}; `dtag train ALGO --help` shows its options.")
        return 0 if argv else 2
    name, rest = argv[0], list(argv[1:])
    if name not in DEFAULT_UPDATES:
        raise ValueError(f"ALGO: expected one of {names}, got {name!r}")
    # Imported late: a mistyped algorithm needs no torch.
    import torch

    from dtag_fast.algorithms.registry import lookup
    from dtag_fast.training.devices import find_device

    args, _ = parse_options(f"dtag train {name}", rest, Args, algorithm=lookup(name).config())
    find_device(args.device)
    if args.eval_every is not None and lookup(name).algorithm.kind != "policy":
        raise ValueError(f"--eval-every: {name} trains a critic, which plays no episodes; leave it out")
    if args.seeds is not None:
        check_seeds(args)
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    with process_group(args.device) as (device, writes):
        return _train(name, rest, dataclasses.replace(args, device=device), make_console(quiet=not writes))


def _train(name: str, rest: list[str], args: Args, console: Console) -> int:
    """Train as `args` and the algorithm's options among `rest` say."""
    from dtag_fast.algorithms.registry import preset_config
    from dtag_fast.training import train, train_seeds
    from dtag_fast.training.files import read_json

    device = args.device
    store = load_with_progress(console, args.dataset)
    defaults = preset_config(name, store.metadata)
    if args.config is not None:
        defaults = with_settings_of(args.config, defaults)
    # Once more, now that the defaults of the algorithm's options are known.
    args, config = parse_options(f"dtag train {name}", rest, Args, algorithm=defaults)
    args = dataclasses.replace(args, device=device)
    console.print(f"{name} on {args.dataset}: {config}", markup=False, soft_wrap=True)

    updates = DEFAULT_UPDATES[name] if args.updates is None else args.updates
    with progress_bar(console, f"training {name}") as report, stop_signal() as stopped:

        def progress(done: int, total: int, metrics: dict[str, float]) -> None:
            report(done, total, " ".join(f"{key} {value:.4g}" for key, value in list(metrics.items())[:3]))

        shared = {
            "out": args.out,
            "config": config,
            "critic": args.critic,
            "updates": updates,
            "seed": args.seed,
            "device": args.device,
            "log_every": args.log_every,
            "checkpoint_every": args.checkpoint_every,
            "keep_last": args.keep_last,
            "eval_every": args.eval_every,
            "evaluate": None if args.eval_every is None else evaluation_callback(args),
            "resume": args.resume,
            "progress": progress,
            "stop": stopped.is_set,
            "precision": args.precision,
            "capture": True if args.capture else False if args.no_capture else None,
        }
        loggers = partial(loggers_of, args.tensorboard, args.wandb)
        if args.seeds is None:
            single = {"holdout": args.holdout, "validate_every": args.validate_every, "compile": args.compile}
            runs = [train(name, store, loggers=loggers(), **single, **shared)]
        else:
            runs = train_seeds(name, store, seeds=args.seeds, loggers=loggers, **shared)

    def say(text: str) -> None:
        console.print(text, markup=False, soft_wrap=True)

    if execution := read_json(runs[0] / "config.json").get("execution"):
        say(f"updates: {execution}")
    if len(runs) > 1 and (speed := last_speed(runs[0])) is not None:
        say(f"{len(runs)} seeds at {speed:.4g} updates/s each, {len(runs) * speed:.4g} together")
    if stopped.is_set():
        say("stopped by SIGTERM, all is saved; go on with --resume")
    for run in runs:
        say(f"run folder: {run}")
    return 0


def check_seeds(args: Args) -> None:
    """Refuse what --seeds cannot be combined with.

    Raises:
        ValueError: naming the option, the reason and what to do.
    """
    reasons = {
        "holdout": "the episodes held out depend on the seed",
        "validate_every": "the episodes held out depend on the seed",
        "compile": "a network is called for all seeds at once, which torch.compile is not asked to trace",
        "wandb": "one process has one run of Weights & Biases; --tensorboard writes one for each seed",
    }
    for name, reason in reasons.items():
        if getattr(args, name) not in (None, False):
            option = f"--{name.replace('_', '-')}"
            raise ValueError(f"{option}: not together with --seeds, {reason}; leave one of them out")


def last_speed(run: Path) -> float | None:
    """Updates per second in the newest record of a run, None where there is none."""
    from dtag_fast.training.files import read_json_lines

    records = read_json_lines(run / "metrics.jsonl")
    speeds = [record["speed/updates_per_s"] for record in records if "speed/updates_per_s" in record]
    return speeds[-1] if speeds else None


@contextmanager
def process_group(device: str) -> Iterator[tuple[str, bool]]:
    """Join the processes that torchrun has started, if it has; gives the device and whether this one writes.

    Each takes the GPU of its number on its machine.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or "LOCAL_RANK" not in os.environ:
        yield device, True
        return
    import torch

    if device == "cuda":
        device = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(device)
    backend = "nccl" if device.startswith("cuda") else "gloo"
    # The others wait while one evaluates.
    torch.distributed.init_process_group(backend, timeout=timedelta(days=1))
    try:
        yield device, torch.distributed.get_rank() == 0
    finally:
        torch.distributed.destroy_process_group()


def evaluation_callback(args: Args):
    """A function (step, run folder) -> scores for the log, of the checkpoint of that step.

    What it logs is what `dtag evaluate RUN --checkpoints STEP --seed EVAL_SEED --episodes EVAL_EPISODES`
    finds.
    """
    from dtag_fast.rollout.run_evaluation import evaluation_scores

    def callback(step: int, run: Path) -> dict[str, float]:
        options = {"episodes": args.eval_episodes, "seed": args.eval_seed}
        return evaluation_scores(run / "checkpoints" / str(step), args.device, options)

    return callback
