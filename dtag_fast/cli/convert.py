"""`dtag convert SRC RUN`: a Decision Transformer that another code trained, as a run folder."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from dtag_fast.cli.main import EXIT_DONE
from dtag_fast.cli.terminal import load_with_progress, make_console, numbers


@dataclass(frozen=True)
class Args:
    """Write a run folder of a Decision Transformer that another code trained: Hugging Face's
    DecisionTransformerModel, kzl/decision-transformer, min-decision-transformer, CORL's dt.py, or any other
    of these architectures by a key map. `dtag evaluate RUN` plays it. Nothing in SRC is executed.

    Lists are separated by commas.
    """

    src: tyro.conf.Positional[Path]  # folder of save_pretrained, or a file of weights
    run: tyro.conf.Positional[Path | None] = None  # new folder
    return_scale: float | None = None  # returns-to-go were divided by this; in kzl's gym tasks 1000; needed
    data: str | None = None  # dataset it was trained on: statistics, bounds, environment, references
    env: str | None = None  # Gymnasium id, where there is no --data
    state_mean: str | None = None  # what states were standardised by, S numbers or one; 0 for raw states
    state_std: str | None = None  # likewise; 1 for raw states
    target_returns: str | None = None  # to ask for, e.g. 3600,1800. Default: best return in the data
    context_len: int | None = None  # K, where SRC does not tell it
    n_head: int | None = None  # heads, where SRC does not tell them
    activation: str | None = None  # relu or gelu, where SRC does not tell it
    max_action: float | None = None  # of CORL's: actions are max_action * tanh
    keys: Path | None = None  # JSON file with a key map, for other names; docs/migrate.md
    draft_keys: Path | None = None  # only write a draft of that file, from the names and shapes in SRC


def main(argv: Sequence[str]) -> int:
    """Entry of the verb; returns the exit code, 0."""
    args = tyro.cli(Args, prog="dtag convert", args=list(argv))
    lists = {
        name: numbers(f"--{name.replace('_', '-')}", text, float)
        for name in ("state_mean", "state_std", "target_returns")
        if (text := getattr(args, name)) is not None
    }
    if args.draft_keys is not None:
        return _draft(args)
    if args.run is None or args.return_scale is None:
        raise ValueError("RUN, --return-scale: expected both: a new folder, and what returns were divided by")
    if args.data is None and args.env is None:
        raise ValueError("--data, --env: expected one of them, got neither; they tell what is to be played")
    console = make_console()
    # Imported late: `dtag convert --help` and a mistyped option need no torch.
    from dtag_fast.interop.policies.conversion import convert_policy

    data = None if args.data is None else load_with_progress(console, args.data)
    done = convert_policy(
        args.src,
        args.run,
        return_scale=args.return_scale,
        data=data,
        env_id=args.env,
        context_len=args.context_len,
        n_head=args.n_head,
        activation=args.activation,
        max_action=args.max_action,
        keys=args.keys,
        **lists,
    )
    for line in (summary(done), *(f"note: {note}" for note in done.notes), f"run folder: {done.run}"):
        console.print(line, markup=False, soft_wrap=True)
    return EXIT_DONE


def _draft(args: Args) -> int:
    """`--draft-keys`: a file to complete, and what to do with it."""
    if args.run is not None or args.keys is not None:
        raise ValueError("--draft-keys: it writes a key map alone; leave out RUN and --keys")
    if args.draft_keys.exists():
        raise FileExistsError(f"--draft-keys: {args.draft_keys} exists; name another file")
    from dtag_fast.interop.policies.draft import draft_keys
    from dtag_fast.training.files import write_json

    draft = draft_keys(args.src)
    algorithm, rules = draft.described["algorithm"], len(draft.described["keys"])
    write_json(args.draft_keys, draft.described)
    lines = [
        f"{args.draft_keys}: a key map for {algorithm} with {rules} rules; check it against the code that "
        "made the weights",
        *(f"to decide: {name}: our name, or null to drop it" for name in draft.open),
        *(f"to check: {name}weight: its shape does not tell whether .T is right" for name in draft.guessed),
        f"then: dtag convert {args.src} RUN --keys {args.draft_keys} --return-scale ... --data ...",
    ]
    console = make_console()
    for line in lines:
        console.print(line, markup=False, soft_wrap=True)
    return EXIT_DONE


def summary(done) -> str:
    """What was converted, of a `Converted`."""
    c, info = done.policy.model.config, done.info
    return (
        f"{done.policy.source}: {info.algorithm}, {c.n_layer} blocks, width {c.d_model}, heads {c.n_head}, "
        f"K {c.context_len}, S {c.state_dim}, A {c.action_dim}, {info.env_id or 'no environment named'}"
    )
