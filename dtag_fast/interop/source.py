"""What `load_critic` was given, as every format looks at it, and what the caller says of it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Protocol

from dtag_fast.models.foreign_critic import ForeignCritic, Numbers, Scaling
from dtag_fast.untrusted.archive import names_in, read_file
from dtag_fast.untrusted.torch_file import load_plain


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a file may not say; None: as the file says or its library does by default."""

    action_dim: int | None = None  # A, where widths alone do not tell S from A
    activation: str | None = None  # one of `plain_layers.ACTIVATION_NAMES`
    norm: Literal["before", "after"] | None = None  # LayerNorm before or after the activation
    state_mean: Numbers | float | None = None  # (S,) that were subtracted from states in training
    state_std: Numbers | float | None = None  # (S,) that states were divided by after that
    action_low: Numbers | None = None  # (A,) bounds of the environment's actions
    action_high: Numbers | None = None
    target: bool = False  # the target network in place of the trained one
    quantiles: Literal["mean", "truncated"] = "mean"  # of a distribution, see `load_critic`
    reward_units: Literal["trained", "raw"] = "trained"  # of Q, see `load_critic`

    def scaling(self, **learned) -> Scaling:
        """The library's own scaling (fields of `Scaling`), unless the caller names that of the states."""
        if self.state_mean is not None:
            learned |= {"state_shift": self.state_mean, "state_scale": self.state_std}
        return Scaling(**learned)


class CriticFile:
    """A file, read as far as a format asks for.

    Attributes:
        path: of it.
    """

    def __init__(self, path: Path):
        if not path.is_file():
            raise FileNotFoundError(f"{path}: expected a file that holds a critic, there is {_instead(path)}")
        self.path = path

    @cached_property
    def content(self) -> bytes:
        return read_file(self.path, "a file that holds a critic")

    @cached_property
    def entries(self) -> frozenset[str]:
        """Names of the entries of a zip file; none of any other file."""
        return names_in(self.content)

    @cached_property
    def plain(self) -> Any:
        """What `torch.save` or `pickle.dump` put into it; ValueError where it is not such a file."""
        return load_plain(self.path, self.content)


def _instead(path: Path) -> str:
    """What is found where no file is, and what may have been meant."""
    if path.is_dir():
        return (
            "a folder; critics in run folders of dtag_fast are loaded by dtag_fast.training.load_critic, "
            "those of other libraries are named by their file"
        )
    zipped = path.with_name(f"{path.name}.zip")  # Stable-Baselines3's save and load add it
    return f"no file, but {zipped.name}" if zipped.is_file() else "no file"


class Format(Protocol):
    """A module of `dtag_fast.interop.formats`. It imports the foreign library nowhere: objects are known by
    the names of their classes, files by what is in them."""

    NAME: str  # as `load_critic(format=...)` takes it: "stable-baselines3"
    TAKES: frozenset[str]  # of activation, norm, quantiles and reward_units those that are of use
    WHAT: str  # what it takes, for a list in an error: "a .zip of SAC, TD3, DDPG or TQC, or such a model"

    def takes_object(self, source: Any) -> bool: ...

    def from_object(self, source: Any, options: Options) -> ForeignCritic: ...

    def takes_file(self, file: CriticFile) -> bool: ...

    def from_file(self, file: CriticFile, options: Options) -> ForeignCritic: ...


def class_names(source: Any) -> set[str]:
    """Full names of the classes of an object and of those they derive from: "torch.nn.modules...Module"."""
    return {f"{kind.__module__}.{kind.__qualname__}" for kind in type(source).__mro__}
