"""Where online fine-tuning begins: the networks, scales and optimizers of a run that was trained offline."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from dtag_fast.algorithms import Algorithm, DataSpec, config_from_dict, preset_config
from dtag_fast.algorithms.registry import ALGORITHMS, lookup
from dtag_fast.data import TrajectoryStore
from dtag_fast.models.registry import describe
from dtag_fast.training.checkpoint import (
    LoadedPolicy,
    RunInfo,
    find_checkpoint,
    load_critic,
    load_policy,
    load_training_state,
    read_checkpoint_config,
)
from dtag_fast.training.critic import weights_checksum

ALPHA = 0.1  # weight of the RL gradient online, whatever it was offline (Yan et al. 2024, section 5)
# Settings of a run that follow from its data, not from what a user asks for.
_SCALES = ("return_scale", "reward_scale", "reward_shift")


@dataclass(frozen=True, eq=False)
class Start:
    """A learner with what it begins from.

    Attributes:
        learner: its networks are the run's. info: of the run's checkpoint.
        pretrained: the run's policy, as it was; the guide of JSRL.
        identity: what config.json says about the start; decides a run's numbers.
    """

    learner: Algorithm
    info: RunInfo
    pretrained: LoadedPolicy
    identity: dict[str, Any]


def online_algorithms() -> list[str]:
    """Names of the algorithms that learn from a replay buffer."""
    return [name for name, entry in ALGORITHMS.items() if hasattr(entry.algorithm, "make_replay")]


def resolved_config(info: RunInfo, algorithm: str, metadata: dict[str, Any]) -> Any:
    """Settings of an algorithm that goes on from a run: the run's own where it has them, else the preset's.

    The weight `alpha` of the RL gradient is ALPHA, in algorithms that have one.

    Args:
        info: of the run's checkpoint. metadata: of the data.
    Raises:
        ValueError: an algorithm that does not learn online, or a run of one.
    """
    names = ", ".join(online_algorithms())
    if algorithm not in online_algorithms():
        raise ValueError(f"algo: expected one of {names}, got {algorithm!r}")
    if info.algorithm not in online_algorithms():
        raise ValueError(
            f"run: expected one of {names}, got a run of {info.algorithm}; train one of these first"
        )
    config_class = lookup(algorithm).config
    fields = {field.name for field in dataclasses.fields(config_class)}
    kept = {name: value for name, value in info.config.items() if name in fields}
    kept |= {name: getattr(info, name) for name in (*_SCALES, "target_returns")}
    kept["eval_context_len"] = info.context_len
    kept |= {"alpha": ALPHA} if "alpha" in fields else {}
    return config_from_dict(config_class, dataclasses.asdict(preset_config(algorithm, metadata)) | kept)


def begin(
    run: str | os.PathLike,
    algorithm: str,
    store: TrajectoryStore,
    config: Any = None,
    *,
    critic: str | os.PathLike | None = None,
    seed: int = 0,
    device: str = "cpu",
) -> Start:
    """A learner that goes on from a run.

    A run of the same algorithm goes on as a whole: optimizers, schedules, targets and generators too. From
    another one the networks are taken, and a critic where it has one of the same architecture; the rest
    begins anew.

    Args:
        run: run or checkpoint folder of a policy.
        algorithm: one of `online_algorithms`.
        store: the data the run was trained on, or others of the same sizes; states stay standardised as in
            the run.
        config: the algorithm's; None for `resolved_config`.
        critic: run or checkpoint folder of a critic to begin with, in place of the run's own.
    Raises:
        FileNotFoundError: no run or no policy there.
        ValueError: an unknown algorithm, another kind of network, or data of other sizes.
    """
    checkpoint = find_checkpoint(Path(run))
    pretrained = load_policy(checkpoint, device)
    info = pretrained.info
    _expect_sizes(info, store)
    config = resolved_config(info, algorithm, store.metadata) if config is None else config
    data = dataclasses.replace(
        DataSpec.of(store),
        state_mean=np.asarray(info.state_mean, np.float32),
        state_std=np.asarray(info.state_std, np.float32),
    )
    learner = lookup(algorithm).algorithm(config, data, seed=seed, device=device)
    _take_policy(learner, pretrained)
    if critic is not None:
        took = _take_critic(learner, critic)
    elif info.algorithm == algorithm and _holds_training_state(checkpoint):
        _take_the_rest(learner, checkpoint)
        took = "everything, optimizers too"
    else:
        took = _take_critic_beside(learner, checkpoint)
    identity = {
        "algorithm": info.algorithm,
        "step": info.step,
        "seed": info.seed,
        "dataset_id": info.dataset_id,
        "crc32": weights_checksum(pretrained.model.cpu()),
        "took": took,
    }
    pretrained.model.to(device)
    return Start(learner, info, pretrained, identity)


def _take_policy(learner: Algorithm, pretrained: LoadedPolicy) -> None:
    """Copy the run's policy into the learner's and its target.

    How many steps it looks back when it acts (`eval_context_len`) is the learner's: no weight depends on it.
    """
    model = learner.exports["model"]
    ours, theirs = describe(model), describe(pretrained.model)
    theirs["config"] |= {"context_len": ours["config"]["context_len"]}
    if ours != theirs:
        raise ValueError(f"run: {_difference(ours, theirs)}; leave the settings of its network as they are")
    _copy(pretrained.model, model, learner.modules.get("target_model"))


def _take_the_rest(learner: Algorithm, checkpoint: Path) -> None:
    """Go on where a run of the same algorithm was, whose policy was taken already."""
    others = {stem: network for stem, network in learner.exports.items() if stem != "model"}
    learner.load_state_dict(load_training_state(checkpoint, others)["learner"])


def _take_critic_beside(learner: Algorithm, checkpoint: Path) -> str:
    """Copy the critic beside the run's policy, if it fits; what was taken, in words."""
    if "critic" not in learner.exports or "critic" not in read_checkpoint_config(checkpoint)["networks"]:
        return "the policy"
    found = load_critic(checkpoint).critic
    if describe(found) != describe(learner.exports["critic"]):
        return "the policy; the critic is of another architecture and begins anew"
    _copy(found, learner.exports["critic"], learner.modules.get("target"))
    return "policy and critic"


def _take_critic(learner: Algorithm, path: str | os.PathLike) -> str:
    if "critic" not in learner.exports:
        raise ValueError(f"critic: {learner.name} trains none; leave it out")
    found = load_critic(path).critic
    ours, theirs = describe(learner.exports["critic"]), describe(found)
    if ours != theirs:
        raise ValueError(
            f"critic: {_difference(ours, theirs)}; give the same settings to both, or leave it out"
        )
    _copy(found, learner.exports["critic"], learner.modules.get("target"))
    return f"the policy, and the critic with checksum {weights_checksum(found)}"


def _copy(source: nn.Module, *targets: nn.Module | None) -> None:
    for target in targets:
        if target is not None:
            target.load_state_dict(source.state_dict())


def _difference(ours: dict[str, Any], theirs: dict[str, Any]) -> str:
    """What is not the same in two descriptions, in words."""
    if ours["type"] != theirs["type"]:
        return f"expected a network of type {ours['type']}, got {theirs['type']}"
    names = sorted(ours["config"].keys() | theirs["config"].keys())
    name = next(n for n in names if ours["config"].get(n) != theirs["config"].get(n))
    return f"expected {name} {ours['config'].get(name)!r}, got {theirs['config'].get(name)!r}"


def _holds_training_state(checkpoint: Path) -> bool:
    return (checkpoint / "training_state" / "state.json").is_file()


def _expect_sizes(info: RunInfo, store: TrajectoryStore) -> None:
    ours, theirs = (info.state_dim, info.action_dim), (store.state_dim, store.action_dim)
    if ours != theirs:
        raise ValueError(
            f"data: expected the run's (state_dim, action_dim) = {ours}, got {theirs}; give the dataset that "
            "the run was trained on"
        )
