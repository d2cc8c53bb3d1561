"""The words in which `dtag` takes options of Action Gradient."""

from typing import Any

from dtag_fast.cli.terminal import numbers


def optimizers(text: str, momentum: float) -> list[Any]:
    """ "sgd,adam" as `refine` takes them; momentum goes to sgd."""
    from dtag_fast.ops.refine.options import SGD

    return [SGD(momentum=momentum) if momentum and name == "sgd" else name for name in text.split(",")]


def gradient(text: str) -> Any:
    """ "raw", "unit" or "clip:C"."""
    from dtag_fast.ops.refine.options import ClipNorm

    if text in ("raw", "unit"):
        return text
    if not text.startswith("clip:"):
        raise ValueError(f"--ag-gradient: expected raw, unit or clip:C, got {text!r}")
    (limit,) = numbers("--ag-gradient clip", text.removeprefix("clip:"), float)
    return ClipNorm(limit)


def reduction(text: str) -> str | int:
    """ "min", "mean" or the number of a member."""
    return int(text) if text.lstrip("-").isdecimal() else text


def radius(text: str) -> float | None:
    """A number, or "none"."""
    return None if text == "none" else numbers("--ag-radius", text, float)[0]


def behaviours(text: str, steps: list[int], has_critic: bool) -> list[Any]:
    """ "0.4" or "0.4:1", or several with commas: the Behaviours of these weights and radii.

    Raises:
        ValueError: it is not understood, there is no critic, or no number above 0 among --ag-steps.
    """
    from dtag_fast.rollout.settings import Behaviour

    if not has_critic:
        raise ValueError("--ag-behaviour: expected together with --critic")
    if not any(steps):
        given = ",".join(map(str, steps))
        raise ValueError(f"--ag-behaviour: expected a number above 0 in --ag-steps beside it, got {given}")
    found = []
    for part in text.split(","):
        values = [numbers("--ag-behaviour", value, float)[0] for value in part.split(":")]
        if len(values) > 2:
            raise ValueError(f"--ag-behaviour: expected WEIGHT or WEIGHT:RADIUS, got {part!r}")
        found.append(Behaviour(*values))
    return found
