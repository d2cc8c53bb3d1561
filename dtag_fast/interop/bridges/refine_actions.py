"""RefineActions: an environment that refines each action on its way in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces

from dtag_fast.data.spaces import GOAL_KEYS
from dtag_fast.interop.bridges.any_critic import any_critic
from dtag_fast.ops.refine.refiner import DEFAULT_BOUNDS, DefaultBounds
from dtag_fast.rollout.action_gradient import ActionGradient
from dtag_fast.training.checkpoint import LoadedCritic


class RefineActions(gymnasium.Wrapper):
    """An environment that executes what Action Gradient makes of each action, at the state last seen.

        env = RefineActions(gymnasium.make("Hopper-v5"), "runs/iql", steps=10, lr=0.03)

    Whoever acts is not told of it but by the info of `step`: "executed_action" is the refined action, which
    belongs in the history of a policy that looks back, and in a data set.

    Args:
        env: of one episode at a time, with actions of a Box of one dimension.
        critic: as `refine` takes it, of raw states and actions; a `LoadedCritic` or its run folder; or what
            `interop.load_critic` takes.
        bounds: as in `refine`; left out, those of the action space.
        observation_keys: entries of Dict observations, in the order that the critic takes them. None: those
            of a LoadedCritic or folder, else "observation" and, where there is one, "desired_goal", as the
            data readers concatenate them.
        device: of a critic that is loaded.
        options: further ones of `ActionGradient`: steps, lr, optimizer, reduce, gradient, radius, ...

    Attributes:
        action_gradient: the `ActionGradient` that refines; its `explain()` says how.

    Raises:
        ValueError: actions or observations of other spaces; in `step`, a critic of other dimensions, or no
            reset before it. TypeError: no environment of Gymnasium, or a wrong option.
    """

    def __init__(
        self,
        env: gymnasium.Env,
        critic: Any,
        *,
        bounds: Any = DEFAULT_BOUNDS,
        observation_keys: Sequence[str] | None = None,
        device: str | torch.device = "cpu",
        **options: Any,
    ):
        if not isinstance(env, gymnasium.Env):
            raise TypeError(
                f"env: expected one environment of Gymnasium, got {type(env).__name__}; of a vector wrap each"
            )
        super().__init__(env)
        space = env.action_space
        if not isinstance(space, spaces.Box) or len(space.shape) != 1:
            raise ValueError(f"env: expected actions of a Box of one dimension, got {space}")
        critic = any_critic(critic, device)
        if observation_keys is None and not (
            isinstance(critic, LoadedCritic) and critic.info.observation_keys
        ):
            observation_keys = _keys_of(env.observation_space)
        self.action_gradient = ActionGradient(
            _given,
            critic,
            bounds=space if isinstance(bounds, DefaultBounds) else bounds,
            observation_keys=observation_keys,
            device=device,
            **options,
        )
        self._seen: Any = None  # a copy: who acts may change what it is given

    def reset(self, **options: Any) -> tuple[Any, dict[str, Any]]:
        observation, info = super().reset(**options)
        self._seen = _copied(observation)
        return observation, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """As the environment's, with the refined action, which the info has as "executed_action"."""
        if self._seen is None:
            raise ValueError("env: expected reset before step")
        given = np.asarray(action, self.env.action_space.dtype)
        executed = self.action_gradient.refine(self._seen, given)
        observation, reward, terminated, truncated, info = super().step(executed)
        self._seen = _copied(observation)
        return observation, reward, terminated, truncated, info | {"executed_action": executed.copy()}


def _given(observation: Any) -> Any:
    """In the place of a policy: actions come in by `step`."""
    raise TypeError("RefineActions: actions come from outside; call step")


def _keys_of(space: spaces.Space) -> list[str] | None:
    """Of Dict observations; None of a Box."""
    if not isinstance(space, spaces.Dict):
        return None
    if "observation" not in space.spaces:
        raise ValueError(
            f"observation_keys: expected entries of the Dict observation ({', '.join(space.spaces)}), got "
            "none"
        )
    return [key for key in GOAL_KEYS if key in space.spaces]


def _copied(observation: Any) -> Any:
    """In float32, as critics take it."""
    if isinstance(observation, dict):
        return {key: _copied(entry) for key, entry in observation.items()}
    return np.array(observation, np.float32)
