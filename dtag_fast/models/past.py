"""Keys and values of tokens that a forward pass has gone over, for new tokens to look at."""

from __future__ import annotations

import torch
from torch import Tensor


class Kept:
    """Those of one forward pass; a `Past` of the transformer.

    Args:
        kept: keys and values (B, S, 2, H, D/H) of each block. Taken over: `put` writes into them.
        at: (n,) or (B, n) places of the new tokens.
        append: the places are S, S + 1, ...: behind all that is kept.
    """

    def __init__(self, kept: list[Tensor], at: Tensor, append: bool):
        self.kept, self.at, self.append = kept, at, append

    def put(self, block: int, new: Tensor) -> Tensor:
        """Keep the keys and values (B, n, 2, H, D/H) of new tokens of a block and give all of it."""
        if self.append:
            self.kept[block] = torch.cat((self.kept[block], new), dim=1)
        else:
            put_rows(self.kept[block], self.at, new)
        return self.kept[block]


def put_rows(into: Tensor, at: Tensor, x: Tensor, rows: Tensor | None = None) -> None:
    """Write x (R, n, ...) into `rows` (R,) of `into` (N, S, ...), None for all, at places (n,) or (R, n)."""
    if rows is None:
        if at.ndim == 1:
            into[:, at] = x
            return
        rows = torch.arange(len(into), device=into.device)
    into[rows[:, None], at] = x
