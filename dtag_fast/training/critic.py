"""The trained critic of an earlier run, for algorithms that learn from one."""

from __future__ import annotations

import os
import zlib
from typing import Any

from torch import nn

from dtag_fast.algorithms import TrainedCritic
from dtag_fast.data import TrajectoryStore
from dtag_fast.training.checkpoint import load_critic, load_value


def load_trained_critic(
    path: str | os.PathLike, store: TrajectoryStore
) -> tuple[TrainedCritic, dict[str, Any]]:
    """Load a critic to learn from on the data of `store`.

    Args:
        path: run or checkpoint folder.
    Returns:
        Its networks, on the CPU, and its identity for config.json: algorithm, step, seed, dataset_id, crc32.
    Raises:
        FileNotFoundError: there is no run or checkpoint, or it holds no critic.
        ValueError: a file is damaged, the critic's inputs are not those of the data, or actions of the data
            are discrete.
    """
    if store.discrete_actions is not None:
        raise ValueError(
            f"critic: critics take continuous actions, those of the data are {store.discrete_actions}; leave "
            "it out"
        )
    critic, info = load_critic(path)
    ours = (store.state_dim, store.action_dim, store.metadata.get("observation_keys"))
    theirs = (info.state_dim, info.action_dim, info.observation_keys)
    if ours != theirs:
        raise ValueError(
            f"critic: expected the dataset's (state_dim, action_dim, observation_keys) = {ours}, got "
            f"{theirs}; train both on the same dataset"
        )
    identity = {name: getattr(info, name) for name in ("algorithm", "step", "seed", "dataset_id")}
    return TrainedCritic(critic, load_value(path)), identity | {"crc32": weights_checksum(critic)}


def weights_checksum(network: nn.Module) -> str:
    """CRC-32 of a network's parameters and buffers, on the CPU, in their order."""
    checksum = 0
    for tensor in network.state_dict().values():
        checksum = zlib.crc32(tensor.contiguous().numpy(), checksum)
    return f"{checksum:08x}"
