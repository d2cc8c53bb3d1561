"""Action Gradient settings of an evaluation."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from itertools import product
from typing import Any

from dtag_fast.models.behaviour import Behaviour
from dtag_fast.ops.refine.options import (
    Variant,
    parse_gradient,
    parse_optimizer,
    parse_reduce,
    parse_select,
)


def expect_whole(name: str, value: Any, least: int) -> None:
    """Refuse an argument that is no whole number of at least `least`, with a ValueError that names it."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name}: expected a whole number of at least {least}, got {value!r}")


@dataclass(frozen=True)
class AGSetting:
    """One way to refine the policy's actions; `steps=0` with one start is the plain policy.

    Args: those of `dtag_fast.refine`.
        steps: n >= 0.
        lr: >= 0, in units of action per unit of gradient; what is right depends on the critic's reward scale.
        optimizer, reduce, gradient, radius, select: as in `refine`.
        behaviour: regularise by what the data do, in place of lr, optimizer, gradient and radius; needs the
            critic's `BehaviourModel`.
        starts: M >= 1: begin at the policy's own action and at M - 1 draws from its distribution at this
            step, and execute the end of the greatest Q, with a behaviour of the greatest F. As candidates of
            `refine` have, each start has a ball of its own. With `steps=0` it is the best of the M. For
            policies with a distribution, see `rollout.starts`.
        spread: >= 0, of the draws, in deviations of the policy's distribution; without meaning for one start.

    Raises:
        ValueError, TypeError: naming the argument.
    """

    steps: int = 0
    lr: float = 0.03
    optimizer: Any = "sgd"
    reduce: str | int = "min"
    gradient: Any = "raw"
    radius: Any = None
    select: str = "best"
    behaviour: Behaviour | None = None
    # later: pieces of `dtag reproduce` with one start keep the names they had without this field
    starts: int = 1
    spread: float = 1.0

    def __post_init__(self) -> None:
        expect_whole("steps", self.steps, 0)
        expect_whole("starts", self.starts, 1)
        for name in ("lr", "spread"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
                raise ValueError(f"{name}: expected a finite number of at least 0, got {value!r}")
        parse_optimizer(self.optimizer), parse_reduce(self.reduce), parse_gradient(self.gradient)
        parse_select(self.select)
        Variant(radius=self.radius)
        if self.behaviour is None:
            return
        if not isinstance(self.behaviour, Behaviour):
            raise TypeError(f"behaviour: expected Behaviour(...) or None, got {self.behaviour!r}")
        for name in ("lr", "optimizer", "gradient", "radius"):
            if getattr(self, name) != getattr(AGSetting, name):
                raise ValueError(
                    f"behaviour: stands in place of lr, optimizer, gradient and radius; leave {name} out"
                )

    @property
    def is_plain(self) -> bool:
        return self.steps == 0 and self.starts == 1

    @property
    def essence(self) -> "AGSetting":
        """This setting without the options that change nothing where no step is made, or with one start."""
        if self.starts == 1:
            return AGSetting() if self.steps == 0 else replace(self, spread=1.0)
        if self.steps > 0:
            return self
        return AGSetting(reduce=self.reduce, behaviour=self.behaviour, starts=self.starts, spread=self.spread)

    @property
    def step_label(self) -> str:
        """Its steps in a label: "n=10 lr=0.03", with a behaviour its numbers."""
        if self.behaviour is not None:
            b = self.behaviour
            return f"n={self.steps} behaviour weight={b.weight:g} radius={b.radius:g}"
        return f"n={self.steps} lr={self.lr:g}" if self.steps else "n=0"

    @property
    def label(self) -> str:
        """Short name for tables: "plain policy", "AG n=10 lr=0.03", further options where not the default."""
        if self.is_plain:
            return "plain policy"
        essence = self.essence
        options = essence.options() | {"starts": essence.starts, "spread": essence.spread}
        extras = [f"{name}={value}" for name, value in options.items() if value != getattr(AGSetting, name)]
        return " ".join([f"AG {self.step_label}", *extras])

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and strings; an option that is an object becomes its name and fields."""
        return {
            field.name: {"name": type(value).__name__, **asdict(value)} if is_dataclass(value) else value
            for field in fields(self)
            for value in [getattr(self, field.name)]
        }

    def options(self) -> dict[str, Any]:
        """The fields that a `Variant` of `refine` has too."""
        return {k: getattr(self, k) for k in ("optimizer", "reduce", "gradient", "radius", "select")}

    def variant(self, action_dim: int) -> Variant:
        """What rows of one call of `refine` under this setting share beside numbers."""
        if self.behaviour is None:
            return Variant(**self.options())
        own = self.behaviour.options(self.steps, action_dim)
        shape = {name: own[name] for name in ("gradient", "radius")}
        return Variant(reduce=self.reduce, select=self.select, **shape)

    def step_size(self, action_dim: int) -> float:
        """lr of `refine`: in deviations of the data's actions where the setting has a behaviour."""
        if self.behaviour is None:
            return self.lr
        return self.behaviour.options(self.steps, action_dim)["lr"]


def is_plain_record(setting: Mapping[str, Any]) -> bool:
    """Whether `AGSetting.to_dict`, or a row of a sweep's table, tells of the plain policy; in older files a
    setting has one start and does not say so."""
    return setting["steps"] == 0 and setting.get("starts", 1) == 1


def grid(
    steps: Sequence[int] = (0,),
    lr: Sequence[float] = (0.03,),
    optimizer: Sequence[Any] = ("sgd",),
    behaviour: Sequence[Behaviour] = (),
    starts: Sequence[int] = (1,),
    spread: Sequence[float] = (1.0,),
    **options: Any,
) -> list[AGSetting]:
    """All combinations of steps, lr, optimizer, starts and spread, and then of steps, behaviour, starts and
    spread, each once: those of one start with steps=0 are one and the same plain policy.

    Args:
        lr: may be empty, for a grid of regularised settings alone.
        behaviour: stands in place of lr and optimizer, and of gradient and radius among the options.
        options: further fields of AGSetting, the same in all.

    Raises:
        ValueError, TypeError: as `AGSetting`.
    """
    if isinstance(behaviour, Behaviour):
        raise TypeError(f"behaviour: expected a sequence of Behaviour(...), got {behaviour!r}; give [it]")
    shared = {name: value for name, value in options.items() if name in ("reduce", "select")}
    settings = [
        AGSetting(n, rate, chosen, **options, starts=m, spread=width)
        for n, rate, chosen, m, width in product(steps, lr, optimizer, starts, spread)
    ]
    settings += [
        AGSetting(n, behaviour=chosen, **shared, starts=m, spread=width)
        for chosen, n, m, width in product(behaviour, steps, starts, spread)
    ]
    return list(dict.fromkeys(setting.essence for setting in settings))
