"""What environments of an evaluation are: plain values, from which any process can build them."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import gymnasium

from dtag_fast.data import DiscreteActions
from dtag_fast.data.gymnasium_env import close_env
from dtag_fast.data.played_env import played_in
from dtag_fast.rollout.environments import Environments, Seen, make_env

if TYPE_CHECKING:  # children import this module, and start in a tenth of the time without torch
    from dtag_fast.training.checkpoint import RunInfo

TIMED_STEPS, TIMED_SECONDS = 50, 0.2  # of the environment whose step is timed, at most


@dataclass(frozen=True)
class EnvironmentKind:
    """Arguments of `make_env` and `Environments`.

    Attributes:
        env_id, env_spec, max_episode_steps: as `make_env` takes them.
        state_dim, action_dim, observation_keys, discrete: as `Environments` takes them.
    """

    env_id: str
    env_spec: dict[str, Any] | None
    max_episode_steps: int | None
    state_dim: int
    action_dim: int
    observation_keys: list[str] | None
    discrete: DiscreteActions | None

    @classmethod
    def of(cls, info: RunInfo, env_id: str | None = None) -> EnvironmentKind:
        """The environment of a checkpoint's training data, or another one for its policy: see `played_in`."""
        about = played_in(vars(info), env_id)
        environment = (about[name] for name in ("env_id", "env_spec", "max_episode_steps"))
        sizes = info.state_dim, info.action_dim, info.observation_keys
        return cls(*environment, *sizes, DiscreteActions.of(about))

    def make(self) -> gymnasium.Env:
        """One environment."""
        return make_env(self.env_id, self.env_spec, self.max_episode_steps)

    def build(self, num_envs: int, arrays: Seen | None = None) -> Environments:
        """`num_envs` of them in this process."""
        sizes = self.state_dim, self.observation_keys, self.discrete, self.action_dim
        return Environments(self.make, num_envs, *sizes, arrays)

    def time_step(self) -> tuple[float, int]:
        """(seconds that a step takes here, time limit in steps, 1000 where there is none).

        The median over some steps with random actions, of an environment that is then closed.
        """
        env, seconds = self.make(), []
        try:
            env.action_space.seed(0)
            env.reset(seed=0)
            until = time.perf_counter() + TIMED_SECONDS
            while len(seconds) < TIMED_STEPS and time.perf_counter() < until:
                action, began = env.action_space.sample(), time.perf_counter()
                *_, terminated, truncated, _ = env.step(action)
                seconds.append(time.perf_counter() - began)
                if terminated or truncated:
                    env.reset(seed=0)
            return statistics.median(seconds), (env.spec and env.spec.max_episode_steps) or 1000
        finally:
            close_env(env)
