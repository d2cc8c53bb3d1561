"""Rows of a tensor that come at one end and go at the other, and always lie side by side in between."""

import torch


class RowQueue:
    """First in, first out, in a tensor of at most 2 n + 2 rows if it never held more than n.

    Rows that were dropped leave a gap at the start. A queue that reaches the end of its tensor moves back
    over the gap if it needs at most half of the tensor, and else into a tensor twice as large as it needs.
    Either way, more rows are appended before it moves again than were copied: appending a row costs a
    constant number of copies.

    Args:
        width: of a row; () for a queue of numbers.
        dtype, device: of the tensor.

    Attributes:
        tensor: (R, *width). Row 0 is zeros and belongs to nothing in the queue.
        first, end: the queue is tensor[first:end].
    """

    def __init__(self, width: tuple[int, ...], dtype: torch.dtype, device: torch.device):
        self.tensor = torch.zeros((1, *width), dtype=dtype, device=device)
        self.first = self.end = 1

    @property
    def rows(self) -> torch.Tensor:
        """The queue, oldest row first; a view until rows are appended again."""
        return self.tensor[self.first : self.end]

    def append(self, rows: torch.Tensor) -> int:
        """Copy rows (n, *width) to the end; by how many places the earlier ones have moved to the front."""
        moved = self._make_room(len(rows))
        self.tensor[self.end : self.end + len(rows)].copy_(rows)
        self.end += len(rows)
        return moved

    def drop(self, count: int) -> None:
        """Forget the `count` oldest rows."""
        self.first += count

    def _make_room(self, count: int) -> int:
        if self.end + count <= len(self.tensor):
            return 0
        kept = self.rows
        needed = 1 + len(kept) + count
        if 2 * needed > len(self.tensor):
            self.tensor = kept.new_empty((2 * needed, *kept.shape[1:]))
            self.tensor[0] = 0
        self.tensor[1 : 1 + len(kept)].copy_(kept)  # in the same tensor the two are apart: the gap is larger
        moved = self.first - 1
        self.first, self.end = 1, 1 + len(kept)
        return moved
