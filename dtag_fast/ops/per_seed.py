"""Random numbers under torch.vmap over seeds: each seed's come from its own generator, as in a run alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Generator, Tensor


class Generators:
    """One generator per seed, all on one device; stands where a single one would."""

    def __init__(self, members: Sequence[Generator]):
        self.members = tuple(members)

    @property
    def device(self) -> torch.device:
        return self.members[0].device


def members(generator: Generator | Generators) -> tuple[Generator, ...]:
    """The generators of all seeds, or the one there is."""
    return generator.members if isinstance(generator, Generators) else (generator,)


def is_batched(x: Tensor) -> bool:
    """Whether x is one seed's part of a stack, seen from inside torch.vmap.

    Numbers cannot be looked at there, and kernels without a rule for vmap do not take it. PyTorch tells
    nobody else: this file is the one place that asks its internals.
    """
    return not torch.compiler.is_compiling() and torch._C._functorch.is_batchedtensor(x)


def in_transformation() -> bool:
    """Whether this runs inside torch.vmap or another transformation of torch.func."""
    return torch._C._functorch.maybe_current_level() is not None


def draw(
    fill: Callable[[Tensor, Generator | None], Tensor],
    shape: Sequence[int],
    like: Tensor,
    generator: Generator | Generators | None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """An empty tensor that `fill(tensor, generator)` has filled in place.

    Args:
        shape: of the tensor; under vmap, of that of one seed.
        like: tells the device, and the type where `dtype` is None. Under vmap it must be part of a stack.
        generator: `Generators` under vmap over as many seeds.
    """
    options = {"dtype": like.dtype if dtype is None else dtype, "device": like.device}
    if not isinstance(generator, Generators):
        return fill(torch.empty(shape, **options), generator)

    def fill_all() -> Tensor:
        stack = torch.empty((len(generator.members), *shape), **options)
        for part, member in zip(stack.unbind(), generator.members, strict=True):
            fill(part, member)
        return stack

    return _ForAllSeeds.apply(like.detach(), fill_all)


class _ForAllSeeds(torch.autograd.Function):
    """(like, make) -> make(), whose first axis is that of the seeds."""

    @staticmethod
    def forward(like, make):
        raise RuntimeError("Generators draw under torch.vmap over seeds only")

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.mark_non_differentiable(output)

    @staticmethod
    def vmap(info, in_dims, like, make):
        return make(), 0
