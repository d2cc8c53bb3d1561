"""Rows of a batch of sequences, the same of all or a list of each."""

from __future__ import annotations

from torch import Tensor


def select_rows(x: Tensor, rows: Tensor, dim: int = 1) -> Tensor:
    """Pick positions along `dim` of x (B, ...): rows (Q,) for all sequences alike, (B, Q) a list for each."""
    if rows.ndim == 1:
        return x.index_select(dim, rows)
    shape = [1] * x.ndim
    shape[0], shape[dim] = rows.shape
    sizes = list(x.shape)
    sizes[0], sizes[dim] = rows.shape
    return x.expand([rows.shape[0], *x.shape[1:]]).gather(dim, rows.view(shape).expand(sizes))
