"""The dataset that a critic was trained on, for what is measured on it later."""

from __future__ import annotations

import os

from dtag_fast.data import TrajectoryStore, load_dataset
from dtag_fast.training.checkpoint import RunInfo


def own_data(path: str | os.PathLike, info: RunInfo, name: str, why: str, remedy: str) -> TrajectoryStore:
    """Load it.

    Args:
        path: run or checkpoint folder of the critic. info: what it says.
        name: of the option that asks, why: and for what; remedy: where the run does not say which it was.

    Raises:
        FileNotFoundError: it is not there any more.
        ValueError: the run does not say which it was, or the data have changed.
    """
    if info.dataset_id is None:
        raise ValueError(
            f"{name}: {path} does not say which dataset it was trained on (`dtag convert-critic --data` "
            f"tells it of another library's); {remedy}"
        )
    try:
        store = load_dataset(info.dataset_id, observation_keys=info.observation_keys)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{name}: {why}: {error}") from error
    found = store.metadata.get("fingerprint")
    if info.dataset_fingerprint not in (None, found):
        raise ValueError(
            f"{name}: {info.dataset_id} is not the data that {path} was trained on (fingerprint {found}, "
            f"expected {info.dataset_fingerprint})"
        )
    return store
