"""Refiner: the prepared form of `refine`. Weights packed once, re-packed when they change."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.compiler import is_compiling

from . import inputs, options
from .backends import BACKENDS, PRECISIONS
from .binding import Binding, Critic, tensors_of
from .bindings import Bindings
from .compiled import call_operator, register
from .device_copies import DeviceCopies
from .executor import PreparedCall
from .info import allocate, to_info
from .options import Variant
from .program import CriticProgram
from .row_numbers import Numbers


class DefaultBounds(NamedTuple):
    """Bounds nobody asked for: the convention of DT code and D4RL."""

    low: float = -1.0
    high: float = 1.0


DEFAULT_BOUNDS = DefaultBounds()


class Refiner:
    """A critic prepared for many calls: `refiner(states, actions, out=None)`.

    Args: those of `refine`. `steps`, `lr`, `scale`, `radius` and `prior` given per row fix the batch size. A
    Refiner keeps its critic alive.
        variant: which of `variants` each row has; a call may give others (`run`).
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
        scale: float | Tensor | None = None,
        optimizer: Any = "sgd",
        bounds: Any = DEFAULT_BOUNDS,
        reduce: str | int = "min",
        gradient: Any = "raw",
        radius: Any = None,
        prior: options.Prior | None = None,
        select: str = "best",
        variants: Sequence[Variant] | None = None,
        variant: Any = None,
        precision: str | None = None,
        backend: str | None = None,
        return_info: bool | str = False,
        batch_invariant: bool = False,
    ) -> None:
        settings = {
            "steps": steps,
            "lr": lr,
            "scale": scale,
            "optimizer": optimizer,
            "bounds": bounds,
            "reduce": reduce,
            "gradient": gradient,
            "radius": radius,
            "prior": prior,
            "select": select,
            "variants": variants,
            "variant": variant,
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
        self,
        critic,
        *,
        steps,
        lr,
        bounds,
        radius,
        precision,
        backend,
        return_info,
        scale=None,
        variant=None,
        prior=None,
        batch_invariant=False,
        **choices,
    ) -> None:
        self._critic = critic
        self._invariant = batch_invariant
        self.steps, self.lr = inputs.check_steps(steps), inputs.check_lr(lr)
        self.scale = inputs.check_scale(scale)
        shared, self.radius = options.split_radius(radius)
        self.prior = options.parse_prior(prior)
        self._bounds, self._only_default = bounds, isinstance(bounds, DefaultBounds)
        self._options = options.parse_options(radius=shared, **choices)
        if self._options.variants and self.radius is not None:
            raise ValueError("radius: with `variants` each row has that of its variant; leave it out")
        self._count = len(choices["variants"]) if choices.get("variants") is not None else 0
        self.variant = self._check_variant(variant)
        self._alone: dict[int, Refiner] = {}
        options.check_choice("precision", precision, (None, *PRECISIONS))
        options.check_choice("backend", backend, (None, *BACKENDS))
        options.check_choice("return_info", return_info, (False, True, "trace"))
        self.precision = precision or torch.get_float32_matmul_precision()
        self.backend, self.return_info = backend, return_info
        self._lock = threading.RLock()
        self._bindings = Bindings(
            critic,
            self._options,
            bounds,
            self._lock,
            setting=self.precision,
            wanted=backend,
            steps=self.steps,
            lr=self.lr,
            scale=self.scale,
            prior=self.prior,
            cpu_kernel="tiles" if batch_invariant else None,
        )
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
                self.handle,
                self.weights(),
                self.return_info,
                states,
                actions,
                self.steps,
                self.lr,
                self.scale,
                self.radius,
                self.variant,
                self.prior,
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
            for alone in self._alone.values():
                alone.refresh()
            if self._bindings.refresh():
                self._prepared = None

    def binding(self, state_dim: int, action_dim: int, device: torch.device) -> Binding:
        """The executor for these dimensions with the critic's present numbers."""
        return self._bindings.of(state_dim, action_dim, device)

    def run(
        self,
        states: Any,
        actions: Any,
        out: Any = None,
        *,
        steps: Any = None,
        lr: Any = None,
        scale: Any = None,
        radius: Any = None,
        variant: Any = None,
        prior: options.Prior | None = None,
    ) -> Any:
        """As a call, in eager mode, with other numbers than those of the Refiner where they are given.

        Args:
            steps, lr, scale, variant, prior: as in `refine`. radius: other limits, in the norm of the
                Refiner's radius.
        """
        s, a = inputs.as_tensor("states", states), inputs.as_tensor("actions", actions)
        inputs.check_pair(s, a)
        own, batch = self._own_numbers(), len(a) if a.ndim > 1 else 1
        numbers = self.checked(
            batch, steps=steps, lr=lr, scale=scale, radius=radius, variant=variant, prior=prior
        )
        if self._options.variants:
            only = self._only_variant(numbers.variant, batch)
            if only is not None and not self._same_kernel(s.device):
                given = {"steps": numbers.steps, "lr": numbers.lr, "scale": numbers.scale}
                given["prior"] = self.prior if prior is None else prior
                return self._refiner_of(only).run(states, actions, out, **given)
        return_info = self.return_info
        shape = (*a.shape[:-2], a.shape[-1]) if a.ndim == 3 else tuple(a.shape)
        if out is not None:
            inputs.check_out(out, shape, actions)
        if self._only_default and (a.device.type == "cpu" or os.environ.get("DTAG_CHECK") == "1"):
            inputs.check_default_bounds(a)
        binding = self.binding(s.shape[-1], a.shape[-1], s.device)
        single, multi = a.ndim == 1, a.ndim == 3
        rows = a.view(1, 1, -1) if single else a if multi else a[:, None]  # (B, M, A)
        buffers = self._buffers(rows, numbers.steps, return_info)
        result = self._run(binding, s[None] if single else s, rows, out, numbers, buffers).view(shape)
        if out is None:
            out = result.numpy() if isinstance(actions, np.ndarray) else result
        elif isinstance(out, np.ndarray):
            out[...] = result.numpy()
        elif result.data_ptr() != out.data_ptr() or not out.is_contiguous():
            out.copy_(result)
        if all(x is y for x, y in zip(numbers, own, strict=True)) and not return_info:
            self._remember(binding, s, a)
        if not return_info:
            return out
        return out, to_info(buffers, multi=multi, single=single, numpy=isinstance(actions, np.ndarray))

    def checked(
        self,
        batch: int,
        *,
        steps: Any = None,
        lr: Any = None,
        scale: Any = None,
        radius: Any = None,
        variant: Any = None,
        prior: options.Prior | None = None,
    ) -> Numbers:
        """The numbers of a call of `batch` rows: those given, as `run` takes them, and else the Refiner's
        own."""
        own = self._own_numbers()
        prior = self.prior if prior is None else options.parse_prior(prior)
        return Numbers(
            own.steps if steps is None else inputs.check_steps(steps),
            own.lr if lr is None else inputs.check_lr(lr),
            own.scale if scale is None else inputs.check_scale(scale),
            own.radius if radius is None else self._limits(radius, batch),
            own.variant if variant is None else self._check_variant(variant),
            prior.mean,
            prior.weight,
        )

    def _own_numbers(self) -> Numbers:
        """Those of a call that gives none."""
        prior = self.prior
        return Numbers(self.steps, self.lr, self.scale, self.radius, self.variant, prior.mean, prior.weight)

    def _limits(self, radius: Any, batch: int) -> Tensor:
        """The limits of a call's rows, of a radius in the norm that this Refiner was made for."""
        own = self._options.radius
        given = options.parse_radius(radius)
        if self._options.variants:
            raise ValueError("radius: with `variants` each row has that of its variant; leave it out")
        if own is None or (isinstance(radius, options.Radius) and given.norm != own.norm):
            has = "no radius" if own is None else f'a radius in the "{own.norm}" norm'
            raise ValueError(
                f"radius: this Refiner has {has}, which a call cannot change; make a Refiner with the other"
            )
        return given.limit if isinstance(given.limit, Tensor) else torch.full((batch,), given.limit)

    def _check_variant(self, variant: Any) -> Tensor | None:
        """Positions of rows among the variants; None where there is one, which all rows have."""
        if variant is not None and self._count == 0:
            raise ValueError("variant: expected with `variants`, among which it tells what each row has")
        checked = inputs.check_variant(variant, self._count)
        return checked if self._options.variants else None

    def _only_variant(self, variant: Tensor | None, batch: int) -> int | None:
        """The one that all rows have, where the host can tell; None where they differ."""
        if variant is None:
            raise ValueError(
                f"variant: expected which of the {self._count} variants each row has, integers (B,)"
            )
        variant = inputs.fit_variant(variant, batch)
        if variant.device.type != "cpu" or batch == 0:
            return None
        first = int(variant[0])
        return first if bool((variant == first).all()) else None

    def _same_kernel(self, device: torch.device) -> bool:
        """Whether rows of one variant have the kernel, and so the bits, that they have among others."""
        return self._invariant and device.type == "cpu" and self.backend in (None, "cpu", "torch")

    def _refiner_of(self, index: int) -> Refiner:
        """What refines a batch of one variant alone, as a Refiner without variants would."""
        with self._lock:
            if index not in self._alone:
                self._alone[index] = Refiner._weak(
                    self._critic,
                    steps=self.steps if isinstance(self.steps, int) else 10,
                    lr=self.lr if isinstance(self.lr, float) else 0.03,
                    scale=self.scale if isinstance(self.scale, float) else None,
                    prior=None if self.prior.several else self.prior,
                    bounds=self._bounds,
                    precision=self.precision,
                    backend=self.backend,
                    return_info=self.return_info,
                    batch_invariant=self._invariant,
                    **vars(self._options.variants[index]),
                )
            return self._alone[index]

    def _buffers(self, rows: Tensor, steps, return_info):
        batch, candidates, width = rows.shape
        inexact = (
            candidates > 1 and rows.dtype is not torch.float32
        )  # needs the winner to give a_0's bits back
        if not return_info and not inexact:
            return None
        return allocate(batch, candidates, width, steps, return_info == "trace", rows.device)

    def _run(self, binding: Binding, states, actions, out, numbers: Numbers, buffers) -> Tensor:
        """Refine (B, M, A) `actions` of any floating dtype into a (B, A) tensor of that dtype."""
        batch, candidates, width = actions.shape
        given = numbers.fitted(batch, width).on(actions.device, self._copies)
        dtype = binding.loop_dtype
        s = states.to(dtype)
        s = s if s.stride(-1) == 1 or s.shape[-1] == 1 else s.contiguous()
        a = actions.to(dtype).contiguous()
        exact = actions.dtype is torch.float32
        direct = exact and dtype is torch.float32 and isinstance(out, Tensor) and out.is_contiguous()
        target = out.view(batch, width) if direct else torch.empty(batch, width, dtype=dtype, device=a.device)
        if batch:
            binding.executor.run(s, a, target, **given, info=buffers)
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

    def _remember(self, binding: Binding, s: Tensor, a: Tensor) -> None:
        """Let calls of this shape, without info and with the Refiner's own numbers, take the short path.

        It carries no numbers per row: those may change between calls, and are read at each.
        """
        prepare = getattr(binding.executor, "prepare_call", None)
        rows = self._own_numbers().has_rows()
        if prepare is None or rows or self._options.variants or a.ndim > 2 or a.numel() == 0:
            return
        if a.dtype is not torch.float32:
            return
        if not self._lock.acquire(blocking=False):
            return  # another thread packs or traces, which takes longer than one more call of this kind
        try:  # the numbers in use are those seen, and stay so until the call is made
            modes = self._bindings.modes_of(binding)
            if modes is None or binding.watch.changed():
                return  # since the call another structure was found, or the critic trained
            modules = self._critic.refs if self._critic.has_modes else ()
            seen = binding.watch.seen(modules, modes)
            self._prepared = prepare(s.shape, a.shape, seen, self._only_default, self._prepared)
        finally:
            self._lock.release()


def _rebuild(critic: Any, settings: dict[str, Any]) -> Refiner:
    return Refiner(critic, **settings)
