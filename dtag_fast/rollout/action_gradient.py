"""ActionGradient: any policy of an evaluation loop of one's own, its actions refined on the way out."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dtag_fast.models.behaviour import Behaviour, BehaviourModel
from dtag_fast.ops.refine import inputs
from dtag_fast.ops.refine.explain import Explanation, describe
from dtag_fast.ops.refine.refiner import DEFAULT_BOUNDS, DefaultBounds, Refiner
from dtag_fast.rollout.observations import align, states_of
from dtag_fast.rollout.settings import expect_whole
from dtag_fast.training.checkpoint import LoadedCritic, RunInfo, load_critic

METHODS = ("predict", "act", "select_action", "get_action")  # of a policy, whose result is or begins with
# the action
_REGULARISATION = Behaviour()
_OPTIONS = (
    "steps",
    "lr",
    "scale",
    "optimizer",
    "reduce",
    "gradient",
    "radius",
    "prior",
    "select",
    "precision",
    "backend",
)  # of `refine`
_OBSERVATION_NAMES = ("observation", "observations", "obs", "states", "state")  # when passed by keyword


class ActionGradient:
    """A policy that acts as `policy` does, one step of Action Gradient later.

        policy = ActionGradient(policy, critic, steps=10, lr=0.03, bounds=env.action_space)

    Calls of the policy itself and of its `predict`, `act`, `select_action` and `get_action` give the refined
    action: the result itself, or the first of a tuple, whose others stay. It has the type, shape, dtype and
    device of the policy's. All else (`reset`, attributes, assignments) is the policy's own; a method that
    returns the policy, as `eval()` of a module, returns this wrapper.

    The first argument of the call, or the one named observation, obs or states, is what the action is for:

    - one observation (S,) for an action (A,), or (B, S) for (B, A);
    - a history (B, T, S), of which the last row counts, for (B, A), for (A,) with B = 1, or for (B, T, A), of
      which the last row is refined; for `get_action`, as of the original Decision Transformer, also (T, S).
      A window that is padded on the right ends in no state: call `refine` with the state in that loop;
    - a Dict observation of such arrays, with `observation_keys`.

    Args:
        policy: a callable, or an object with one of those methods. One that acts on discrete actions
            (`action_space`) is refused.
        critic: as `refine` takes it; a `LoadedCritic`; or the run or checkpoint folder of one.
        bounds: as in `refine`. Left out: those of the training data of a LoadedCritic or folder, else the
            policy's `action_space`, else `refine`'s default.
        observation_keys: entries of a Dict observation, in the order that the critic takes them. Left out:
            those of a LoadedCritic or folder.
        state_mean, state_std: (S,), where the loop standardises what it gives the policy,
            (s - state_mean) / state_std, as the original Decision Transformer's does: the critic is given s.
        device: of a critic that is loaded from a folder. Actions of another device than the critic's are
            moved there and back.
        behaviour: of the critic and its data (`training.behaviour_of`), to regularise Action Gradient by, see
            `BehaviourModel.options`; in place of lr, scale, optimizer, gradient, radius and prior.
        regularisation: weight and radius of that.
        options: steps, lr, scale, optimizer, reduce, gradient, radius, prior, select, precision, backend of
            `refine`.

    Attributes:
        wrapped: the policy. refiner: the Refiner that its actions go through.

    Raises:
        TypeError: a policy that cannot be called, a wrong option, or, when called, an action that is discrete
            or no array.
        ValueError: discrete actions; when called, an observation whose shape does not go with the action's,
            or a critic of other dimensions.
        FileNotFoundError: no critic in the folder.
    """

    __slots__ = (
        "_behaviour",
        "_device",
        "_info",
        "_keys",
        "_mean",
        "_seen",
        "_std",
        "_weight",
        "refiner",
        "wrapped",
    )

    def __init__(
        self,
        policy: Any,
        critic: Any,
        *,
        bounds: Any = DEFAULT_BOUNDS,
        observation_keys: Sequence[str] | None = None,
        state_mean: Any = None,
        state_std: Any = None,
        device: str | torch.device = "cpu",
        behaviour: BehaviourModel | None = None,
        regularisation: Behaviour = _REGULARISATION,
        **options: Any,
    ):
        if not callable(policy) and not any(hasattr(policy, name) for name in METHODS):
            raise TypeError(
                f"policy: expected a callable or an object with {', '.join(METHODS[:-1])} or {METHODS[-1]}, "
                f"got {type(policy).__name__}; wrap its action in a function of the observation"
            )
        if "return_info" in options:
            raise TypeError("return_info: a policy gives actions alone; use .refiner's or `refine`")
        unknown = [name for name in options if name not in _OPTIONS]
        if unknown:
            raise TypeError(f"{unknown[0]}: expected options among {', '.join(_OPTIONS)}")
        if isinstance(critic, str | os.PathLike):
            critic = load_critic(critic, device)
        info: RunInfo | None = None
        if isinstance(critic, LoadedCritic):
            critic, info = critic
        _refuse_discrete(policy, info)
        if isinstance(bounds, DefaultBounds):
            bounds = _bounds(policy, info)
        if observation_keys is None and info is not None:
            observation_keys = info.observation_keys
        self.wrapped, self._info, self._keys = policy, info, observation_keys
        self._behaviour, self._weight = behaviour, regularisation.weight
        if behaviour is not None:
            options = _regularised(regularisation, behaviour.sizes[1], options)
        self.refiner = Refiner(critic, bounds=bounds, **options)
        self._mean, self._std = _statistics(state_mean, state_std)
        weights = self.refiner.weights()
        self._device = weights[0].device if weights else None
        self._seen: tuple[int, int, int] | None = None  # S, A and rows of the last call
        if info is not None:
            self._seen = info.state_dim, info.action_dim, 1

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The policy's own call, its action refined."""
        if not callable(self.wrapped):
            has = " or ".join(f".{name}" for name in METHODS if hasattr(self.wrapped, name))
            raise TypeError(f"policy: {type(self.wrapped).__name__} cannot be called itself; use its {has}")
        return self._refined("the policy", self.wrapped(*args, **kwargs), args, kwargs)

    def refine(self, observation: Any, action: Any) -> Any:
        """`action` refined for `observation`, for loops whose calls this wrapper does not know.

        Args and result: as of the policy's call, the observation as the policy is given it.
        """
        return self._refine(observation, action, history=False)

    def explain(self) -> Explanation:
        """Which backend and kernel refine the policy's actions, as `dtag_fast.explain` says.

        For calls of the size of the last one; before the first, for one state of a LoadedCritic.

        Raises:
            ValueError: neither has been seen.
        """
        if self._seen is None:
            raise ValueError("explain: the critic's dimensions are not known yet; let the policy act once")
        state_dim, action_dim, rows = self._seen
        steps = self.refiner.steps if isinstance(self.refiner.steps, int) else 10
        binding = self.refiner.binding(state_dim, action_dim, self._device or torch.device("cpu"))
        return describe(binding, rows, 1, steps)

    def __getattr__(self, name: str) -> Any:
        if name in ActionGradient.__slots__:  # not set yet: while it is built or copied
            raise AttributeError(name)
        value = getattr(self.wrapped, name)
        if not callable(value) or (name not in METHODS and getattr(value, "__self__", 0) is not self.wrapped):
            return value

        @functools.wraps(value)
        def method(*args: Any, **kwargs: Any) -> Any:
            result = value(*args, **kwargs)
            if name in METHODS:
                return self._refined(name, result, args, kwargs)
            return self if result is self.wrapped else result

        return method

    def __setattr__(self, name: str, value: Any) -> None:
        if name in ActionGradient.__slots__:
            object.__setattr__(self, name, value)
        else:
            setattr(self.wrapped, name, value)

    def __repr__(self) -> str:
        return f"ActionGradient({self.wrapped!r}, steps={self.refiner.steps}, lr={self.refiner.lr})"

    def _refined(self, called: str, result: Any, args: tuple, kwargs: dict) -> Any:
        """The result of a call of the policy with its action refined."""
        found = [*args[:1], *(kwargs[name] for name in _OBSERVATION_NAMES if name in kwargs)]
        if not found:
            raise TypeError(
                f"observation: expected as the first argument of {called} or by one of the names "
                f"{', '.join(_OBSERVATION_NAMES)}, got {', '.join(kwargs) or 'none'}; use .refine there"
            )
        history = called == "get_action"
        if not isinstance(result, tuple):
            return self._refine(found[0], result, history)
        action, *others = result
        action = self._refine(found[0], action, history)
        return result._make((action, *others)) if hasattr(result, "_make") else (action, *others)

    def _refine(self, observation: Any, action: Any, history: bool) -> Any:
        if isinstance(action, bool | int | np.integer | np.bool_):
            raise TypeError(
                f"actions: Action Gradient climbs a critic over continuous actions alone, the policy gave "
                f"the discrete action {action!r}; use the policy without it"
            )
        given = inputs.as_tensor("actions", action)
        states, last = align(states_of(observation, self._keys), given, history)
        rows = given[last]
        if self._info is not None:
            self._check(states.shape[-1], rows.shape[-1])
        device = self._device or rows.device
        states = states.to(device)
        if self._mean is not None:
            states = self._raw(states)
        rows_there = rows.to(device)
        if self._behaviour is None:
            refined = self.refiner(states, rows_there)
        else:
            local = self._behaviour.to(device).regularisation(states, self._weight)
            refined = self.refiner.run(states, rows_there, **local)
        refined = refined.to(given.device)
        self._seen = states.shape[-1], rows.shape[-1], len(states) if states.ndim > 1 else 1
        if refined.shape != given.shape:
            whole = given.clone()
            whole[last] = refined.view(rows.shape)
            refined = whole
        return refined.numpy() if isinstance(action, np.ndarray) else refined

    def _check(self, state_dim: int, action_dim: int) -> None:
        for name, got, expected in (
            ("observation", state_dim, self._info.state_dim),
            ("actions", action_dim, self._info.action_dim),
        ):
            if got != expected:
                raise ValueError(
                    f"{name}: expected {expected} numbers as in the critic's training data, got {got}; take "
                    "a critic of the same task"
                )

    def _raw(self, states: Tensor) -> Tensor:
        """Undo the loop's standardisation of states (..., S)."""
        if self._mean.shape != states.shape[-1:]:
            raise ValueError(
                f"state_mean: expected one number for each of the observation's {states.shape[-1]}, got "
                f"{self._mean.numel()}"
            )
        self._mean, self._std = (x.to(states.device) for x in (self._mean, self._std))
        return states * self._std + self._mean


def _regularised(regularisation: Behaviour, action_dim: int, options: dict[str, Any]) -> dict[str, Any]:
    """Options of `refine` for a regularisation beside those of the user."""
    steps = options.pop("steps", 10)
    expect_whole("steps", steps, 0)
    own = regularisation.options(steps, action_dim)
    taken = sorted({*own, "scale", "optimizer", "prior"} & set(options))
    if taken:
        raise ValueError(f"behaviour: stands in place of {taken[0]}; leave {taken[0]} out")
    return own | options


def _refuse_discrete(policy: Any, info: RunInfo | None) -> None:
    space = getattr(policy, "action_space", None)
    if space is not None and not (hasattr(space, "low") and hasattr(space, "high")):
        raise ValueError(
            f"policy: Action Gradient climbs a critic over continuous actions, this policy's are {space}; "
            "use the policy without it"
        )
    if info is not None and info.discrete_actions is not None:
        raise ValueError(
            "critic: Action Gradient climbs a critic over continuous actions, this one was trained on "
            "discrete ones; use the policy without it"
        )


def _bounds(policy: Any, info: RunInfo | None) -> Any:
    """Bounds that nobody gave: the critic's data know them best, then the policy."""
    if info is not None:
        return info.action_bounds
    space = getattr(policy, "action_space", None)
    return DEFAULT_BOUNDS if space is None else space


def _statistics(mean: Any, std: Any) -> tuple[Tensor | None, Tensor | None]:
    if (mean is None) != (std is None):
        raise ValueError("state_mean, state_std: expected both or none")
    if mean is None:
        return None, None
    mean, std = (torch.as_tensor(x, dtype=torch.float32).detach() for x in (mean, std))
    if mean.ndim != 1 or mean.shape != std.shape:
        raise ValueError(
            f"state_mean, state_std: expected the same shape (S,), got {tuple(mean.shape)} and "
            f"{tuple(std.shape)}"
        )
    if not (mean.isfinite().all() and std.isfinite().all() and (std > 0).all()):
        raise ValueError("state_mean, state_std: expected finite numbers, deviations above 0")
    return mean, std
