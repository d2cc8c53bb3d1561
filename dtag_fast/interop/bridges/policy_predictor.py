"""PolicyPredictor: a policy of this package where a model of Stable-Baselines3 is expected."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from dtag_fast.data import DiscreteActions, flatten_observation
from dtag_fast.interop.bridges.record_rewards import Earnings
from dtag_fast.models.decoder import Precision
from dtag_fast.models.policies import StatePolicy
from dtag_fast.rollout.arguments import expect_loaded, targets_of
from dtag_fast.rollout.evaluation import make_actor
from dtag_fast.rollout.policy import SequencePolicy
from dtag_fast.rollout.reactive import ReactivePolicy
from dtag_fast.training.checkpoint import LoadedPolicy, load_policy

Refine = Callable[[np.ndarray, np.ndarray], np.ndarray]  # raw states (N, S), actions (N, A) -> (N, A)


class _Episodes:
    """Where N episodes stand.

    Attributes:
        actor: remembers their steps. executed: (N, A) of the last step. steps: (N,) made in each. turn: how
        often they were acted for.
    """

    def __init__(self, actor: SequencePolicy | ReactivePolicy):
        self.actor, self.turn = actor, 0
        self.executed = np.zeros((actor.num_envs, 0), np.float32)
        self.steps = np.zeros(actor.num_envs, np.int64)


@dataclass(frozen=True)
class PredictorState:
    """The state between two calls of `PolicyPredictor.predict`: good for the next call alone."""

    episodes: _Episodes
    turn: int


class PolicyPredictor:
    """`predict` of Stable-Baselines3 for a policy of this package: for its `evaluate_policy`, its callbacks
    and scripts written for its models.

        venv = make_vec_env("Hopper-v5", 8, wrapper_class=RecordRewards)
        evaluate_policy(PolicyPredictor("runs/dt", target_return=3600, rewards=venv), venv)

    A sequence policy looks back. Its history is the `state` of `predict`, as of RecurrentPPO: hand it on from
    call to call and say by `episode_start` which episodes begin. A Decision Transformer also subtracts what
    it has earned from its target return, and `predict` is not told rewards: `rewards` says where they stand.

    Args:
        policy: from `load_policy`, or the run or checkpoint folder of one.
        target_return: what to ask for, in units of the environment's return: one number or (N,). None: that
            of the checkpoint, where it has one alone. Not taken by policies that take none.
        rewards: for policies that take a target return: the environment, or vector of environments, that is
            acted in, with a `RecordRewards` around each; or a callable that gives the rewards (N,) of the
            last step. The rewards of the environment itself: what VecNormalize makes of them is not meant.
        normalizer: a VecNormalize that the observations went through; they are put back to raw ones.
        history_lengths, precision: as `rollout.evaluate` takes them.
        device: of a policy that is loaded from a folder.

    Attributes:
        info: what the policy's checkpoint says.

    Raises:
        TypeError, ValueError: a target return or rewards missing or not wanted, or other bad options.
        FileNotFoundError: no policy in the folder.
    """

    def __init__(
        self,
        policy: LoadedPolicy | str | os.PathLike,
        *,
        target_return: float | Sequence[float] | np.ndarray | None = None,
        rewards: Any = None,
        normalizer: Any = None,
        history_lengths: Sequence[int] | None = None,
        precision: Precision | None = None,
        device: str | torch.device = "cpu",
    ):
        if isinstance(policy, str | os.PathLike):
            policy = load_policy(policy, device)
        expect_loaded(policy, None)
        self.info, self.normalizer = policy.info, normalizer
        self._policy, self._history_lengths, self._precision = policy, history_lengths, precision
        self._target = _target_of(policy, target_return)
        self._looks_back = not isinstance(policy.model, StatePolicy)
        self._discrete = DiscreteActions.of(vars(policy.info))
        if policy.model.takes_target_return and rewards is None:
            raise ValueError(
                f"rewards: {type(policy.model).__name__} subtracts what it has earned from its target return "
                "and predict is not told it; wrap each environment in RecordRewards and give the (vector) "
                "environment as rewards"
            )
        if not policy.model.takes_target_return and rewards is not None:
            raise ValueError(f"rewards: {type(policy.model).__name__} does not ask for them; leave them out")
        self._earnings = None if rewards is None else Earnings(rewards)
        self._new_actor(1, self._target if np.ndim(self._target) == 0 else self._target[:1])  # or refuses

    def predict(
        self,
        observation: Any,
        state: PredictorState | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = True,
    ) -> tuple[np.ndarray, PredictorState | None]:
        """Actions for what is seen now.

        Args:
            observation: (S,) or (N, S), or Dicts of the policy's entries with and without N.
            state: what the last call gave; None where all episodes begin.
            episode_start: (N,) bool, the episodes that begin. A policy that looks back needs it where `state`
                is None.
            deterministic: True; the policies act by their mean.

        Returns:
            (A,) or (N, A) float32, numbers () or (N,) of discrete actions; and the state for the next call.

        Raises:
            ValueError: an observation of other dimensions, a state that is not the last one or that is
                missing in the middle of an episode, or rewards of other steps.
        """
        return self.act(observation, state, episode_start, deterministic)

    def act(
        self,
        observation: Any,
        state: PredictorState | None,
        episode_start: np.ndarray | None,
        deterministic: bool,
        refine: Refine | None = None,
    ) -> tuple[np.ndarray, PredictorState | None]:
        """As `predict`, with actions that are refined before they are executed and remembered."""
        if not deterministic:
            raise ValueError("deterministic: expected True: the policies of this package act by their mean")
        states, single = self._states(observation)
        count = len(states)
        starts = self._starts(count, state, episode_start)
        everyone = np.ones(count, bool)
        if state is None:
            episodes = _Episodes(self._new_actor(count, self._targets(count, everyone)))
            episodes.turn += 1
        else:
            episodes = self._going_on(state, count)
            rewards = np.zeros(count)
            if self._earnings is not None and not starts.all():
                rewards = self._earnings.of(~starts, episodes.steps)
            episodes.turn += 1  # from here on `state` is no longer where they stand
            episodes.actor.record(episodes.executed, rewards, ~starts)
            if starts.any():
                episodes.actor.reset(starts, self._targets(count, starts))
        actions = episodes.actor.act(states, everyone)
        if refine is not None:
            actions = np.asarray(refine(states, actions), np.float32)
        episodes.executed = actions.copy()
        episodes.steps = np.where(starts, 0, episodes.steps) + 1
        given = actions if self._discrete is None else self._discrete.numbers(actions)
        return given[0] if single else given, PredictorState(episodes, episodes.turn)

    def _states(self, observation: Any) -> tuple[np.ndarray, bool]:
        """Raw states (N, S) float32, and whether N was left out."""
        if self.normalizer is not None:
            observation = self.normalizer.unnormalize_obs(observation)
        states = flatten_observation(observation, self.info.observation_keys)
        if states.ndim not in (1, 2) or states.shape[-1] != self.info.state_dim:
            raise ValueError(
                f"observation: expected (S,) or (N, S) with S = {self.info.state_dim} as in the training "
                f"data, got shape {states.shape}"
            )
        return np.atleast_2d(states), states.ndim == 1

    def _starts(self, count: int, state: Any, episode_start: Any) -> np.ndarray:
        """(N,) bool: the episodes that begin."""
        if episode_start is None:
            if state is None and self._looks_back:
                raise ValueError(
                    "episode_start: expected (N,) bool where no state is given: this policy looks back. Give "
                    "np.ones(N, bool) at first, and to each call the state that the last one gave"
                )
            return np.full(count, state is None)
        starts = np.asarray(episode_start, bool).reshape(-1)
        if starts.shape != (count,):
            raise ValueError(
                f"episode_start: expected ({count},), one for each observation, got {starts.shape}"
            )
        if state is None and self._looks_back and not starts.all():
            raise ValueError(
                f"state: expected what the last predict gave: episode {int(np.argmin(starts))} goes on and "
                "this policy looks back"
            )
        return np.ones(count, bool) if state is None else starts

    def _going_on(self, state: Any, count: int) -> _Episodes:
        if not isinstance(state, PredictorState):
            raise ValueError(f"state: expected what the last predict gave, got {type(state).__name__}")
        if state.turn != state.episodes.turn:
            raise ValueError(
                f"state: expected that of the last predict, number {state.episodes.turn}, got that of number "
                f"{state.turn}; a history that has gone on cannot be taken up again"
            )
        if len(state.episodes.steps) != count:
            raise ValueError(
                f"observation: expected those of {len(state.episodes.steps)} episodes, as in state, got "
                f"{count}"
            )
        return state.episodes

    def _new_actor(self, count: int, targets: Any) -> SequencePolicy | ReactivePolicy:
        on_cpu = next(self._policy.model.parameters()).device.type == "cpu"
        return make_actor(
            self._policy, count, targets, on_cpu, self._history_lengths, None, None, self._precision
        )

    def _targets(self, count: int, rows: np.ndarray) -> float | np.ndarray | None:
        """For the episodes `rows` (N,) bool."""
        if np.ndim(self._target) == 0:
            return self._target
        if len(self._target) != count:
            raise ValueError(
                f"target_return: expected one number or one for each of {count} episodes, got "
                f"{len(self._target)}"
            )
        return self._target[rows]


def _target_of(policy: LoadedPolicy, wanted: Any) -> float | np.ndarray | None:
    """The return to ask for, or one for each episode; None where the policy takes none."""
    given = None if wanted is None else np.asarray(wanted, np.float64)
    if given is not None and (given.ndim > 1 or given.size == 0):
        raise ValueError(f"target_return: expected one number or (N,), got shape {given.shape}")
    targets = targets_of(policy, None if given is None else list(given.reshape(-1)))
    if targets == [None]:
        return None
    if given is None and len(targets) > 1:
        raise ValueError(
            f"target_return: the checkpoint has several, {', '.join(f'{t:g}' for t in targets)}; choose one"
        )
    if not np.isfinite(targets).all():
        raise ValueError(f"target_return: expected finite numbers, got {targets}")
    return targets[0] if given is None or given.ndim == 0 else np.array(targets)
