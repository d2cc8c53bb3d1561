"""`load_critic`: whose critic it is, and what reads it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib import import_module
from numbers import Integral
from pathlib import Path
from typing import Any, Literal

import torch

from dtag_fast.interop.source import CriticFile, Format, Options
from dtag_fast.models.foreign_critic import ForeignCritic, Numbers, finite_numbers
from dtag_fast.training.devices import find_device
from dtag_fast.untrusted.torch_file import is_state_dict

# Formats that know theirs by a mark come before those that look for layers.
FORMATS = ("stable_baselines3", "d3rlpy", "torchrl", "corl", "cleanrl", "ensembles", "parameter_trees")
_UNTOLD = Options()


def load_critic(
    source: Any,
    *,
    format: str | None = None,
    device: str | torch.device = "cpu",
    action_dim: int | None = None,
    activation: str | None = None,
    norm: Literal["before", "after"] | None = None,
    state_mean: Numbers | float | None = None,
    state_std: Numbers | float | None = None,
    action_low: Numbers | None = None,
    action_high: Numbers | None = None,
    target: bool = False,
    quantiles: Literal["mean", "truncated"] = "mean",
    reward_units: Literal["trained", "raw"] = "trained",
) -> ForeignCritic:
    """A critic that another library trained, as a module of raw states and actions for `dtag_fast.refine`.

    Nothing in a file is executed: weights and plain values are read, all else is refused. The library need
    not be installed for files.

    Args:
        source: a path, or an object of the library that is in memory. docs/interop/README.md has the list.
        format: its name in that list where it is not recognised; None: looked for.
        device: where the critic goes.
        action_dim: A; needed where a file has the width S + A alone.
        activation: between layers where a file does not say it: relu, leaky_relu, elu, gelu, gelu_tanh, silu,
            mish, tanh, softplus or identity, with PyTorch's parameters.
        norm: where a LayerNorm stands, "before" or "after" the activation, where a file does not say it.
        state_mean, state_std: both or none; (S,), or a number for all dimensions: what states were
            standardised by in training, (s - mean) / std, where the file does not hold it. CORL's scripts do
            that outside of the critic and need both, or 0 and 1.
        action_low, action_high: (A,) bounds of the environment's actions; they replace those of the source.
        target: the target critic in place of the trained one.
        quantiles: how a distribution becomes Q: "mean" of all quantiles of each member, or "truncated", the
            mean of what TQC's own target keeps, over all members at once (not for the compiled backends).
        reward_units: Q as the library gives it, "trained", in units of the rewards it trained on; or "raw":
            divided by the factor of d3rlpy's reward scaler, so that `lr` means the same as for a critic of
            the environment's rewards. What a scaler adds to each reward or clips stays as it is.
    Returns:
        The critic: eval mode, float32, without gradients. `refine` reduces its members.
    Raises:
        FileNotFoundError: there is no such file. ValueError: nothing here knows such a source, or what it
        holds does not fit; TypeError: an object of a class that no format takes.
    """
    options = Options(
        action_dim=action_dim,
        activation=activation,
        norm=norm,
        state_mean=state_mean,
        state_std=state_std,
        action_low=action_low,
        action_high=action_high,
        target=target,
        quantiles=quantiles,
        reward_units=reward_units,
    )
    if reward_units not in ("trained", "raw"):
        raise ValueError(f"reward_units: expected trained or raw, got {reward_units!r}")
    if quantiles not in ("mean", "truncated"):
        raise ValueError(f"quantiles: expected mean or truncated, got {quantiles!r}")
    if norm not in (None, "before", "after"):
        raise ValueError(f"norm: expected before or after, got {norm!r}")
    if action_dim is not None and (isinstance(action_dim, bool) or not isinstance(action_dim, Integral)):
        raise ValueError(f"action_dim: expected a whole number, got {action_dim!r}")
    _check_statistics(state_mean, state_std)
    device, formats = find_device(str(device)), _formats(format)
    if isinstance(source, str | os.PathLike):
        file = CriticFile(Path(source))
        found = _first(formats, "file", file, str(file.path))
        _expect_of_use(found, options)
        critic = found.from_file(file, options)
    else:
        found = _first(formats, "object", source, f"an object of class {type(source).__name__}")
        _expect_of_use(found, options)
        critic = found.from_object(source, options)
    return _bounded(critic, options).to(device)


def _check_statistics(mean: Numbers | float | None, std: Numbers | float | None) -> None:
    if (mean is None) != (std is None):
        raise ValueError("state_mean, state_std: expected both or none; 0 and 1 leave states as they are")
    if std is not None and not (torch.as_tensor(std) > 0).all():
        raise ValueError(f"state_std: expected numbers above 0, got {torch.as_tensor(std).tolist()}")


def format_of(path: Path) -> str | None:
    """The name of the format that would take a file, if one does."""
    file = CriticFile(path)
    return next((candidate.NAME for candidate in _formats(None) if candidate.takes_file(file)), None)


def _formats(name: str | None) -> list[Format]:
    """All formats, or the one that is named."""
    modules = [import_module(f"dtag_fast.interop.formats.{module}") for module in FORMATS]
    if name is None:
        return modules
    named = [module for module in modules if name == module.NAME]
    if not named:
        known = ", ".join(module.NAME for module in modules)
        raise ValueError(f"format: expected one of {known}, got {name!r}")
    return named


def _first(formats: list[Format], kind: Literal["file", "object"], source: Any, shown: str) -> Format:
    for candidate in formats:
        takes = candidate.takes_file if kind == "file" else candidate.takes_object
        if takes(source):
            return candidate
    if kind == "file":
        _refuse_half_known(source, shown, named=len(formats) == 1)
    error = ValueError if kind == "file" else TypeError
    taken = "; ".join(f"{candidate.NAME}: {candidate.WHAT}" for candidate in formats)
    raise error(f"{shown}: not a critic that can be read here; what can: {taken}")


def _expect_of_use(found: Format, options: Options) -> None:
    """Refuse an option that would change nothing."""
    for name in ("activation", "norm", "quantiles", "reward_units"):
        if getattr(options, name) == getattr(_UNTOLD, name) or name in found.TAKES:
            continue
        if name == "reward_units":
            raise ValueError(
                f"reward_units: {found.NAME} does not say how rewards were scaled; leave it out, and divide "
                "lr by their factor where you know it"
            )
        raise ValueError(f"{name}: sources of {found.NAME} say it or have none; leave {name} out")


def _refuse_half_known(file: CriticFile, shown: str, named: bool) -> None:
    """Say what is wrong with a file of a known kind that no format takes."""
    if file.content[:4] == b"PK\x03\x04" and not file.entries:
        raise ValueError(f"{shown}: a zip archive that is damaged or cut off; copy or save it again")
    if _of_torch(file) and _holds_state_dicts(file.plain) and not named:
        raise ValueError(
            f"{shown}: not a critic that can be read here: a state dict does not say what its module "
            "computes, and these names are of no library that is known; load it into the module and give "
            "`refine` that, or load_critic(module, action_dim=...)"
        )


def _holds_state_dicts(plain: Any) -> bool:
    """Whether it is a state dict, or several under names or in a row."""
    parts = list(plain.values()) if isinstance(plain, Mapping) else plain
    return is_state_dict(plain) or (isinstance(parts, list | tuple) and any(map(is_state_dict, parts)))


def _of_torch(file: CriticFile) -> bool:
    """Whether it looks like a file of torch.save, or is a pickle."""
    if file.entries:
        return any(name.endswith("/data.pkl") for name in file.entries)
    return file.content[:1] == b"\x80"


def _bounded(critic: ForeignCritic, options: Options) -> ForeignCritic:
    """The bounds that the caller names in place of the source's."""
    named = (options.action_low, options.action_high)
    if (named[0] is None) != (named[1] is None):
        raise ValueError("action_low, action_high: expected both or none")
    if named[0] is not None:
        names = ("action_low", "action_high")
        low, high = (
            finite_numbers(critic.action_dim, x, name).numpy() for x, name in zip(named, names, strict=True)
        )
        if not (low < high).all():
            raise ValueError(
                f"action_low: expected below action_high, got {low.tolist()} and {high.tolist()}"
            )
        critic.bounds = low, high
    return critic
