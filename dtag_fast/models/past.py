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


def put_rows(into: Tensor, at: Tensor, rows: Tensor) -> None:
    """Write rows (B, n, ...) into `into` (B, S, ...) at places (n,) or (B, n)."""
    if at.ndim == 1:
        into[:, at] = rows
    else:
        into[torch.arange(len(at), device=at.device)[:, None], at] = rows
