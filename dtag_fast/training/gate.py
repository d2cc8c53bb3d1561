"""How far the members of a critic disagree about its data, as the limit of a gate on Action Gradient."""

from __future__ import annotations

import os

import torch
from torch import Tensor, nn

from dtag_fast.data import TrajectoryStore, transitions
from dtag_fast.models.gated_critic import GatedCritic, deviation
from dtag_fast.training.checkpoint import LoadedCritic, load_critic
from dtag_fast.training.own_data import own_data

ROWS = 65536  # of a call of the critic


def gated(critic: nn.Module, store: TrajectoryStore, quantile: float = 0.99) -> GatedCritic:
    """The critic with a gate that lets through what its members agree on as well as on its data.

    Args:
        critic: an ensemble of two members or more, as `refine` takes it, of raw states.
        store: the data it was trained on.
        quantile: in [0, 1], of the members' standard deviation over the data's states and actions.

    Raises:
        ValueError: a quantile outside of [0, 1], a critic of one member, or Q of the data that is not finite.
    """
    if isinstance(quantile, bool) or not isinstance(quantile, int | float) or not 0 <= quantile <= 1:
        raise ValueError(f"quantile: expected a number in [0, 1], got {quantile!r}")
    found = disagreement(critic, store)
    # not torch.quantile, which takes 16 million numbers at most
    place = round(quantile * (len(found) - 1))
    return GatedCritic(critic, float(found.kthvalue(place + 1).values))


def load_gated(
    path: str | os.PathLike, quantile: float = 0.99, device: str | torch.device = "cpu"
) -> LoadedCritic:
    """The critic of a run or checkpoint folder with a gate that fits the dataset it was trained on.

    Raises:
        FileNotFoundError: no such run, no critic in it, or its dataset is not there any more.
        ValueError: as `gated`; the run does not say which dataset it was, or the data have changed.
    """
    critic, info = load_critic(path, device)
    store = own_data(
        path,
        info,
        "gate",
        why="its limit is a quantile over the critic's dataset",
        remedy="give one to dtag_fast.training.gated",
    )
    return LoadedCritic(gated(critic, store, quantile), info)


@torch.no_grad()
def disagreement(critic: nn.Module, store: TrajectoryStore) -> Tensor:
    """Standard deviation (N,) over the members, divisor E - 1, at each of the data's N steps.

    Raises:
        ValueError: a critic of one member, or Q that is not finite.
    """
    data, members = transitions(store), GatedCritic(critic, 0.0).members
    device = next((tensor.device for tensor in critic.parameters()), torch.device("cpu"))
    parts = zip(data.states.split(ROWS), data.actions.split(ROWS), strict=True)
    found = torch.cat([deviation(members(s.to(device), a.to(device))).cpu() for s, a in parts])
    if not found.isfinite().all():
        raise ValueError("critic: its Q of the data's actions is not finite; was it trained on other data?")
    return found
