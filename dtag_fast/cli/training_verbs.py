"""What `dtag train` and `dtag finetune` share: options, a signal to stop, loggers."""

import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import make_dataclass
from typing import Annotated, Any

import tyro


def parse_options(prog: str, argv: Sequence[str], verb: type, **settings: Any) -> tuple[Any, ...]:
    """The options of a verb and those of settings, in one help text.

    Args:
        prog: name of the command in the help text.
        argv: what was typed after it.
        verb: dataclass of the verb's own options; its docstring heads the help text.
        settings: dataclass instances; their fields are options too, and their values the defaults.
    Returns:
        A `verb`, then each of the settings in the order in which they were given.
    """
    own_names = tyro.conf.arg(name="")  # --d-model, not --algorithm.d-model
    fields = [(name, Annotated[type(value), own_names], value) for name, value in settings.items()]
    every = make_dataclass("Options", [("verb", Annotated[verb, own_names]), *fields])
    every.__doc__ = verb.__doc__
    parsed = tyro.cli(every, prog=prog, args=list(argv))
    return parsed.verb, *(getattr(parsed, name) for name in settings)


@contextmanager
def stop_signal() -> Iterator[threading.Event]:
    """An event that SIGTERM sets instead of ending the process; schedulers send it before they kill."""
    event = threading.Event()
    before = signal.signal(signal.SIGTERM, lambda *_: event.set())
    try:
        yield event
    finally:
        signal.signal(signal.SIGTERM, before)


def loggers_of(tensorboard: bool, wandb: str | None) -> list:
    """Those that the options ask for; wandb: a project of Weights & Biases."""
    from dtag_fast.training.loggers import TensorBoard, WandB

    return [
        *([TensorBoard()] if tensorboard else []),
        *([WandB(wandb)] if wandb is not None else []),
    ]
