"""Which tokens of a batch of sequences are real, and the masks that PyTorch's attention needs to know it."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .reference import visible


class Mask(NamedTuple):
    """bias (B or 1, 1, Q, S): 0 where a query sees a key, -inf elsewhere; a query of padding looks at all, so
    that no NaN arises. empty (B or 1, 1, Q, 1) bool: such queries, None where there is no padding."""

    bias: Tensor
    empty: Tensor | None


class Padding:
    """The real tokens of row b are start[b] <= i < length[b].

    Masks are made when first asked for and kept: blocks that share a `Padding` share them.

    Args:
        start, length: (B,) integers; None: 0 and S.

    Attributes:
        by_mask_alone: its masks say more than start and length do, so that only "sdpa", which reads them, can
            take it.
    """

    by_mask_alone = False

    def __init__(self, start: Tensor | None = None, length: Tensor | None = None):
        self.start, self.length = start, length
        self._masks: list[tuple[Tensor | None, int, torch.dtype, Mask]] = []

    @classmethod
    def of_steps(cls, mask: Tensor, side: str, tokens_per_step: int) -> Padding:
        """Of windows of K steps: `mask` (B, K) is True at real ones, padding is on the "left" or "right"."""
        real = mask.sum(dim=1)
        if side == "right":
            return cls(length=tokens_per_step * real)
        return cls(start=tokens_per_step * (mask.shape[1] - real))

    def mask(self, tokens: int, queries: Tensor | None, like: Tensor) -> Mask:
        """Of `queries` ((Q,) or (B, Q); None: all) over `tokens` keys, of the type and device of `like`."""
        for known, size, dtype, mask in self._masks:
            if known is queries and size == tokens and dtype == like.dtype:
                return mask
        positions = torch.arange(tokens, device=like.device) if queries is None else queries
        seen = visible(tokens, positions, self.start, self.length)[:, None]  # (B or 1, 1, Q, S)
        empty = None
        if self.start is not None or self.length is not None:
            empty = ~seen.any(-1, keepdim=True)
            seen = seen | empty
        # not in place: under vmap over seeds the zeros are the same of all, what is seen is not
        bias = torch.zeros(seen.shape, dtype=like.dtype, device=like.device).masked_fill(~seen, -torch.inf)
        made = Mask(bias, empty)
        self._masks.append((queries, tokens, like.dtype, made))
        return made
