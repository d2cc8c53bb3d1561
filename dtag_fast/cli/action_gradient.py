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


def behaviours(text: str) -> list[Any]:
    """ "0.4" or "0.4:1", or several with commas: the Behaviours of these weights and radii."""
    from dtag_fast.rollout.settings import Behaviour

    found = []
    for part in text.split(","):
        values = [numbers("--ag-behaviour", value, float)[0] for value in part.split(":")]
        if len(values) > 2:
            raise ValueError(f"--ag-behaviour: expected WEIGHT or WEIGHT:RADIUS, got {part!r}")
        found.append(Behaviour(*values))
    return found


def regularised(text: str, settings: list[Any]) -> list[Any]:
    """The AGSettings of these behaviours, with every number of steps above 0 among `settings`.

    Raises:
        ValueError: there is none, or the text is not understood.
    """
    from dtag_fast.rollout.settings import AGSetting

    refined = [s for s in settings if not s.is_plain]
    if not refined:
        raise ValueError("--ag-behaviour: expected a number above 0 in --ag-steps beside it, got 0")
    steps = sorted({s.steps for s in refined})
    shared = {"reduce": refined[0].reduce, "select": refined[0].select}
    return [AGSetting(n, behaviour=behaviour, **shared) for behaviour in behaviours(text) for n in steps]
