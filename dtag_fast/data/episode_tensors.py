"""Episodes as a few flat host tensors, as training states hold them; the layout is that of the store."""

import numpy as np
import torch

from dtag_fast.data.store import ARRAYS, Episode, TrajectoryStore


def episodes_to_tensors(episodes: list[Episode], dims: tuple[int, int]) -> dict[str, torch.Tensor]:
    """The arrays of a TrajectoryStore, by name; of no episodes, tensors without rows.

    Args:
        episodes: checked ones. dims: (S, A).
    """
    widths = (dims[0],), (dims[1],), (), (), ()
    arrays = {
        key: np.concatenate([np.zeros((0, *width), ARRAYS[key]), *(getattr(each, key) for each in episodes)])
        for key, width in zip(Episode._fields, widths, strict=True)
    }
    arrays["offsets"] = np.cumsum([0, *(len(episode.actions) for episode in episodes)], dtype=np.int64)
    return {key: torch.from_numpy(array) for key, array in arrays.items()}


def episodes_from_tensors(tensors: dict[str, torch.Tensor], where: str) -> list[Episode]:
    """Inverse of `episodes_to_tensors`: read-only views of copies of the tensors.

    Args:
        where: names the tensors in errors.

    Raises:
        ValueError: a tensor is missing, or their rows do not agree.
    """
    if tensors.keys() != ARRAYS.keys():
        raise ValueError(f"{where}: expected the tensors {', '.join(ARRAYS)}, got {', '.join(tensors)}")
    store = TrajectoryStore({key: tensor.cpu().numpy().copy() for key, tensor in tensors.items()}, {})
    count, steps, offsets = store.num_episodes, store.num_steps, store.offsets
    rows = {key: len(getattr(store, key)) for key in Episode._fields}
    expected = dict.fromkeys(rows, steps) | {"observations": steps + count}
    rising = offsets[:1].tolist() == [0] and offsets[-1] == steps and (np.diff(offsets) > 0).all()
    if rows != expected or not rising:
        raise ValueError(
            f"{where}: {count} episodes of {steps} steps have the rows {expected} and offsets that rise from "
            f"0 to {steps}, got {rows} and offsets {offsets[:3].tolist()} ...; the file is damaged"
        )
    return [store.episode(index) for index in range(count)]
