"""What `dtag train` and `dtag finetune` share: options, a signal to stop, loggers, evaluation on the way."""

import signal
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import make_dataclass
from pathlib import Path
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


def evaluation_scores(checkpoint: Path, device: str, options: dict[str, Any]) -> dict[str, float]:
    """Scores of a checkpoint for the log, by target return and Action Gradient setting where there are any.

    Episodes that their environments did not let finish are warned of and counted as failed_episodes; the
    training goes on.

    Args:
        options: of `rollout.evaluate`; Action Gradient climbs the checkpoint's own critic.
    """
    from dtag_fast.rollout import evaluate
    from dtag_fast.rollout.results import EpisodesFailed
    from dtag_fast.training.checkpoint import load_critic, load_policy

    refined = any(setting.steps for setting in options.get("settings", ()))
    critic = load_critic(checkpoint, device) if refined else None
    try:
        result = evaluate(load_policy(checkpoint, device), critic=critic, **options)
    except EpisodesFailed as error:
        result = error.result
    scores: dict[str, float] = {}
    if result.failures:
        scores["failed_episodes"] = float(len(result.failures))
        warnings.warn(
            f"evaluation at step {checkpoint.name}: {EpisodesFailed(result)}; the scores are over the others",
            RuntimeWarning,
            stacklevel=2,
        )
    for setting in result.settings:
        if setting.mean is None:
            continue
        target = [] if setting.target_return is None else [f"{setting.target_return:g}"]
        refined_by = [setting.setting.label] if setting.setting.steps else []
        prefix = "".join(f"{part}/" for part in [*target, *refined_by])
        scores[f"{prefix}return_mean"] = setting.mean
        scores[f"{prefix}return_std"] = setting.std
        if setting.normalized is not None:
            scores[f"{prefix}normalized_score"] = setting.normalized.mean
    return scores
