"""`dtag export RUN --onnx FILE`: a policy for other runtimes, with or without Action Gradient inside."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro

from dtag_fast.cli import action_gradient
from dtag_fast.cli.main import EXIT_DONE
from dtag_fast.cli.terminal import expect_file, make_console


@dataclass(frozen=True)
class Args:
    """Write a trained policy for other runtimes: as an ONNX file, a program of torch.export, or a folder in
    the manner of the Hugging Face hub. At least one of the three."""

    run: tyro.conf.Positional[Path]  # run or checkpoint folder of a policy
    onnx: Path | None = None  # ONNX file: raw inputs, dynamic batch. Compared by onnxruntime; needs [export]
    pt2: Path | None = None  # program of torch.export, the same; PyTorch runs it without dtag_fast
    pretrained: Path | None = None  # folder of config.json, safetensors and a model card
    critic: Path | None = None  # run or checkpoint folder, or a file of another library
    ag_steps: int | None = None  # of Action Gradient inside of --onnx and --pt2. Default: 10 with a critic
    ag_lr: float = 0.03  # step size
    ag_optimizer: Literal["sgd", "adam", "rmsprop"] = "sgd"
    ag_momentum: float = 0.0  # of sgd
    ag_reduce: str = "min"  # of the critic's members: min, mean or the number of one
    ag_gradient: str = "raw"  # raw, unit, or clip:C to limit its norm to C
    ag_radius: float | None = None  # largest distance from the policy's action, in every dimension
    ag_select: Literal["best", "last"] = "best"  # which iterate is the action
    evaluation: Path | None = None  # JSON of `dtag evaluate --json`, for the model card of --pretrained
    overwrite: bool = False  # replace the folder of --pretrained; files are replaced anyway
    verify: bool = True  # run the ONNX file and compare it with this package before it is kept


def main(argv: Sequence[str]) -> int:
    """Entry of the verb; returns the exit code, 0."""
    args = tyro.cli(Args, prog="dtag export", args=list(argv))
    _check(args)
    console = make_console()
    # Imported late: `dtag export --help` and a mistyped option need no torch.
    from dtag_fast.interop.export.onnx_file import import_onnx
    from dtag_fast.training.checkpoint import load_policy

    if args.onnx is not None:
        try:
            import_onnx()
        except ImportError as error:
            raise ValueError(f"--onnx: {error}") from None
    policy = load_policy(args.run)
    critic = None if args.critic is None else _critic(args.critic, policy.info.action_dim)
    setting = _setting(args)
    if args.pretrained is not None:
        from dtag_fast.interop.pretrained import save_pretrained

        options = {"evaluation": args.evaluation, "overwrite": args.overwrite}
        folder = save_pretrained(policy, args.pretrained, critic=critic, **options)
        console.print(f"written to {folder}", markup=False, soft_wrap=True)
    if args.pt2 is not None:
        from dtag_fast.interop.export.torch_program import export_program

        export_program(policy, args.pt2, critic=critic, setting=setting)
        console.print(f"written to {args.pt2}: {setting.label}", markup=False, soft_wrap=True)
    if args.onnx is not None:
        from dtag_fast.interop.export.onnx_file import export_onnx

        report = export_onnx(policy, args.onnx, critic=critic, setting=setting, check=args.verify)
        console.print(onnx_sentences(report, setting.label), markup=False, soft_wrap=True)
    return EXIT_DONE


def onnx_sentences(report, label: str) -> str:
    """What was written and how it was compared, of an OnnxReport."""
    inputs = ", ".join(f"{name} ({', '.join(map(str, sizes))})" for name, sizes in report.inputs.items())
    compared = (
        "not compared, as --no-verify was given" if report.verification is None else report.verification
    )
    lines = [
        f"written to {report.path}: {label}, {report.nodes:,} nodes",
        f"inputs: {inputs}",
        f"outputs: {', '.join(report.outputs)}",
        f"compared: {compared}",
    ]
    return "\n".join(lines)


def _check(args: Args) -> None:
    if args.onnx is None and args.pt2 is None and args.pretrained is None:
        raise ValueError("--onnx, --pt2, --pretrained: expected at least one of them, got none")
    if args.evaluation is not None and args.pretrained is None:
        raise ValueError("--evaluation: expected together with --pretrained, whose model card shows it")
    if args.ag_steps and args.critic is None:
        raise ValueError(f"--ag-steps: {args.ag_steps} steps need --critic; give a run that trained one")
    for name, path in (("--onnx", args.onnx), ("--pt2", args.pt2)):
        if path is not None:
            expect_file(name, path)


def _setting(args: Args) -> Any:
    from dtag_fast.rollout.settings import AGSetting

    steps = args.ag_steps if args.ag_steps is not None else 0 if args.critic is None else 10
    if steps == 0:
        return AGSetting()
    return AGSetting(
        steps,
        args.ag_lr,
        action_gradient.optimizers(args.ag_optimizer, args.ag_momentum)[0],
        action_gradient.reduction(args.ag_reduce),
        action_gradient.gradient(args.ag_gradient),
        args.ag_radius,
        args.ag_select,
    )


def _critic(path: Path, action_dim: int) -> Any:
    """Ours from a folder, another library's from a file."""
    if path.is_file():
        from dtag_fast.interop.loading import load_critic as load_foreign

        return load_foreign(path, action_dim=action_dim)
    from dtag_fast.training.checkpoint import load_critic

    return load_critic(path)
