"""Latency of single actions: one environment, one policy, action by action, as a control loop would wait."""

import gc
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, fields
from typing import Any

import gymnasium
import numpy as np
import torch
from torch import Tensor, nn

from dtag_fast import Refiner
from dtag_fast.models.behaviour import BehaviourModel
from dtag_fast.models.decoder import Precision
from dtag_fast.rollout.arguments import (
    REFINE_PRECISION,
    check_precision,
    check_together,
    expect_loaded,
    listed,
    targets_of,
)
from dtag_fast.rollout.candidates import Candidates
from dtag_fast.rollout.captured import CapturedStep, why_not_captured
from dtag_fast.rollout.environment_kind import EnvironmentKind
from dtag_fast.rollout.environments import expect_actions, state_vector
from dtag_fast.rollout.evaluation import make_actor
from dtag_fast.rollout.policy import SequencePolicy
from dtag_fast.rollout.reactive import ReactivePolicy
from dtag_fast.rollout.refinement import Refinement
from dtag_fast.rollout.settings import AGSetting, expect_whole
from dtag_fast.rollout.starts import Starts
from dtag_fast.rollout.transfers import TimedTransfers, now
from dtag_fast.training.checkpoint import LoadedCritic, LoadedPolicy

PERCENTILES = (50, 95, 99)
METHOD = "linear"  # of numpy.percentile: between the two nearest times

ACTIVE = np.ones(1, bool)  # the one rollout there is
FIRST = np.zeros(1, np.int64)  # its place, and that of its setting


@dataclass(frozen=True)
class Times:
    """Microseconds per action: mean and percentiles."""

    mean: float
    p50: float
    p95: float
    p99: float

    @classmethod
    def of(cls, nanoseconds: np.ndarray) -> "Times":
        """Of times (N,)."""
        return cls(
            float(nanoseconds.mean()) / 1e3,
            *(np.percentile(nanoseconds, PERCENTILES, method=METHOD) / 1e3).tolist(),
        )


@dataclass(frozen=True)
class SettingLatency:
    """One Action Gradient setting.

    Attributes:
        parts: "policy", "refine" (not of the plain policy), "transfer" (not on a CPU), "environment" and
            "total", which is their sum, action by action.
        captured: policy, Action Gradient and transfers as one replay of a CUDA graph; None where there is
            none, and `not_captured` says why.
    """

    label: str
    setting: AGSetting
    parts: dict[str, Times]
    captured: Times | None
    not_captured: str | None


@dataclass(frozen=True)
class LatencyResult:
    """Latencies of one checkpoint, per setting, and what they were measured under.

    Attributes:
        actions: that were timed, per setting. warmup: that were played before them.
        threads: of PyTorch. garbage_collector: whether Python's was on.
        percentiles: how they are taken.
    """

    env_id: str
    device: str
    threads: int
    garbage_collector: bool
    actions: int
    warmup: int
    percentiles: str
    settings: list[SettingLatency]

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, lists and strings; times in microseconds."""
        content = asdict(self) | {"unit": "microseconds"}
        for setting, mine in zip(content["settings"], self.settings, strict=True):
            setting["setting"] = mine.setting.to_dict()
        return content


def measure_latency(
    policy: LoadedPolicy,
    *,
    critic: LoadedCritic | None = None,
    settings: Sequence[AGSetting] = (AGSetting(),),
    target_returns: Sequence[float] | None = None,
    actions: int = 1000,
    warmup: int = 100,
    seed: int = 0,
    env_id: str | None = None,
    history_lengths: Sequence[int] | None = None,
    candidates: Candidates | None = None,
    precision: Precision | None = None,
    behaviour: BehaviourModel | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> LatencyResult:
    """Time single actions of real episodes in one environment, B = 1, with nothing beside them.

    Each setting plays episodes from `reset(seed=seed)`, `reset(seed=seed + 1)`, ... until `warmup` actions
    have been left out and `actions` timed. Resets are not timed. PyTorch keeps its number of threads and
    Python its garbage collector. On CUDA the clock is read when the device is done, so that a part is not
    charged for the kernels of the one before; those waits are part of the times.

    - policy: from the observation to the action, or to all starts, and entering into the history what it
      earned.
    - refine: the call of a `Refiner`, prepared once. transfer: copies between host and device, both ways.
    - environment: its step and the observation as a vector.

    Args:
        policy, critic, settings, env_id, history_lengths, candidates, precision, behaviour: as in
            `evaluate`.
        target_returns: the first of them is asked for; None takes the checkpoint's.
        actions, warmup: numbers of actions per setting, at least 1 and at least 0.
        seed: of the first episode.
        progress: called as progress(actions done, actions in all).

    Raises:
        ValueError, TypeError: as `evaluate`.
    """
    for name, value, least in (("actions", actions, 1), ("warmup", warmup, 0), ("seed", seed, 0)):
        expect_whole(name, value, least)
    expect_loaded(policy, critic)
    settings, target = listed(settings), targets_of(policy, target_returns)[0]
    env_id = env_id or policy.info.env_id
    check_together(policy, critic, settings, env_id, history_lengths, candidates, behaviour)
    check_precision(precision)
    kind, device = EnvironmentKind.of(policy.info, env_id), next(policy.model.parameters()).device
    found, count = [], warmup + actions

    def report(done: int) -> None:
        if progress is not None:
            progress(len(found) * count + done, len(settings) * count)

    with closing(kind.make()) as env:
        expect_actions(env, kind.discrete, kind.action_dim)
        for setting in settings:
            crew = [
                make_actor(policy, 1, target, False, history_lengths, candidates, critic, precision)
                for _ in range(2)
            ]
            refiner = refinement = starts = None
            if setting.starts > 1:
                starts = Starts(crew[0], policy.info.action_dim, [setting])
            if not setting.is_plain:
                network, bounds = critic.critic.to(device), policy.info.action_bounds
                wanted = REFINE_PRECISION[precision]
                refiner = _refiner(network, bounds, setting, wanted, behaviour)
                refinement = Refinement(
                    network, bounds, [setting], device, precision=wanted, behaviour=behaviour
                )
            reason = why_not_captured(crew[1], refinement)
            apart = _Episodes(env, crew[0], kind, target, seed, starts)
            together = _Episodes(env, crew[1], kind, target, seed)
            parts = _apart(apart, refiner, count, report)
            captured = None
            if reason is None:
                step = CapturedStep(crew[1], refinement)
                captured = Times.of(_together(together, step, count)[warmup:])
            times = {part: Times.of(values[warmup:]) for part, values in parts.items()}
            found.append(SettingLatency(setting.label, setting, times, captured, reason))
    on_gpu = device.type == "cuda"
    return LatencyResult(
        env_id=env_id,
        device=torch.cuda.get_device_name(device) if on_gpu else str(device),
        threads=torch.get_num_threads(),
        garbage_collector=gc.isenabled(),
        actions=actions,
        warmup=warmup,
        percentiles=f"numpy.percentile, method={METHOD}",
        settings=found,
    )


def _refiner(
    critic: nn.Module,
    bounds: tuple[np.ndarray, np.ndarray],
    setting: AGSetting,
    precision: str | None,
    behaviour: BehaviourModel | None,
) -> Callable[[Tensor, Tensor], Tensor]:
    """Action Gradient under one setting as a control loop has it: (states, actions) -> actions."""
    action_dim = len(bounds[0])
    variant = setting.variant(action_dim)
    own = {"steps": setting.steps, "lr": setting.step_size(action_dim), "bounds": bounds}
    options = {field.name: getattr(variant, field.name) for field in fields(variant)}
    refiner = Refiner(critic, precision=precision, **own, **options)
    if setting.behaviour is None:
        return refiner
    model, weight = behaviour.to(next(critic.parameters()).device), setting.behaviour.weight
    return lambda states, actions: refiner.run(states, actions, **model.regularisation(states, weight))


class _Episodes:
    """Episodes of one environment, one after the other, for a policy of one rollout.

    It steps the environment itself: `Environments` of one slot keeps faults and looks for numbers that are
    not finite, 8 us a step that a control loop does not have (CartPole-v1, 2-core Intel Xeon with AMX:
    9 and 17 us).

    Attributes:
        observation: (1, S) float32, what the policy sees next.
    """

    def __init__(
        self,
        env: gymnasium.Env,
        actor: SequencePolicy | ReactivePolicy,
        kind: EnvironmentKind,
        target_return: float | None,
        seed: int,
        starts: Starts | None = None,
    ):
        self.env, self.actor, self.kind, self.starts = env, actor, kind, starts
        self.target_return, self.seed = target_return, seed
        self.observation = np.zeros((1, kind.state_dim), np.float32)
        self.rewards, self.over = np.zeros(1), True

    def begin(self) -> None:
        """Start the next episode where one has ended."""
        if not self.over:
            return
        observation, _ = self.env.reset(seed=self.seed)
        self._see(observation)
        self.actor.reset(ACTIVE, self.target_return, self.seed)
        if self.starts is not None:
            self.starts.begin(0, self.seed)
        self.seed, self.over = self.seed + 1, False

    def act(self) -> np.ndarray:
        """The policy's action (1, A), or all starts (1, M, A)."""
        actions = self.actor.act(self.observation, ACTIVE)
        if self.starts is None:
            return actions
        draws = self.starts.draw(FIRST, self.observation, actions, FIRST)
        return np.concatenate((actions, draws))[None]

    def step(self, actions: np.ndarray) -> None:
        """Execute actions (1, A)."""
        discrete = self.kind.discrete
        action = actions[0] if discrete is None else discrete.numbers(actions)[0]
        observation, self.rewards[0], terminated, truncated, _ = self.env.step(action)
        self._see(observation)
        self.over = terminated or truncated

    def _see(self, observation) -> None:
        self.observation[0] = state_vector(observation, self.kind.observation_keys, self.kind.state_dim)


def _apart(
    episodes: _Episodes,
    refiner: Callable[[Tensor, Tensor], Tensor] | None,
    count: int,
    report: Callable[[int], None],
) -> dict[str, np.ndarray]:
    """Nanoseconds (count,) of every part of `count` actions, each part waited for."""
    actor = episodes.actor
    device, transfers = actor.device, TimedTransfers(actor.device)
    actor.use(transfers)
    names = ["policy", "environment", "total"]
    names[1:1] = ["refine"] if refiner is not None else []
    names[-2:-2] = ["transfer"] if device.type == "cuda" else []
    times = {name: np.zeros(count, np.int64) for name in names}
    for i in range(count):
        episodes.begin()
        transfers.take()
        began = now(device)
        actions = episodes.act()
        acted, copied = now(device), transfers.take()
        times["policy"][i] = acted - began - copied
        refined = acted
        if refiner is not None:
            states, starts = (transfers.to_device(x) for x in (episodes.observation, actions))
            actions = transfers.to_host(refiner(states, starts))
            refined, more = now(device), transfers.take()
            times["refine"][i] = refined - acted - more
            copied += more
        episodes.step(actions)
        stepped = now(device)
        actor.record(actions, episodes.rewards, ACTIVE)
        recorded = now(device)
        times["policy"][i] += recorded - stepped
        times["environment"][i] = stepped - refined
        if "transfer" in times:
            times["transfer"][i] = copied
        times["total"][i] = recorded - began
        report(i + 1)
    return times


def _together(episodes: _Episodes, step: CapturedStep, count: int) -> np.ndarray:
    """Nanoseconds (count,) that policy, Action Gradient and transfers take as one captured step."""
    actor, settings = episodes.actor, np.zeros(1, np.int64)
    times = np.zeros(count, np.int64)
    for i in range(count):
        episodes.begin()
        began = now(actor.device)
        actions = step.act(episodes.observation, ACTIVE, settings).actions
        acted = now(actor.device)
        episodes.step(actions)
        stepped = now(actor.device)
        actor.record(actions, episodes.rewards, ACTIVE)
        times[i] = acted - began + now(actor.device) - stepped
    return times
