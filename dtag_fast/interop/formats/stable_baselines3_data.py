"""The entry "data" in a .zip of Stable-Baselines3: what its JSON says in plain text; pickles stay text."""

from __future__ import annotations

import math
import re
from typing import Any, NamedTuple

import numpy as np

from dtag_fast.untrusted.plain_json import read_json

DATA = "data"

_ACTIVATIONS = {  # the last part of a class's name -> as `plain_layers.activation_layer` takes it
    "ReLU": "relu",
    "LeakyReLU": "leaky_relu",
    "ELU": "elu",
    "GELU": "gelu",
    "SiLU": "silu",
    "Mish": "mish",
    "Tanh": "tanh",
    "Softplus": "softplus",
    "Identity": "identity",
}
_LIBRARIES = ("stable_baselines3.", "sb3_contrib.")
_MOST_DIMENSIONS = 8


class ActionBox(NamedTuple):
    """shape of the action space; low, high: flat, float64."""

    shape: tuple[int, ...]
    low: np.ndarray
    high: np.ndarray


class TrainingData:
    """What a file says of its training, each part checked when it is asked for.

    Args:
        content: the entry's bytes. where: names the file in errors.
    Raises:
        ValueError: no JSON object.
    """

    def __init__(self, content: bytes, where: str):
        self.where = f"{where}: {DATA}"
        values = read_json(content, self.where)
        if not isinstance(values, dict):
            raise ValueError(f"{self.where}: expected a JSON object, got {type(values).__name__}")
        self._values = values

    @property
    def algorithm(self) -> str:
        """By the module of the policy's class: "SAC"; DDPG's is that of TD3."""
        module = self._entry("policy_class").get("__module__")
        if not isinstance(module, str):
            return "a model"
        if not module.startswith(_LIBRARIES):
            raise ValueError(
                f"{self.where}: the policy's class is of the module {module[:80]!r}; what a critic of one's "
                "own computes does not stand in a file. Load the model and give its critic"
            )
        package = module.split(".")[1]
        return "a model" if package == "common" else package.upper()[:40]

    def activation(self, told: str | None) -> str:
        """Its name in `plain_layers.ACTIVATION_NAMES`; ReLU where the model was made without naming one.

        Args:
            told: by the caller, for a file that does not say it.
        Raises:
            ValueError: neither says it, or both and not the same.
        """
        named, reason = self._named_activation()
        if named is None and told is None:
            raise ValueError(f"{self.where}: {reason}")
        if None not in (named, told) and named != told:
            raise ValueError(f"activation: {self.where} has {named}, got {told!r}; leave activation out")
        return named or told

    def _named_activation(self) -> tuple[str | None, str]:
        """What the file says; why that is nothing."""
        if "policy_kwargs" not in self._values:
            return None, (
                "policy_kwargs was left out of the file, which so does not tell the critic's activation; "
                "give activation= (ReLU is the library's default)"
            )
        given = self._entry("policy_kwargs").get("activation_fn")
        if given is None:
            return "relu", ""
        kind = re.fullmatch(r"<class '(?:\w+\.)*(\w+)'>", given) if isinstance(given, str) else None
        return _ACTIVATIONS.get(kind[1] if kind else ""), (
            f"activation_fn: expected one of {', '.join(_ACTIVATIONS)}, got {str(given)[:80]}; name one of "
            "ours with activation=, or load the model and give it in place of its file"
        )

    @property
    def observation_shape(self) -> tuple[int, ...] | None:
        """Of the Box; None where it is not told. Images and other spaces: `expect_vectors`."""
        return self._shape(self._entry("observation_space"), "observation_space")

    @property
    def action_space(self) -> ActionBox | None:
        """None where it is not told."""
        space = self._entry("action_space")
        self._expect_box(space, "actions")
        shape = self._shape(space, "action_space")
        low, high = (self._numbers(space, name, shape) for name in ("low", "high"))
        if shape is None or low is None or high is None:
            return None
        return ActionBox(shape, low, high)

    @property
    def dropped(self) -> int | None:
        """TQC's top_quantiles_to_drop_per_net."""
        dropped = self._values.get("top_quantiles_to_drop_per_net")
        return dropped if isinstance(dropped, int) and not isinstance(dropped, bool) else None

    def expect_vectors(self) -> None:
        """Refuse observations that are not numbers in a Box, and features extractors of one's own."""
        space = self._entry("observation_space")
        self._expect_box(space, "observations")
        shape = self.observation_shape
        if shape is not None and len(shape) == 3 and space.get("dtype") == "uint8":
            raise ValueError(f"{self.where}: expected observations that are vectors, got images {shape}")
        extractor = self._entry("policy_kwargs").get("features_extractor_class")
        if extractor is not None and not str(extractor).endswith(".FlattenExtractor'>"):
            raise ValueError(
                f"{self.where}: a critic with the features extractor {str(extractor)[:80]} is not read; "
                "FlattenExtractor is"
            )

    def _expect_box(self, space: dict[str, Any], what: str) -> None:
        kind = space.get(":type:")
        if kind is not None and not str(kind).endswith(".Box'>"):
            hint = "; train on gymnasium's FlattenObservation" if what == "observations" else ""
            raise ValueError(f"{self.where}: expected {what} of a Box space, got {str(kind)[:80]}{hint}")

    def _entry(self, name: str) -> dict[str, Any]:
        entry = self._values.get(name)
        return entry if isinstance(entry, dict) else {}

    def _shape(self, space: dict[str, Any], name: str) -> tuple[int, ...] | None:
        shape = space.get("_shape")
        if shape is None:
            return None
        whole = isinstance(shape, list) and all(type(n) is int and 0 < n < 1 << 31 for n in shape)
        if not whole or len(shape) > _MOST_DIMENSIONS:
            raise ValueError(f"{self.where}: {name}: expected a shape, got {str(shape)[:80]}")
        return tuple(shape)

    def _numbers(self, space: dict[str, Any], name: str, shape: tuple[int, ...] | None) -> np.ndarray | None:
        """An array that NumPy wrote as text, flat; of one number where all are the same."""
        text = space.get(name)
        if isinstance(text, str) and "..." in text:  # NumPy shortens arrays of more than 1,000 numbers
            text = space.get(f"{name}_repr")
        if text is None or shape is None:
            return None
        try:
            numbers = np.array([float(part) for part in re.sub(r"[\[\],]", " ", str(text)).split()])
        except ValueError:
            numbers = np.empty(0)
        size = math.prod(shape)
        if numbers.size not in (1, size) or not np.isfinite(numbers).all():
            raise ValueError(
                f"{self.where}: action_space: {name}: expected {size} finite numbers, got {str(text)[:80]}"
            )
        return numbers
