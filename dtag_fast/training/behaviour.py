"""Fit the model of a dataset's behaviour that Action Gradient without a step size needs, and keep it with
the critic."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dtag_fast.data import TrajectoryStore, transitions
from dtag_fast.models.behaviour import BehaviourModel
from dtag_fast.models.registry import describe
from dtag_fast.ops.refine import Refiner
from dtag_fast.training.checkpoint import (
    FORMAT_VERSION,
    check_version,
    find_checkpoint,
    load_critic,
    load_described,
)
from dtag_fast.training.files import checksum, read_json, write_json, write_tensors
from dtag_fast.training.own_data import own_data

UPDATES, BATCH, LR = 4000, 256, 1e-3
STEM = "behaviour"  # behaviour.json and behaviour.safetensors in the critic's checkpoint
STATE_QUANTILES = (0.001, 0.999)  # beyond them a state is taken as lying at the edge


def fit_behaviour(
    critic: Any,
    store: TrajectoryStore,
    *,
    updates: int = UPDATES,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> BehaviourModel:
    """Learn what actions the data hold at a state, and how far apart the critic values them.

    Adam, step 1e-3 falling linearly to 0, on the sum of the actions' negative Gaussian log-likelihood (the
    mean over A) and of the pinball losses of the median and the 90 % quantile of min Q(s, a) over the
    data's actions, Q standardised.

    Args:
        critic: as `refine` takes it; takes raw states.
        store: the data it was trained on. updates: of 256 transitions each, at least 1.
        progress: called as progress(updates done, updates in all).

    Returns:
        The model in eval mode. Same seed, same bits on a CPU.

    Raises:
        ValueError: discrete actions, or a critic whose Q of the data is not finite.
    """
    if store.discrete_actions is not None:
        raise ValueError(
            "behaviour: Action Gradient climbs a critic over continuous actions, those of the data are "
            f"{store.discrete_actions}"
        )
    if updates < 1:
        raise ValueError(f"updates: expected a whole number of at least 1, got {updates}")
    data = transitions(store)
    states, actions = data.states, data.actions
    q = _q_of(critic, states, actions)
    generator = torch.Generator().manual_seed(seed)
    mean, std = states.mean(0), states.std(0, correction=0) + 1e-6
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = BehaviourModel(states.shape[1], actions.shape[1], state_mean=mean, state_std=std)
    _set_range(model, states, actions, q, generator)
    optimizer = torch.optim.Adam(model.parameters(), LR)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda done: 1 - done / updates)
    target = (q - model.q_mean) / model.q_std
    for update in range(updates):
        rows = torch.randint(len(states), (BATCH,), generator=generator)
        loss = _loss(model, states[rows], actions[rows], target[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if progress is not None:
            progress(update + 1, updates)
    return model.requires_grad_(False).eval()


def load_behaviour(path: str | os.PathLike) -> BehaviourModel | None:
    """The model kept with the critic of a run or checkpoint folder, or None where there is none.

    Raises:
        FileNotFoundError: there is no run or checkpoint.
        ValueError: a file is damaged or of a newer format.
    """
    config_file, weights = _files(find_checkpoint(Path(path)))
    if not config_file.exists():
        return None
    config = read_json(config_file)
    check_version(config, config_file)
    if "network" not in config:
        raise ValueError(f"{config_file}: missing key 'network'")
    return load_described(config["network"], config_file, weights).requires_grad_(False).eval()


def save_behaviour(path: str | os.PathLike, model: BehaviourModel) -> None:
    """Keep a model in the checkpoint of the critic it was fitted to; it is there whole or not at all."""
    config_file, weights = _files(find_checkpoint(Path(path)))
    temporary = weights.with_name(f".{weights.name}.{os.getpid()}.tmp")
    try:
        write_tensors(temporary, model.state_dict())
        os.replace(temporary, weights)
    finally:
        temporary.unlink(missing_ok=True)
    write_json(config_file, {"format_version": FORMAT_VERSION, "network": describe(model)})


def behaviour_of(
    path: str | os.PathLike, progress: Callable[[int, int], None] | None = None
) -> BehaviourModel:
    """The model kept with the critic of a run, fitted to its dataset and kept there if it is not yet.

    Raises:
        FileNotFoundError: no such run, no critic in it, or its dataset is not there any more.
        ValueError: the run does not say which dataset it was trained on, or the data have changed.
    """
    model = load_behaviour(path)
    if model is not None:
        return model
    critic, info = load_critic(path)
    store = own_data(
        path,
        info,
        "behaviour",
        why="a model of the data's actions is fitted to the critic's dataset once",
        remedy="give one to fit_behaviour and keep the result by save_behaviour",
    )
    model = fit_behaviour(critic, store, progress=progress)
    if (theirs := load_behaviour(path)) is not None:  # of a process that was faster, and goes on with it
        return theirs
    save_behaviour(path, model)
    return model


def _files(checkpoint: Path) -> tuple[Path, Path]:
    return checkpoint / f"{STEM}.json", checkpoint / f"{STEM}.safetensors"


def _q_of(critic: Any, states: Tensor, actions: Tensor, rows: int = 65536) -> Tensor:
    """min Q (N,) of the data's actions."""
    refiner = Refiner(critic, steps=0, bounds=None, return_info=True)
    parts = zip(states.split(rows), actions.split(rows), strict=True)
    q = torch.cat([refiner(s, a)[1].q_0 for s, a in parts])
    if not q.isfinite().all():
        raise ValueError("critic: its Q of the data's actions is not finite; was it trained on other data?")
    return q


def _set_range(
    model: BehaviourModel, states: Tensor, actions: Tensor, q: Tensor, generator: torch.Generator
) -> None:
    """What the model knows of the data without training."""
    sample = states[torch.randint(len(states), (100_000,), generator=generator)]
    low, high = (torch.quantile(sample, level, dim=0) for level in STATE_QUANTILES)
    model.state_low.copy_(low), model.state_high.copy_(high)
    model.action_std.copy_(actions.std(0, correction=0))
    model.q_mean.copy_(q.mean()), model.q_std.copy_(q.std(correction=0).clamp_min(1e-6))


def _loss(model: BehaviourModel, states: Tensor, actions: Tensor, target: Tensor) -> Tensor:
    mean, log_std, quantiles = model.raw(states)
    likelihood = log_std + 0.5 * ((actions - mean) / log_std.exp()).square()
    missed = target[:, None] - quantiles  # (B, 2)
    levels = torch.tensor([0.5, 0.9])
    pinball = torch.maximum(levels * missed, (levels - 1) * missed)
    return likelihood.mean() + pinball.mean(0).sum()


def is_fitted(path: str | os.PathLike) -> bool:
    """Whether the model is kept with the critic of this run."""
    return _files(find_checkpoint(Path(path)))[0].exists()


def behaviour_checksum(path: str | os.PathLike) -> str:
    """CRC-32 of the weights of the model kept with the critic of this run: it tells it from another fit."""
    return checksum(_files(find_checkpoint(Path(path)))[1])
