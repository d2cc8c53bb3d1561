"""The cells of a sweep: a checkpoint, a return to ask for, and one way to refine the policy's actions."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from dtag_fast.ops.refine.options import (
    SGD,
    Adam,
    ClipNorm,
    RMSprop,
    parse_optimizer,
    parse_radius,
)
from dtag_fast.rollout.settings import AGSetting, Behaviour, grid

_NAMES = {SGD(): "sgd", Adam(): "adam", RMSprop(): "rmsprop"}
# columns of a table that say what a setting is, its label aside
SETTING_COLUMNS = ("steps", "lr", "optimizer", "reduce", "gradient", "radius", "radius_norm", "select")
SETTING_COLUMNS += ("starts", "spread", "behaviour_weight", "behaviour_radius")


@dataclass(frozen=True)
class Cell:
    """What is played over E episodes.

    Args:
        checkpoint_step: of the policy.
        target_return: to ask for, in the environment's units; None for a policy that takes none.
        setting: steps=0 with one start is the plain policy.
    """

    checkpoint_step: int
    target_return: float | None
    setting: AGSetting

    @property
    def key(self) -> tuple:
        """What a row of the table says of its cell; two cells are the same where their keys are."""
        return (self.checkpoint_step, self.target_return, *setting_columns(self.setting).values())

    @property
    def baseline(self) -> "Cell":
        """The plain policy of the same checkpoint and target."""
        return Cell(self.checkpoint_step, self.target_return, AGSetting())

    @property
    def label(self) -> str:
        """For tables: the setting, and the target where there is one."""
        target = "" if self.target_return is None else f" target={self.target_return:g}"
        return setting_columns(self.setting)["setting"] + target


def setting_columns(setting: AGSetting) -> dict[str, Any]:
    """The columns of a table that name a setting: numbers, strings and None; equal settings give equal ones.

    `optimizer`: "sgd", "adam", "rmsprop", or the form with its options. `gradient`: "raw", "unit", "clip:C".
    `reduce`: "min", "mean" or the member's number as a string. `radius` and `radius_norm` ("inf", "l2") are
    None without a limit. `starts` and `spread` are numbers, 1 where there is one start. A regularised setting
    has None for `lr`, `optimizer`, `gradient`, `radius` and `radius_norm`; it has `behaviour_weight` and
    `behaviour_radius`, None for every other. `setting` is the label made of them.
    """
    setting = setting.essence
    columns = {"steps": setting.steps, "reduce": str(setting.reduce), "select": setting.select}
    columns |= {"starts": setting.starts, "spread": float(setting.spread)}
    columns |= _raw_columns(setting) if setting.behaviour is None else _regularised_columns(setting)
    return {name: columns.get(name) for name in SETTING_COLUMNS} | {"setting": _label(setting, columns)}


def _raw_columns(setting: AGSetting) -> dict[str, Any]:
    """Those of the fields that a behaviour stands in place of."""
    optimizer, radius = parse_optimizer(setting.optimizer), parse_radius(setting.radius)
    gradient = setting.gradient
    return {
        "lr": float(setting.lr),
        "optimizer": _NAMES.get(optimizer, str(optimizer)),
        "gradient": f"clip:{gradient.limit:g}" if isinstance(gradient, ClipNorm) else gradient,
        "radius": radius and radius.limit,
        "radius_norm": radius and radius.norm,
    }


def _regularised_columns(setting: AGSetting) -> dict[str, float]:
    behaviour = setting.behaviour
    return {"behaviour_weight": float(behaviour.weight), "behaviour_radius": float(behaviour.radius)}


def _label(setting: AGSetting, columns: Mapping[str, Any]) -> str:
    if setting.is_plain:
        return setting.label
    usual = {"optimizer": "sgd", "reduce": "min", "gradient": "raw", "radius": None, "select": "best"}
    extras = [f"{name}={columns[name]}" for name, value in usual.items() if columns.get(name, value) != value]
    if columns.get("radius_norm") == "l2":
        extras.append("norm=l2")
    if setting.starts > 1:
        extras.append(f"starts={setting.starts}")
    if columns["spread"] != 1:
        extras.append(f"spread={setting.spread:g}")
    return " ".join([f"AG {setting.step_label}", *extras])


def settings_grid(
    steps: Sequence[int] = (0,),
    lr: Sequence[float] = (0.03,),
    optimizer: Sequence[Any] = ("sgd",),
    reduce: Sequence[str | int] = ("min",),
    gradient: Sequence[Any] = ("raw",),
    radius: Sequence[Any] = (None,),
    select: Sequence[str] = ("best",),
    behaviour: Sequence[Behaviour] = (),
    starts: Sequence[int] = (1,),
    spread: Sequence[float] = (1.0,),
) -> list[AGSetting]:
    """All combinations of the fields of AGSetting, each once; steps=0 with one start is one and the same
    plain policy.

    A behaviour stands in place of lr, optimizer, gradient and radius, so these make no combinations with it:
    the raw settings come first, the regularised ones after them. With `lr=()` there are no raw ones.
    """
    names = ("reduce", "gradient", "radius", "select")
    found = [
        setting
        for values in product(reduce, gradient, radius, select)
        for setting in grid(
            steps, lr, optimizer, behaviour, starts, spread, **dict(zip(names, values, strict=True))
        )
    ]
    return unique_settings(sorted(found, key=lambda setting: setting.behaviour is not None))


def unique_settings(settings: Iterable[AGSetting]) -> list[AGSetting]:
    """`settings` without those that mean what an earlier one does and, where no step is made, without the
    options that change nothing then."""
    found = {tuple(setting_columns(s).values()): s for s in reversed(list(settings))}
    return [s.essence for s in reversed(found.values())]


def make_cells(
    checkpoint_steps: Sequence[int], targets: Sequence[float | None], settings: Sequence[AGSetting]
) -> tuple[list[Cell], bool]:
    """Every setting under every target and checkpoint, the plain policy first if it was not among them.

    Returns:
        The cells, and whether the plain policy was added.
    """
    settings = unique_settings(settings)
    added = not any(setting.is_plain for setting in settings)
    if added:
        settings = [AGSetting(), *settings]
    targets = list(dict.fromkeys(targets))
    return [Cell(*parts) for parts in product(checkpoint_steps, targets, settings)], added
