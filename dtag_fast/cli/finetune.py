"""`dtag finetune RUN --algo td3-odt --env-steps N --out RUN2`: go on with a policy in its environment."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from dtag_fast.cli.settings_file import with_settings_of
from dtag_fast.cli.terminal import make_console, numbers, progress_bar
from dtag_fast.cli.training_verbs import loggers_of, parse_options, stop_signal

_STEPS = tyro.conf.arg(aliases=("--steps",))


@dataclass(frozen=True, kw_only=True)
class Args:
    """Fine-tune a trained policy online and write a run folder.

    Settings of the algorithm that are not given come from --config, else from the run, else from the preset
    of the dataset; those of the online part from the preset.
    """

    run: tyro.conf.Positional[Path]  # run or checkpoint folder of the policy to begin with
    algo: Literal["odt", "td3-odt", "sac-odt", "awac-odt", "iql-odt", "ddpg-odt", "td3"]
    out: Path  # run folder
    env_steps: Annotated[int, _STEPS] = 200_000  # to play in all; the iteration that reaches it is finished
    env: str | None = None  # Gymnasium id; default: the environment of the training data
    data: str | None = None  # Minari id, folder, D4RL file or pickle; default: the dataset of the run
    critic: Path | None = None  # run or checkpoint folder of a critic to begin with
    seed: int = 0  # of what is drawn while it trains and plays
    device: str = "cpu"  # cpu or cuda
    threads: int | None = None  # of PyTorch; default: its own choice
    resume: bool = False  # go on from the newest checkpoint in --out
    config: Path | None = None  # JSON file with settings of the algorithm
    eval_every: int = 10  # iterations between evaluations
    eval_episodes: int = 10  # per target return and setting; 0: no evaluation
    eval_seed: int = 0  # of the first episode
    ag_steps: str = "0"  # Action Gradient in evaluation, with the learner's critic: 0,5,10
    ag_lr: str = "0.03"  # step sizes of it: 0.01,0.03
    checkpoint_every: int = 10  # iterations between checkpoints
    keep_last: int | None = 1  # checkpoints to keep, the best one besides
    env_processes: int | None = None  # that step the environments; default: by the rule of evaluation
    env_timeout: float | None = None  # seconds a reset or step may take
    precision: Literal["fp32", "tf32", "bf16"] | None = None  # of the networks; default: as PyTorch is set
    tensorboard: bool = False  # write event files to RUN/tensorboard too
    wandb: str | None = None  # log to this project of Weights & Biases too


def main(argv: Sequence[str]) -> int:
    """Entry of the verb; returns the exit code, 0."""
    if not argv:
        argv = ["--help"]
    wants_help = "-h" in argv or "--help" in argv
    if wants_help and "--algo" not in argv:
        tyro.cli(Args, prog="dtag finetune", args=list(argv))
    # Once for what decides the defaults of all other options.
    args, _ = tyro.cli(
        Args,
        prog="dtag finetune",
        args=[word for word in argv if word not in ("-h", "--help")],
        return_unknown_args=True,
    )
    import torch

    from dtag_fast.data import load_dataset
    from dtag_fast.finetuning import finetune, online_preset
    from dtag_fast.finetuning.loop import data_of
    from dtag_fast.finetuning.start import resolved_config
    from dtag_fast.rollout.run_evaluation import evaluation_scores
    from dtag_fast.rollout.settings import grid
    from dtag_fast.training.checkpoint import load_info
    from dtag_fast.training.devices import find_device

    find_device(args.device)
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    console = make_console()
    with progress_bar(console, "reading the dataset") as report:
        store = data_of(args.run) if args.data is None else load_dataset(args.data, progress=report)
    defaults = resolved_config(load_info(args.run), args.algo, store.metadata)
    if args.config is not None:
        defaults = with_settings_of(args.config, defaults)
    online = online_preset(store.metadata)
    args, online, config = parse_options("dtag finetune", argv, Args, online=online, algorithm=defaults)
    settings = grid(steps=numbers("--ag-steps", args.ag_steps, int), lr=numbers("--ag-lr", args.ag_lr, float))
    if any(setting.steps for setting in settings) and args.algo == "odt":
        raise ValueError("--ag-steps: odt trains no critic to climb; take td3-odt, or evaluate with --critic")
    console.print(f"{args.algo} from {args.run}: {config}", markup=False, soft_wrap=True)
    console.print(f"online: {online}", markup=False, soft_wrap=True)
    with progress_bar(console, f"fine-tuning with {args.algo}") as report, stop_signal() as stopped:

        def progress(done: int, total: int, latest: dict[str, float]) -> None:
            shown = ("online/return_mean", "train/loss", "speed/updates_per_s")
            report(done, total, " ".join(f"{k} {latest[k]:.4g}" for k in shown if k in latest))

        def evaluate(step: int, run: Path) -> dict[str, float]:
            options: dict[str, Any] = {"episodes": args.eval_episodes, "seed": args.eval_seed}
            options |= {"env_id": args.env, "settings": settings}
            return evaluation_scores(run / "checkpoints" / str(step), args.device, options)

        out = finetune(
            args.run,
            args.algo,
            out=args.out,
            env_steps=args.env_steps,
            store=store,
            config=config,
            online=online,
            critic=args.critic,
            seed=args.seed,
            device=args.device,
            env_id=args.env,
            evaluate=evaluate if args.eval_episodes else None,
            eval_every=args.eval_every,
            checkpoint_every=args.checkpoint_every,
            keep_last=args.keep_last,
            env_processes=args.env_processes,
            env_timeout=args.env_timeout,
            resume=args.resume,
            progress=progress,
            stop=stopped.is_set,
            loggers=loggers_of(args.tensorboard, args.wandb),
            precision=args.precision,
        )
    if stopped.is_set():
        console.print("stopped by SIGTERM, all is saved; go on with --resume")
    console.print(f"run folder: {out}", markup=False, soft_wrap=True)
    return 0
