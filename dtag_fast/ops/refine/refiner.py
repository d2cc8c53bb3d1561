"""Refiner: the prepared form of `refine`. Weights packed once, re-packed when they change."""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.compiler import is_compiling

from dtag_fast.ops.watch import structure_of

from . import inputs, options
from .backends import BACKENDS, PRECISIONS
from .binding import Binding, Critic, Lowering, tensors_of
from .cache import WeakCache
from .clean_thread import in_clean_thread
from .compiled import call_operator, register
from .device_copies import DeviceCopies
from .executor import PreparedCall
from .info import allocate, to_info
from .program import CriticProgram
from .streams import streams_of


class DefaultBounds(NamedTuple):
    """Bounds nobody asked for: the convention of DT code and D4RL."""

    low: float = -1.0
    high: float = 1.0


DEFAULT_BOUNDS = DefaultBounds()

_lowerings = WeakCache()
_warned = WeakCache()


class Refiner:
    """A critic prepared for many calls: `refiner(states, actions, out=None)`.

    Args: those of `refine`. `steps` and `lr` given per row fix the batch size. A Refiner keeps its critic
    alive.
        batch_invariant: on a CPU, take the same kernel for batches of all sizes, so that the bits of a row do
            not depend on how many others there are; otherwise a few rows have a kernel of their own, which
            is faster and rounds differently. No other backend promises this: it changes nothing there.

    Weights are packed at the first call, and again when a parameter's version changed or a parameter was
    replaced. Call `refresh()` after changes that show neither: writes through `.data`, CUDA graph replays,
    changes of the module's structure.

    Safe to call from several threads and, on a GPU, streams: what one of them packs, the others wait for,
    without holding up the host. States, actions and the critic's own tensors are the caller's to order, as in
    any call of torch; so is the replay of a CUDA graph that captured a call. Such a graph uses the Refiner's
    memory: call once with that batch before the capture, keep the Refiner as long as the graph, and call
    `refresh()` after training, which the graph then sees.
    """

    def __init__(
        self,
        critic: nn.Module | Sequence[nn.Module] | CriticProgram,
        *,
        steps: int | Tensor = 10,
        lr: float | Tensor = 0.03,
        optimizer: Any = "sgd",
        bounds: Any = DEFAULT_BOUNDS,
        reduce: str | int = "min",
        gradient: Any = "raw",
        radius: Any = None,
        select: str = "best",
        precision: str | None = None,
        backend: str | None = None,
        return_info: bool | str = False,
        batch_invariant: bool = False,
    ) -> None:
        settings = {
            "steps": steps,
            "lr": lr,
            "optimizer": optimizer,
            "bounds": bounds,
            "reduce": reduce,
            "gradient": gradient,
            "radius": radius,
            "select": select,
            "precision": precision,
            "backend": backend,
            "return_info": return_info,
            "batch_invariant": batch_invariant,
        }
        self._made_from = critic, settings
        self._setup(Critic(critic, weak=False), **settings)

    def __reduce__(self):
        """Copies and pickles are prepared anew: packed weights and locks stay here."""
        return _rebuild, self._made_from

    @classmethod
    def _weak(cls, critic: Critic, **settings: Any) -> Refiner:
        """A Refiner for a cache: the critic it is given may be a weak one."""
        refiner = cls.__new__(cls)
        refiner._setup(critic, **settings)
        return refiner

    def _setup(
        self, critic, *, steps, lr, bounds, precision, backend, return_info, batch_invariant=False, **choices
    ) -> None:
        self._critic = critic
        self._kernel = "tiles" if batch_invariant else None
        self.steps, self.lr = inputs.check_steps(steps), inputs.check_lr(lr)
        self._bounds, self._only_default = bounds, isinstance(bounds, DefaultBounds)
        self._options = options.parse_options(**choices)
        options.check_choice("precision", precision, (None, *PRECISIONS))
        options.check_choice("backend", backend, (None, *BACKENDS))
        options.check_choice("return_info", return_info, (False, True, "trace"))
        self.precision = precision or torch.get_float32_matmul_precision()
        self.backend, self.return_info = backend, return_info
        self._lock = threading.RLock()
        self._bindings: dict[tuple, Binding] = {}
        self._copies = DeviceCopies()
        self._prepared: PreparedCall | None = None
        self.handle = register(self)

    def weights(self) -> list[Tensor]:
        """Every parameter and buffer of the critic, as it is now."""
        return [t.detach() for part in self._critic.parts() for t in tensors_of(part)]

    def __call__(self, states: Tensor, actions: Tensor, out: Tensor | None = None):
        """Refine: shapes and result as `refine`. `out` takes the result when given (it may be `actions`
        itself).

        Under torch.compile and export it is one registered operator, and `out` is not taken.
        """
        if is_compiling():
            if out is not None:
                raise ValueError("out: not taken under torch.compile and export; use the returned tensor")
            return call_operator(
                self.handle, self.weights(), self.return_info, states, actions, self.steps, self.lr
            )
        return self.eager(states, actions, out)

    def eager(self, states: Any, actions: Any, out: Any = None) -> Any:
        """As a call, wherever torch.compile may be."""
        if (prepared := self._prepared) is not None:
            result = prepared(states, actions, out)
            if result is not None:
                return result
        return self.run(states, actions, out)

    def refresh(self) -> None:
        """Read the critic's numbers again, whatever their versions say."""
        with self._lock:
            parts = self._critic.parts()
            structure = () if self._critic.is_program else structure_of(parts)
            for binding in self._bindings.values():
                if binding.lowering.structure == structure:
                    binding.update()
                    continue
                _lowerings.drop(parts)  # other layers than were traced: start anew
                self._bindings.clear()
                self._prepared = None
                break

    def binding(self, state_dim: int, action_dim: int, device: torch.device) -> Binding:
        """The executor for these dimensions with the critic's present numbers."""
        key = (state_dim, action_dim, device, self._critic.modes())
        binding = self._bindings.get(key)
        if binding is not None and (binding.watch is None or not binding.watch.changed()):
            return binding
        with self._lock:
            binding = self._bindings.get(key)
            if binding is None:
                binding = self._bindings[key] = self._bind(*key)
            elif binding.watch is not None and binding.watch.changed():
                binding.update()
        return binding

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
        binding = Binding(
            self._critic,
            lowering,
            replace(self._options, low=low, high=high),
            device,
            setting=self.precision,
            wanted=self.backend,
            steps=self.steps,
            lr=self.lr,
            cpu_kernel=self._kernel,
        )
        binding.bounds = bounds
        if binding.choice.backend == "torch" and self.backend is None and _warned.get(parts, "slow") is None:
            _warned.put(parts, "slow", True)
            warnings.warn(
                "refine: this critic runs on the slow autograd reference, because "
                f"{binding.choice.slow_reason}",
                RuntimeWarning,
                stacklevel=6,
            )
        return binding

    def run(self, states: Any, actions: Any, out: Any = None, *, steps: Any = None, lr: Any = None) -> Any:
        """As a call, in eager mode, with other `steps` and `lr` than those of the Refiner when given."""
        steps = self.steps if steps is None else inputs.check_steps(steps)
        lr = self.lr if lr is None else inputs.check_lr(lr)
        return_info = self.return_info
        s, a = inputs.as_tensor("states", states), inputs.as_tensor("actions", actions)
        inputs.check_pair(s, a)
        shape = (*a.shape[:-2], a.shape[-1]) if a.ndim == 3 else tuple(a.shape)
        if out is not None:
            inputs.check_out(out, shape, actions)
        if self._only_default and (a.device.type == "cpu" or os.environ.get("DTAG_CHECK") == "1"):
            inputs.check_default_bounds(a)
        binding = self.binding(s.shape[-1], a.shape[-1], s.device)
        single, multi = a.ndim == 1, a.ndim == 3
        rows = a.view(1, 1, -1) if single else a if multi else a[:, None]  # (B, M, A)
        buffers = self._buffers(rows, steps, return_info)
        result = self._run(binding, s[None] if single else s, rows, out, steps, lr, buffers).view(shape)
        if out is None:
            out = result.numpy() if isinstance(actions, np.ndarray) else result
        elif isinstance(out, np.ndarray):
            out[...] = result.numpy()
        elif result.data_ptr() != out.data_ptr() or not out.is_contiguous():
            out.copy_(result)
        self._remember(binding, s, a, steps, lr, return_info)
        if not return_info:
            return out
        return out, to_info(buffers, multi=multi, single=single, numpy=isinstance(actions, np.ndarray))

    def _buffers(self, rows: Tensor, steps, return_info):
        batch, candidates, width = rows.shape
        inexact = (
            candidates > 1 and rows.dtype is not torch.float32
        )  # needs the winner to give a_0's bits back
        if not return_info and not inexact:
            return None
        return allocate(batch, candidates, width, steps, return_info == "trace", rows.device)

    def _run(self, binding: Binding, states, actions, out, steps, lr, buffers) -> Tensor:
        """Refine (B, M, A) `actions` of any floating dtype into a (B, A) tensor of that dtype."""
        batch, candidates, width = actions.shape
        steps, lr = inputs.fit_steps(steps, batch), inputs.fit_lr(lr, batch, width)
        if isinstance(steps, Tensor):
            steps = self._copies.on(actions.device, "steps", steps)
        if isinstance(lr, Tensor):
            lr = self._copies.on(actions.device, "lr", lr)
        dtype = binding.loop_dtype
        s = states.to(dtype)
        s = s if s.stride(-1) == 1 or s.shape[-1] == 1 else s.contiguous()
        a = actions.to(dtype).contiguous()
        exact = actions.dtype is torch.float32
        direct = exact and dtype is torch.float32 and isinstance(out, Tensor) and out.is_contiguous()
        target = out.view(batch, width) if direct else torch.empty(batch, width, dtype=dtype, device=a.device)
        if batch:
            binding.executor.run(s, a, target, steps=steps, lr=lr, info=buffers)
        if exact:
            return target.to(torch.float32)
        if candidates == 1:
            original = actions[:, 0]
        else:
            original = actions[torch.arange(batch, device=a.device), buffers.best_candidate.long()]
        if binding.bounds is not None and not isinstance(binding.bounds[0], Tensor):
            # Once: a copy from the host at every call would wait for the GPU.
            binding.bounds = tuple(torch.tensor(bound, device=a.device) for bound in binding.bounds)
        return inputs.restore(target, original, binding.bounds)

    def _remember(self, binding: Binding, s: Tensor, a: Tensor, steps, lr, return_info) -> None:
        """Let calls of this shape take the short path."""
        prepare = getattr(binding.executor, "prepare_call", None)
        plain = steps is self.steps and lr is self.lr and isinstance(steps, int) and isinstance(lr, float)
        if prepare is None or not plain or return_info or a.ndim > 2 or a.numel() == 0:
            return
        if a.dtype is not torch.float32:
            return
        if not self._lock.acquire(blocking=False):
            return  # another thread packs or traces, which takes longer than one more call of this kind
        try:  # the numbers in use are those seen, and stay so until the call is made
            modes = next((key[-1] for key, other in self._bindings.items() if other is binding), None)
            if modes is None or binding.watch.changed():
                return  # since the call another structure was found, or the critic trained
            modules = self._critic.refs if self._critic.has_modes else ()
            seen = binding.watch.seen(modules, modes)
            self._prepared = prepare(s.shape, a.shape, seen, self._only_default, self._prepared)
        finally:
            self._lock.release()


def _rebuild(critic: Any, settings: dict[str, Any]) -> Refiner:
    return Refiner(critic, **settings)
