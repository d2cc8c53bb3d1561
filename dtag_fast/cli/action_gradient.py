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

    if not text.startswith("clip:"):
        return text
    (limit,) = numbers("--ag-gradient clip", text.removeprefix("clip:"), float)
    return ClipNorm(limit)


def reduction(text: str) -> str | int:
    """ "min", "mean" or the number of a member."""
    return int(text) if text.lstrip("-").isdecimal() else text


def radius(text: str) -> float | None:
    """A number, or "none"."""
    return None if text == "none" else numbers("--ag-radius", text, float)[0]
