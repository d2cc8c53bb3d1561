"""Gymnasium environments for evaluation: built from what a checkpoint records, stepped many at once.

`Environments` is a plain list of environments and not a Gymnasium vector environment: nothing here resets
an environment on its own, so no reset step and no second episode can be counted, each slot can be seeded and
restarted alone, and a step costs less (64 Hopper-v5 on a busy 2-core AMD EPYC, Zen 3: 3.4k steps/s here,
2.9k by SyncVectorEnv).
"""

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import gymnasium
import numpy as np

from dtag_fast.data import DiscreteActions, env_ids, flatten_observation
from dtag_fast.data.gymnasium_env import close_env, make_gymnasium_env, registered_spec
from dtag_fast.rollout.faults import Fault
from dtag_fast.rollout.maze2d import WRAPPERS


def make_env(
    env_id: str, env_spec: dict | None = None, max_episode_steps: int | None = None
) -> gymnasium.Env:
    """Build one environment as the dataset of a checkpoint describes it.

    Args:
        env_id: Gymnasium id ("Hopper-v5", "my_package:MyEnv-v0").
        env_spec: the dataset's description: Gymnasium's EnvSpec as a dict, or {"id", "kwargs",
            "max_episode_steps", "wrapper"}, the wrapper one of `maze2d.WRAPPERS` or None. Used when its id
            is `env_id`, where one of the two may lack the module; another `env_id` is built as it is
            registered.
        max_episode_steps: time limit in steps, when `env_spec` has none.

    Raises:
        ValueError: unknown `wrapper`, or an environment of Gymnasium-Robotics without that package.
        gymnasium.error.UnregisteredEnv: an id nobody registered, or whose module cannot be imported.
    """
    spec = _spec_of(env_id, env_spec)
    if spec and not env_ids.module_of(env_id):
        env_id = spec["id"]
    wrapper = spec.get("wrapper")
    if wrapper is not None and wrapper not in WRAPPERS:
        raise ValueError(f"env_spec: wrapper {wrapper!r} is unknown; this version has {', '.join(WRAPPERS)}")
    limit = spec.get("max_episode_steps") or max_episode_steps
    env = make_gymnasium_env(env_id, spec, limit)
    return WRAPPERS[wrapper](env) if wrapper else env


def made_spec(env_id: str, env_spec: dict | None = None, max_episode_steps: int | None = None) -> dict:
    """Describe what `make_env` builds of the same arguments, without building it.

    Returns:
        `env_spec` where it is one of `env_id`, completed by what the id is registered with: time limit,
        arguments, wrappers. Nothing is added where this process does not know the id: another one may have
        built it.

    Raises:
        gymnasium.error.UnregisteredEnv: an id whose module cannot be imported.
    """
    spec, registered = _spec_of(env_id, env_spec), registered_spec(env_id)
    limit = spec.get("max_episode_steps") or max_episode_steps
    if registered is None:
        return {**spec, "max_episode_steps": limit}
    made = {**spec, "max_episode_steps": limit or registered.max_episode_steps}
    if "entry_point" in spec or spec.get("wrapper"):  # these say all of it
        return made
    return made | {
        "kwargs": {**registered.kwargs, **spec.get("kwargs", {})},
        "additional_wrappers": [vars(wrapper) for wrapper in registered.additional_wrappers],
    }


def _spec_of(env_id: str, env_spec: dict | None) -> dict:
    """The dataset's description where it is one of `env_id`, else nothing."""
    return env_spec if env_spec and env_ids.is_same(env_spec.get("id"), env_id) else {}


class Seen(NamedTuple):
    """What N environments gave last: observations (N, S) float32, rewards (N,) float64, terminated and
    truncated (N,) bool. busy_since (N,) float64: when the reset or step began that a slot is in, by
    `time.monotonic`; 0 where it is in none."""

    observations: np.ndarray
    rewards: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    busy_since: np.ndarray


class Environments:
    """N environments of one kind with their last observations, rewards and end flags in flat arrays.

    Not to be shared by threads. Several of these may run in threads of their own: MuJoCo releases Python's
    lock while it integrates.

    An environment that raises, or gives an observation or a reward that is not finite, ends the episode of
    its slot alone: what happened stands in `faults`, and the slot's next reset builds a new environment.

    Args:
        make: builds one environment.
        num_envs: N >= 1.
        state_dim: S, length of the flattened observation.
        observation_keys: entries of a Dict observation, in order; None for Box observations.
        discrete: the policy's actions where they are discrete; their one-hot rows become numbers here.
        action_dim: A of the policy's continuous actions; None does not compare it with the environment's.
        arrays: where to write; None for arrays of its own.

    Raises:
        ValueError: the environment's actions are discrete and the policy's are not, or the other way round,
            or both are and their spaces differ, or both are continuous and of other dimensions.

    Attributes:
        observations: (N, S) float32, what the agent sees next.
        rewards: (N,) float64 of the last step.
        terminated, truncated: (N,) bool of the last step; then `reset` the slot before its next step.
        faults: slot -> what went wrong in its last reset or step; then `reset` it likewise. Its observation
            and reward are zeros.
    """

    def __init__(
        self,
        make: Callable[[], gymnasium.Env],
        num_envs: int,
        state_dim: int,
        observation_keys: Sequence[str] | None = None,
        discrete: DiscreteActions | None = None,
        action_dim: int | None = None,
        arrays: Seen | None = None,
    ):
        self._make = make
        self.envs: list[gymnasium.Env | None] = [make() for _ in range(num_envs)]
        self.faults: dict[int, Fault] = {}
        self.observation_keys, self.discrete = observation_keys, discrete
        try:
            expect_actions(self.envs[0], discrete, action_dim)
        except ValueError:
            self.close()
            raise
        self.observations, self.rewards, self.terminated, self.truncated, self._busy_since = arrays or Seen(
            np.zeros((num_envs, state_dim), np.float32),
            np.zeros(num_envs),
            np.zeros(num_envs, bool),
            np.zeros(num_envs, bool),
            np.zeros(num_envs),
        )

    def reset(self, rows: Sequence[int], seeds: Sequence[int]) -> None:
        """Start new episodes in the slots `rows`, one after the other.

        Raises:
            ValueError: the environment's observations are not those of the training data.
        """
        for row, seed in zip(rows, seeds, strict=True):
            self.faults.pop(row, None)
            self.rewards[row] = 0.0
            self.terminated[row] = self.truncated[row] = False
            self._busy_since[row] = time.monotonic()
            try:
                if self.envs[row] is None:
                    self.envs[row] = self._make()
                observation, _ = self.envs[row].reset(seed=seed)
            except (Exception, SystemExit) as error:
                self._fail(row, error)
            else:
                self.observations[row] = self._vector(observation)
                self._expect_finite(np.array([row]))
            self._busy_since[row] = 0.0

    def step(self, rows: np.ndarray, actions: np.ndarray) -> None:
        """Step the slots `rows` (R,) with `actions` (R, A); all other slots stay untouched.

        Discrete actions are one-hot rows.

        Raises:
            RuntimeError: a slot whose episode is over.
        """
        expect_running(rows, self.terminated, self.truncated, self.faults)
        if self.discrete is not None:
            actions = self.discrete.numbers(actions)
        for row, action in zip(rows.tolist(), actions, strict=True):
            self._busy_since[row] = time.monotonic()
            try:
                observation, reward, terminated, truncated, _ = self.envs[row].step(action)
                self.observations[row] = self._vector(observation)
                self.rewards[row], self.terminated[row], self.truncated[row] = reward, terminated, truncated
            except (Exception, SystemExit) as error:
                self._fail(row, error)
            self._busy_since[row] = 0.0
        self._expect_finite(rows)

    def _vector(self, observation) -> np.ndarray:
        return state_vector(observation, self.observation_keys, self.observations.shape[1])

    def _expect_finite(self, rows: np.ndarray) -> None:
        """Fail those of `rows` (R,) that see or earn a number that is not finite."""
        seen, earned = np.isfinite(self.observations[rows]), np.isfinite(self.rewards[rows])
        for i in np.flatnonzero(~(seen.all(axis=1) & earned)):
            row = int(rows[i])
            what = f"reward: expected a finite number, got {self.rewards[row]}"
            if earned[i]:
                entry = int(np.argmin(seen[i]))
                value = self.observations[row, entry]
                what = f"observation: expected finite float32 numbers, entry {entry} is {value}"
            self._fail(row, FloatingPointError(what))

    def _fail(self, row: int, error: BaseException) -> None:
        self.faults[row] = Fault.of(error)
        self.observations[row], self.rewards[row] = 0.0, 0.0
        self.terminated[row] = self.truncated[row] = False
        broken, self.envs[row] = self.envs[row], None
        close_env(broken)

    def close(self) -> None:
        """Close every environment; one that raises is warned of."""
        for env in self.envs:
            close_env(env)

    def __enter__(self) -> "Environments":
        return self

    def __exit__(self, *_) -> None:
        self.close()


def state_vector(observation, keys: Sequence[str] | None, state_dim: int) -> np.ndarray:
    """An observation as the policy takes it, (S,) float32; keys: as `observation_keys` of `Environments`.

    Raises:
        ValueError: it is not of the kind or length of the training data.
    """
    if isinstance(observation, dict) and keys is None:
        raise ValueError(
            f"observation: the environment gives a Dict of {', '.join(observation)}, the policy was trained "
            "on plain vectors; evaluate in the environment of the dataset"
        )
    flat = flatten_observation(observation, keys)
    if flat.shape != (state_dim,):
        raise ValueError(
            f"observation: expected {state_dim} numbers as in the training data, got {flat.size}; evaluate "
            "in the environment of the dataset"
        )
    return flat


def expect_running(
    rows: np.ndarray, terminated: np.ndarray, truncated: np.ndarray, faults: dict[int, Fault]
) -> None:
    """Refuse to step `rows` (R,) if the episode of one is over."""
    over = rows[terminated[rows] | truncated[rows]].tolist() + [row for row in rows.tolist() if row in faults]
    if over:
        raise RuntimeError(f"rows: the episode of slot {over[0]} is over; reset it before its next step")


def expect_actions(env: gymnasium.Env, discrete: DiscreteActions | None, action_dim: int | None) -> None:
    """Refuse an environment that takes other actions than the policy gives."""
    space, found = env.action_space, None
    if isinstance(space, gymnasium.spaces.Discrete):
        found = DiscreteActions(int(space.n), int(space.start))
    sizes_differ = discrete is None and action_dim is not None and space.shape != (action_dim,)
    if found != discrete or sizes_differ:
        size = "" if action_dim is None else f"{action_dim} "
        ours = f"{size}continuous numbers" if discrete is None else str(discrete)
        raise ValueError(
            f"actions: the environment takes {space}, the policy's are {ours}; evaluate in the environment "
            "of the dataset"
        )
