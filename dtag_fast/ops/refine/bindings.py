"""The executors of one Refiner, by what a call brings; made once, their numbers those of the critic now."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from dtag_fast.ops.watch import structure_of

from . import options
from .binding import Binding, Critic, Lowering
from .cache import WeakCache
from .clean_thread import in_clean_thread
from .options import RefineOptions
from .streams import streams_of

_lowerings = WeakCache()  # of all Refiners of a critic
_warned = WeakCache()


class Bindings:
    """Executors of a critic under one set of options, by dimensions, device and the critic's modes.

    Args:
        critic: whose. given: options as they were parsed, still without bounds. bounds: as `refine` takes
            them. lock: held while anything is packed or traced. settings: the other ones of `Binding`.
    """

    def __init__(
        self, critic: Critic, given: RefineOptions, bounds: Any, lock: threading.RLock, **settings: Any
    ) -> None:
        self._critic, self._options, self._bounds = critic, given, bounds
        self._lock, self._settings = lock, settings
        self._made: dict[tuple, Binding] = {}

    def of(self, state_dim: int, action_dim: int, device: torch.device) -> Binding:
        """The executor for these dimensions with the critic's present numbers."""
        key = (state_dim, action_dim, device, self._critic.modes())
        binding = self._made.get(key)
        if binding is not None and (binding.watch is None or not binding.watch.changed()):
            return binding
        with self._lock:
            binding = self._made.get(key)
            if binding is None:
                binding = self._made[key] = self._bind(*key)
            elif binding.watch is not None and binding.watch.changed():
                binding.update()
        return binding

    def __iter__(self) -> Iterator[Binding]:
        """Those made so far, with whatever numbers they were packed."""
        return iter(tuple(self._made.values()))

    def refresh(self) -> bool:
        """Read the critic's numbers again, whatever their versions say; whether its layers are others than
        were traced, so that all begins anew. The lock is the caller's to hold."""
        parts = self._critic.parts()
        structure = () if self._critic.is_program else structure_of(parts)
        if any(binding.lowering.structure != structure for binding in self._made.values()):
            _lowerings.drop(parts)
            self._made.clear()
            return True
        for binding in self._made.values():
            binding.update()
        return False

    def modes_of(self, binding: Binding) -> tuple[bool, ...] | None:
        """The critic's modes that an executor is for; None where it is one of before a `refresh`."""
        return next((key[-1] for key, other in self._made.items() if other is binding), None)

    def _bind(
        self, state_dim: int, action_dim: int, device: torch.device, modes: tuple[bool, ...]
    ) -> Binding:
        streams_of(device).refuse_capture(
            "the critic is prepared for the first time: call the Refiner with this batch before"
        )
        parts = self._critic.parts()
        key = (state_dim, action_dim, device, modes)
        lowering = _lowerings.get(parts, key)
        if lowering is None:
            lowering = in_clean_thread(lambda: Lowering(self._critic, state_dim, action_dim))
            _lowerings.put(parts, key, lowering)
        bounds = options.parse_bounds(self._bounds, action_dim)
        low, high = (None, None) if bounds is None else (b.astype(np.float32) for b in bounds)
        limited = replace(self._options, low=low, high=high)
        binding = Binding(self._critic, lowering, limited, device, **self._settings)
        binding.bounds = bounds
        asked = self._settings["wanted"] is not None
        if binding.choice.backend == "torch" and not asked and _warned.get(parts, "slow") is None:
            _warned.put(parts, "slow", True)
            warnings.warn(
                "refine: this critic runs on the slow autograd reference, because "
                f"{binding.choice.slow_reason}",
                RuntimeWarning,
                stacklevel=7,
            )
        return binding
