"""`dtag convert-critic SRC RUN`: a critic that another library trained, as a run folder."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from dtag_fast.cli.main import EXIT_DONE
from dtag_fast.cli.terminal import load_with_progress, make_console, numbers


@dataclass(frozen=True)
class Args:
    """Write a run folder of a critic that another library trained: Stable-Baselines3, d3rlpy, CORL, CleanRL,
    Flax. `dtag evaluate POLICY --critic RUN` and every other verb take it. Nothing in SRC is executed.

    Lists are separated by commas.
    """

    src: tyro.conf.Positional[Path]  # a file; docs/interop lists the kinds
    run: tyro.conf.Positional[Path]  # new folder
    data: str | None = None  # dataset it was trained on: environment, bounds, entries of Dict observations
    env: str | None = None  # Gymnasium id, where there is no --data
    state_eps: float | None = None  # states were standardised by mean and std + this of --data; CORL: 1e-3
    state_mean: str | None = None  # or by these: S numbers or one
    state_std: str | None = None
    action_low: str | None = None  # bounds of the environment's actions, A numbers or one. Default: SRC's
    action_high: str | None = None
    format: str | None = None  # of SRC, where it is not recognised: corl, cleanrl, ...
    activation: str | None = None  # relu, tanh, gelu, ..., where SRC does not tell it
    norm: Literal["before", "after"] | None = None  # LayerNorm and activation, where SRC does not tell it
    target: bool = False  # the target critic in place of the trained one
    quantiles: Literal["mean", "truncated"] = "mean"  # of a distribution
    reward_units: Literal["trained", "raw"] = "trained"  # raw: without the factor of d3rlpy's reward scaler


def main(argv: Sequence[str]) -> int:
    """Entry of the verb; returns the exit code, 0."""
    args = tyro.cli(Args, prog="dtag convert-critic", args=list(argv))
    lists = {
        name: numbers(f"--{name.replace('_', '-')}", text, float)
        for name in ("state_mean", "state_std", "action_low", "action_high")
        if (text := getattr(args, name)) is not None
    }
    if args.data is None and args.env is None:
        raise ValueError("--data, --env: expected one of them, got neither; they tell what is to be played")
    console = make_console()
    # Imported late: `dtag convert-critic --help` and a mistyped option need no torch.
    from dtag_fast.interop.critic_conversion import convert_critic

    names = ("state_eps", "format", "activation", "norm", "target", "quantiles", "reward_units")
    done = convert_critic(
        args.src,
        args.run,
        data=None if args.data is None else load_with_progress(console, args.data),
        env_id=args.env,
        **{name: getattr(args, name) for name in names},
        **lists,
    )
    found = done.critic
    console.print(
        f"{found.source}: S {found.state_dim}, A {found.action_dim}, {len(found.members)} members, "
        f"{done.info.env_id or 'no environment named'}\nrun folder: {done.run}",
        markup=False,
        soft_wrap=True,
    )
    return EXIT_DONE
