"""The queue under the replay buffer: contents, memory and the copies it makes."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dtag_fast.data.row_queue import RowQueue


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 12)), max_size=60))
def test_it_holds_what_came_last_in_little_memory_and_with_few_copies(turns):
    """Against a list: n rows are appended, then up to m of the oldest dropped, again and again."""
    queue, model = RowQueue((2,), torch.int64, torch.device("cpu")), []
    appended = copied = most = 0
    for n, m in turns:
        rows = torch.arange(2 * appended, 2 * (appended + n)).view(n, 2)
        before, tensor, first = len(queue.rows), queue.tensor, queue.first
        moved = queue.append(rows)
        assert moved == first - queue.first  # what was at row r is at r - moved
        copied += before if moved or queue.tensor is not tensor else 0
        model += rows.tolist()
        appended, most = appended + n, max(most, len(model))
        assert queue.rows.tolist() == model
        dropped = min(m, len(model))
        queue.drop(dropped)
        model = model[dropped:]
        assert queue.rows.tolist() == model
        assert len(queue.tensor) <= 2 * most + 2
        assert not queue.tensor[0].any()
    assert copied <= appended


def test_a_queue_of_numbers():
    queue = RowQueue((), torch.int64, torch.device("cpu"))
    assert queue.rows.tolist() == []
    queue.append(torch.tensor([4, 5, 6]))
    queue.drop(2)
    assert queue.rows.tolist() == [6]
