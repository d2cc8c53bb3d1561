"""What a `Collector` is given, looked at before anything is built or played."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from torch import nn

from dtag_fast.data import DiscreteActions
from dtag_fast.data.delayed_rewards import check_every
from dtag_fast.rollout.arguments import check_numbers, check_together
from dtag_fast.rollout.exploration import Exploration, expect_distribution
from dtag_fast.rollout.settings import AGSetting, expect_whole
from dtag_fast.training.checkpoint import LoadedCritic, LoadedPolicy

if TYPE_CHECKING:
    from dtag_fast.rollout.collection import CollectionTask

SHARED_WITH_GUIDE = (  # of RunInfo
    "state_dim",
    "action_dim",
    "observation_keys",
    "action_low",
    "action_high",
    "discrete_actions",
)


def check_counts(
    slots: int, workers: int, reward_delay: int, env_processes: int | None, env_timeout: float | None
) -> None:
    """Refuse numbers that a Collector does not take."""
    expect_whole("slots", slots, 1)
    check_numbers(1, 0, slots, workers, env_processes, env_timeout)
    if workers > slots:
        raise ValueError(f"workers: expected at most one for each of the {slots} slots, got {workers}")
    check_every("reward_delay", reward_delay)


def check_acting(
    policy: LoadedPolicy,
    exploration: Exploration,
    critic: LoadedCritic | None,
    setting: AGSetting,
    guide: LoadedPolicy | None,
    env_id: str | None,
) -> None:
    """Refuse a policy, exploration, critic, Action Gradient setting, guide and environment that do not go
    together."""
    if not isinstance(exploration, Exploration):
        raise TypeError(f"exploration: expected an Exploration, got {exploration!r}")
    if not isinstance(setting, AGSetting):
        raise TypeError(f"ag: expected an AGSetting or None, got {setting!r}")
    if policy.info.discrete_actions is not None:
        raise ValueError(
            "policy: collection explores continuous actions, this policy's are "
            f"{DiscreteActions.of(vars(policy.info))}; take a policy of continuous ones"
        )
    if setting.behaviour is not None:
        raise ValueError(
            "ag: a behaviour is of a critic that stays as it is, and a collector's is trained on; give steps "
            "and lr"
        )
    if setting.starts > 1:
        raise ValueError(
            f"ag: a collector begins Action Gradient at one action, got {setting.label}; leave starts out"
        )
    check_together(policy, critic, [setting], env_id)
    if exploration.kind == "sample":
        expect_distribution(policy.model)
    if guide is not None:
        _check_guide(policy, guide)


def check_task(task: CollectionTask, model: nn.Module, guide: LoadedPolicy | None) -> None:
    """Refuse a task that cannot be played by this policy and guide."""
    expect_whole("seed", task.seed, 0)
    expect_whole("guide_steps", task.guide_steps, 0)
    if task.guide_steps and guide is None:
        raise ValueError(
            f"guide_steps: expected 0 without a guide, got {task.guide_steps}; give the collector a guide"
        )
    name, target = type(model).__name__, task.target_return
    if not model.takes_target_return and target is not None:
        raise ValueError(f"target_return: {name} takes none, got {target}; give None")
    if model.takes_target_return and (target is None or not np.isfinite(target)):
        raise ValueError(f"target_return: {name} needs a finite return to aim for, got {target}")


def _check_guide(policy: LoadedPolicy, guide: LoadedPolicy) -> None:
    if not isinstance(guide, LoadedPolicy):
        raise TypeError(
            f"guide: expected a LoadedPolicy, which load_policy(run folder) gives, or None, got "
            f"{type(guide).__name__}"
        )
    for key in SHARED_WITH_GUIDE:
        ours, theirs = getattr(policy.info, key), getattr(guide.info, key)
        if ours != theirs:
            raise ValueError(
                f"guide: expected the policy's {key} = {ours}, got {theirs}; train both on the same dataset"
            )
    if guide.model.takes_target_return and not policy.model.takes_target_return:
        raise ValueError(
            f"guide: {type(guide.model).__name__} needs a return to aim for, and this policy's tasks have "
            "none; take a guide that needs none"
        )
