"""A policy as a folder in the manner of the Hugging Face hub: everything to act, nothing to go on training.

    DIR/
        config.json           networks, and what they were trained on: state mean and deviation, return scale,
                              action bounds, context length, environment, target returns
        model.safetensors     the policy
        critic.safetensors    a critic for Action Gradient, where one was given
        README.md             model card

It is also a checkpoint folder: `load_policy(DIR)`, `load_critic(DIR)` and `dtag evaluate DIR` take it.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import torch

from dtag_fast.interop.critic_conversion import loaded_beside
from dtag_fast.interop.model_card import Evaluation, model_card, read_evaluation
from dtag_fast.models.foreign_critic import ForeignCritic
from dtag_fast.models.registry import describe
from dtag_fast.rollout.arguments import check_together
from dtag_fast.rollout.settings import AGSetting
from dtag_fast.training.checkpoint import (
    FORMAT_VERSION,
    LoadedCritic,
    LoadedPolicy,
    RunInfo,
    find_checkpoint,
    library_versions,
    load_critic,
    load_policy,
    read_checkpoint_config,
)
from dtag_fast.training.files import sync, write_json, write_tensors, write_text

FILES = ("config.json", "model.safetensors", "README.md")


class Pretrained(NamedTuple):
    """What `from_pretrained` gives: the policy, and the critic or None."""

    policy: LoadedPolicy
    critic: LoadedCritic | None


def save_pretrained(
    policy: str | os.PathLike | LoadedPolicy,
    folder: str | os.PathLike,
    *,
    critic: str | os.PathLike | LoadedCritic | ForeignCritic | None = None,
    evaluation: str | os.PathLike | None = None,
    overwrite: bool = False,
) -> Path:
    """Write a policy, and a critic beside it, as a folder that can be shared.

    Args:
        policy, critic: run or checkpoint folders, or loaded ones; the critic also as `interop.load_critic`
            gives it.
        folder: appears whole or not at all.
        evaluation: a JSON file of `dtag evaluate --json` of this policy, for the model card.
        overwrite: replace a folder that an earlier call wrote.

    Returns:
        The folder.

    Raises:
        FileNotFoundError, ValueError: as `load_policy`; policy and critic are of different tasks; the
            evaluation is of another policy; or there is such a folder already.
    """
    folder = Path(folder)
    policy = policy if isinstance(policy, LoadedPolicy) else load_policy(policy)
    if critic is not None:
        critic = _loaded(critic, policy.info)
        check_together(policy, critic, [AGSetting()], policy.info.env_id or "-")
    found = None if evaluation is None else read_evaluation(evaluation, policy.info)
    check_target(folder, overwrite)
    content = _config(policy, critic)
    temporary = folder.absolute().with_name(f".{folder.absolute().name}.{os.getpid()}.tmp")
    temporary.parent.mkdir(parents=True, exist_ok=True)
    temporary.mkdir()
    try:
        write_tensors(temporary / "model.safetensors", policy.model.state_dict())
        if critic is not None:
            write_tensors(temporary / "critic.safetensors", critic.critic.state_dict())
        write_text(temporary / "README.md", _card(folder.absolute().name, policy, critic, found))
        write_json(temporary / "config.json", content)
        sync(temporary)
        _take_the_place(temporary, folder.absolute())
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def _loaded(critic: Any, policy: RunInfo) -> LoadedCritic:
    if isinstance(critic, str | os.PathLike):
        return load_critic(critic)
    if isinstance(critic, ForeignCritic):
        return loaded_beside(critic, policy)
    if not isinstance(critic, LoadedCritic) or not hasattr(critic.critic, "config"):
        found = critic.critic if isinstance(critic, LoadedCritic) else critic
        raise ValueError(
            f"critic: expected one that dtag_fast or interop.load_critic gives, got {type(found).__name__}, "
            "of which a folder holds no description; an ONNX file takes any critic (`dtag export --onnx`)"
        )
    return critic


def from_pretrained(folder: str | os.PathLike, device: str | torch.device = "cpu") -> Pretrained:
    """The policy of a folder of `save_pretrained`, and its critic where it has one; the bits that were saved.

    Raises:
        FileNotFoundError: there is no such folder, or a file of it is missing.
        ValueError: a file is damaged, or of a newer version.
    """
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        what = "it has no config.json" if folder.is_dir() else "there is no such folder"
        raise FileNotFoundError(f"{folder}: expected a folder that save_pretrained wrote, {what}")
    policy = load_policy(folder, device)
    held = "critic" in read_checkpoint_config(find_checkpoint(folder))["networks"]
    return Pretrained(policy, load_critic(folder, device) if held else None)


def check_target(folder: Path, overwrite: bool) -> None:
    """Refuse a place where something is that must not be lost."""
    if not folder.exists():
        return
    ours = folder.is_dir() and all((folder / name).is_file() for name in FILES)
    if folder.is_dir() and not any(folder.iterdir()):
        return
    if not (overwrite and ours):
        remedy = "give overwrite=True (--overwrite) to replace it" if ours else "choose another name"
        raise ValueError(f"{folder}: expected no file or folder of that name, there is one; {remedy}")


def _take_the_place(temporary: Path, folder: Path) -> None:
    if folder.exists() and any(folder.iterdir()):
        old = folder.with_name(f".{folder.name}.{os.getpid()}.old.tmp")
        os.rename(folder, old)
        try:
            os.rename(temporary, folder)
        except OSError:
            os.rename(old, folder)
            raise
        shutil.rmtree(old)
    else:
        os.replace(temporary, folder)  # an empty folder gives way
    sync(folder.parent)


def _config(policy: LoadedPolicy, critic: LoadedCritic | None) -> dict[str, Any]:
    content = {
        "format_version": FORMAT_VERSION,
        "library_name": "dtag_fast",
        "versions": library_versions(),
        "networks": {"model": describe(policy.model)},
        "info": dataclasses.asdict(policy.info),
    }
    if critic is not None:
        content["networks"]["critic"] = describe(critic.critic)
        content["critic_info"] = dataclasses.asdict(_as_saved(critic.info))
    return content


def _as_saved(info: RunInfo) -> RunInfo:
    """`load_critic` multiplied the reward scale already, and will look for the factor again."""
    config = {name: value for name, value in info.config.items() if name != "critic_reward_scale"}
    return dataclasses.replace(info, config=config)


def _card(name: str, policy: LoadedPolicy, critic: LoadedCritic | None, found: Evaluation | None) -> str:
    return model_card(name, type(policy.model).__name__, policy.info, critic and critic.info, found)
