"""RefinedPredictor: a model of Stable-Baselines3, or what acts like one, with Action Gradient."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch

from dtag_fast.interop.bridges.any_critic import any_critic
from dtag_fast.interop.bridges.policy_predictor import PolicyPredictor
from dtag_fast.interop.formats import stable_baselines3
from dtag_fast.interop.loading import load_critic as load_foreign_critic
from dtag_fast.ops.refine.refiner import DEFAULT_BOUNDS, DefaultBounds
from dtag_fast.rollout.action_gradient import ActionGradient
from dtag_fast.training.checkpoint import LoadedCritic, LoadedPolicy


class RefinedPredictor:
    """`predict` of Stable-Baselines3 with refined actions.

        RefinedPredictor(model, steps=10, lr=0.03)  # by the model's own critic
        RefinedPredictor(model, "td3.zip", steps=10, lr=0.03)
        RefinedPredictor(PolicyPredictor("runs/dt", target_return=3600, rewards=venv), "runs/iql", steps=10)

    and `evaluate_policy(ONE_OF_THESE, venv)`.

    Args:
        policy: an object with the `predict` of Stable-Baselines3, or with one of the observation alone (an
            algorithm of d3rlpy, of a batch); a callable that gives an action for an observation (a batch for
            a batch); a `PolicyPredictor`; or a policy of this package that needs no further options (a
            `LoadedPolicy` or its run folder, see `PolicyPredictor`). A sequence policy remembers the refined
            actions.
        critic: as `refine` takes it, of raw states and actions; a `LoadedCritic` or its run folder; or what
            `interop.load_critic` takes. None: that of `policy`, a model of Stable-Baselines3 (on the
            observations that the model is given) or an algorithm of d3rlpy. Foreign critics are copied: make
            another RefinedPredictor after training.
        bounds: as in `refine`. Left out: those of the policy's checkpoint, of a LoadedCritic or folder, of
            the policy's `action_space`, of a foreign critic, else `refine`'s default.
        observation_keys: as of `ActionGradient`.
        normalizer: a VecNormalize that observations have gone through; a critic that was named is given raw
            ones (what it has clipped stays at the limit). "policy": that of the model's environment, if any;
            a model that was loaded without one has none. None: observations are raw.
        device: of what is loaded.
        options: further ones of `ActionGradient`: steps, lr, optimizer, reduce, gradient, radius, ...

    Attributes:
        policy: as given. action_gradient: the `ActionGradient` that refines; its `explain()` says how.

    Raises:
        TypeError, ValueError: as of `ActionGradient` and `interop.load_critic`.
    """

    def __init__(
        self,
        policy: Any,
        critic: Any = None,
        *,
        bounds: Any = DEFAULT_BOUNDS,
        observation_keys: Sequence[str] | None = None,
        normalizer: Any | Literal["policy"] | None = "policy",
        device: str | torch.device = "cpu",
        **options: Any,
    ):
        own = isinstance(policy, PolicyPredictor)
        if not own and isinstance(policy, LoadedPolicy | str | os.PathLike):
            policy, own = PolicyPredictor(policy, device=device), True
        if not own and not hasattr(policy, "predict") and not callable(policy):
            raise TypeError(
                "policy: expected an object with predict, a callable or a policy of this package, got "
                f"{type(policy).__name__}"
            )
        if critic is None and own:
            raise TypeError("critic: expected one beside a policy of this package, got None")
        if own and policy.info.discrete_actions is not None:
            raise ValueError(
                "policy: Action Gradient climbs a critic over continuous actions, these are discrete; "
                "use its PolicyPredictor without it"
            )
        own_critic = critic is None
        if own_critic:
            # That of Stable-Baselines3 was trained on what the model is given, normalised or not.
            given = {"state_mean": 0, "state_std": 1} if stable_baselines3.takes_object(policy) else {}
            critic = load_foreign_critic(policy, device=device, **given)
        else:
            critic = any_critic(critic, device)
        if isinstance(normalizer, str):
            if normalizer != "policy":
                raise ValueError(f'normalizer: expected a VecNormalize, "policy" or None, got {normalizer!r}')
            normalizer = _trained_with(policy)
        self.policy, self._own, self._normalizer = policy, own, None if own_critic else normalizer
        if own and normalizer is not None:
            raise ValueError("normalizer: a PolicyPredictor has its own; give it there")
        self._takes_state = hasattr(policy, "predict") and _takes_state(policy.predict)
        self.action_gradient = ActionGradient(
            policy,
            critic,
            bounds=_bounds(bounds, policy, critic),
            observation_keys=observation_keys,
            device=device,
            **options,
        )

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = True,
    ) -> tuple[Any, Any]:
        """Refined actions, and the policy's state for the next call.

        Args:
            observation: one or many, as the policy takes them.
            state, episode_start, deterministic: the policy's own. A callable takes none of them.
        """
        if self._own:
            refine = self.action_gradient.refine
            return self.policy.act(observation, state, episode_start, deterministic, refine)
        predict = getattr(self.policy, "predict", self.policy)
        if self._takes_state:
            actions, state = predict(
                observation, state=state, episode_start=episode_start, deterministic=deterministic
            )
        else:
            actions = predict(observation)
        if self._normalizer is not None:
            observation = self._normalizer.unnormalize_obs(observation)
        return self.action_gradient.refine(_arrays(observation), actions), state


def _takes_state(predict: Callable[..., Any]) -> bool:
    """Whether it is called as Stable-Baselines3's, and not with the observation alone."""
    parameters = inspect.signature(predict).parameters
    return "episode_start" in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())


def _trained_with(policy: Any) -> Any | None:
    """The VecNormalize of a model of Stable-Baselines3 that normalises observations, if there is one."""
    find: Callable[[], Any] | None = getattr(policy, "get_vec_normalize_env", None)
    found = None if find is None else find()
    return found if found is not None and found.norm_obs else None


def _bounds(bounds: Any, policy: Any, critic: Any) -> Any:
    """Those that were given, else by what knows them best; the default leaves it to `ActionGradient`."""
    if not isinstance(bounds, DefaultBounds):
        return bounds
    if isinstance(policy, PolicyPredictor):
        return policy.info.action_bounds
    if isinstance(critic, LoadedCritic) or getattr(policy, "action_space", None) is not None:
        return bounds
    known = getattr(critic, "bounds", None)
    return bounds if known is None else known


def _arrays(observation: Any) -> Any:
    """float32, as critics take it, where NumPy's default is float64."""
    if isinstance(observation, Mapping):
        return {key: _arrays(entry) for key, entry in observation.items()}
    if isinstance(observation, np.ndarray):
        return observation.astype(np.float32, copy=False)
    return observation
