"""Checks that the configs of several algorithms make, each naming the setting that is wrong."""

from __future__ import annotations

from typing import Any


def positive_integers(config: Any, *names: str) -> None:
    """Refuse settings that are not whole numbers of at least 1, with a ValueError."""
    for name in names:
        value = getattr(config, name)
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"{name}: expected a positive integer, got {value!r}")


def positive(config: Any, *names: str) -> None:
    """Refuse settings that are not above 0, with a ValueError."""
    for name in names:
        if not getattr(config, name) > 0:
            raise ValueError(f"{name}: expected a positive number, got {getattr(config, name)}")


def from_0_to_1(config: Any, *names: str) -> None:
    """Refuse settings outside [0, 1], with a ValueError."""
    for name in names:
        if not 0 <= getattr(config, name) <= 1:
            raise ValueError(f"{name}: expected a number in [0, 1], got {getattr(config, name)}")


def above_0_to_1(config: Any, *names: str) -> None:
    """Refuse settings outside (0, 1], with a ValueError."""
    for name in names:
        if not 0 < getattr(config, name) <= 1:
            raise ValueError(f"{name}: expected a number in (0, 1], got {getattr(config, name)}")


def between_0_and_1(config: Any, *names: str) -> None:
    """Refuse settings outside (0, 1), with a ValueError."""
    for name in names:
        if not 0 < getattr(config, name) < 1:
            raise ValueError(f"{name}: expected a number between 0 and 1, got {getattr(config, name)}")


def at_least_zero(config: Any, *names: str) -> None:
    """Refuse settings below 0, with a ValueError."""
    for name in names:
        if not getattr(config, name) >= 0:
            raise ValueError(f"{name}: expected a number of at least 0, got {getattr(config, name)}")
