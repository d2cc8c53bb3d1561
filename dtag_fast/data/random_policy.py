"""Collects data of a uniformly random policy in a Gymnasium environment and writes it as a Minari dataset.

Such data are what D4RL calls random: hopper-random is a million steps of it (TD3+ODT, arXiv 2410.24108,
Tables 1 and 4, fine-tunes from there).
"""

import copy
import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import gymnasium
import numpy as np
from gymnasium import spaces

from dtag_fast.data.env_ids import bare_id, module_of, without_known_module
from dtag_fast.data.gymnasium_env import close_env, make_gymnasium_env, mujoco_noise_removed
from dtag_fast.data.minari_reader import (
    ENV_SPEC_KEY,
    NOTES_KEY,
    OBSERVATION_KEYS_KEY,
    REF_SOURCE_KEY,
)
from dtag_fast.data.new_dataset import (
    RECIPE_KEY,
    made_before,
    new_dataset,
    recordable,
    write_about,
    write_episodes,
)
from dtag_fast.data.scores import reference_of
from dtag_fast.data.spaces import observation_paths, parse_space
from dtag_fast.data.vector_entries import VectorEntries

if TYPE_CHECKING:
    from minari.data_collector import EpisodeBuffer

PROGRESS_EVERY = 2000  # steps between two calls of the progress callback
_LARGEST = float(np.finfo(np.float32).max)
_SEEDS = 2**31  # of episodes: 0 .. 2^31 - 1, which every environment takes


def make_random(
    env_id: str,
    steps: int,
    seed: int,
    dataset_id: str | None = None,
    *,
    max_episode_steps: int | None = None,
    observation_keys: Sequence[str] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> str:
    """Collect a dataset of a uniformly random policy and write it under the Minari root.

    Episodes end as the environment says; the last one is cut, as a truncation, where the number of steps is
    reached. Observations are written as float32, actions and rewards as the environment has them, and with
    each episode the seed that it was reset with. Of a Dict observation all Boxes of one dimension are
    written. Memory is 64 episodes at most, whatever the number of steps.

    The metadata holds, beside Minari's own fields: "dtag_recipe" (what made the data); D4RL's reference
    scores where the environment, with its time limit, is D4RL's task without a difference worth a note, by
    `scores.reference_of` (elsewhere the reader looks them up, with the note); "dtag_env_spec" for an id
    "module:Id", of which Gymnasium's own description keeps no module.

    Args:
        env_id: Gymnasium id of an environment with Box or Discrete actions ("Hopper-v5", "CartPole-v1",
            "module:Id-v0", "AdroitHandPen-v1").
        steps: number of steps, at least 1.
        seed: at least 0; same seed and same versions of the environment, same arrays.
        dataset_id: Minari id; None: see `default_id`.
        max_episode_steps: time limit in steps, at least 1; None: the registered one.
        observation_keys: entries of a Dict observation that become the state, in order; None: "observation"
            and, where there is one, "desired_goal".
        progress: called with (steps done, steps in all) now and then and at the end.

    Returns:
        The dataset's id. A dataset of that id and the same recipe is left as it stands.

    Raises:
        ValueError: a number out of its range; a malformed id, or one that another dataset has; an environment
            that cannot be built, whose actions or observations are of another kind, whose actions have no
            bounds, or that raises or gives a number that is not finite. Nothing is written then.
        gymnasium.error.Error: an id nobody registered, or a package that the environment needs is missing.
    """
    _expect_at_least(1, steps=steps, max_episode_steps=max_episode_steps)
    _expect_at_least(0, seed=seed)
    env_id = without_known_module(env_id)
    dataset_id = dataset_id or default_id(env_id, steps, seed)
    recipe = {
        "policy": "uniformly random",
        "env_id": env_id,
        "max_episode_steps": max_episode_steps,
        "observation_keys": list(observation_keys) if observation_keys else None,
        "steps": steps,
        "seed": seed,
    }
    if made_before(dataset_id, recipe):
        return dataset_id
    with mujoco_noise_removed():
        env = _build(env_id, max_episode_steps)
        try:
            _expect_uniform(env.action_space, env_id)
            entries = VectorEntries.of(env.observation_space, env_id)
            about = _about(env, env_id, entries, observation_keys) | {RECIPE_KEY: recipe}
            with new_dataset(dataset_id) as folder:
                collection = _Collection(env, env_id, entries, steps, seed, progress)
                known = entries.space, env.action_space, recordable(_spec(env))
                write_episodes(folder, *known, collection.episodes())
                write_about(folder, dataset_id, about)
        finally:
            close_env(env)
    return dataset_id


def default_id(env_id: str, steps: int, seed: int) -> str:
    """The Minari id of a random dataset: "random/<environment>-<steps>-s<seed>-v0".

    The environment goes without module and version, in lower case, and with "-" for what Minari does not
    take: ("Hopper-v5", 100_000, 0) -> "random/hopper-100000-s0-v0".
    """
    name = re.sub(r"-v\d+$", "", bare_id(env_id)).lower()
    name = re.sub(r"[^a-z0-9_]+", "-", name).strip("-") or "environment"
    return f"random/{name}-{steps}-s{seed}-v0"


class _Collection:
    """Episodes of the random policy, played as they are asked for.

    Actions and seeds of episodes come from two streams of the seed, so that neither depends on how many
    numbers the environment or the other one draws.

    Args:
        env: the environment. env_id: names it in errors.
        entries: of its observations. steps, seed, progress: see `make_random`.
    """

    def __init__(
        self,
        env: gymnasium.Env,
        env_id: str,
        entries: VectorEntries,
        steps: int,
        seed: int,
        progress: Callable[[int, int], None] | None,
    ):
        self._env, self._env_id, self._entries = env, env_id, entries
        self._total, self._done, self._progress = steps, 0, progress
        episodes, actions = np.random.SeedSequence(seed).spawn(2)
        self._seeds = np.random.default_rng(episodes)
        self._actions = copy.deepcopy(env.action_space)  # its own stream, whatever the environment samples
        self._actions.seed(int(actions.generate_state(1)[0]))

    def episodes(self) -> "Iterator[EpisodeBuffer]":
        """Minari's buffers; ValueError where the environment fails."""
        while self._done < self._total:
            yield self._play(int(self._seeds.integers(_SEEDS)))

    def _play(self, seed: int) -> "EpisodeBuffer":
        """One episode, cut where all steps are done."""
        from minari.data_collector import EpisodeBuffer

        actions, rewards = [], []
        terminated = truncated = False
        with self._faults_named("the reset", seed):
            observation, _ = self._env.reset(seed=seed)
            rows = [self._entries.row(observation)]
        while self._done < self._total and not (terminated or truncated):
            action = self._actions.sample()
            actions.append(copy.copy(action))  # some environments clip what they are given in place
            with self._faults_named(f"step {len(actions)}", seed):
                observation, reward, terminated, truncated, _ = self._env.step(action)
                rows.append(self._entries.row(observation))
                rewards.append(_finite(reward))
            self._count()
        ends = np.arange(len(actions)) == len(actions) - 1
        return EpisodeBuffer(
            seed=seed,
            observations=self._entries.arrays(rows),
            actions=np.array(actions, dtype=self._actions.dtype),
            rewards=np.array(rewards),
            terminations=ends & bool(terminated),
            truncations=ends & bool(truncated or not terminated),
        )

    @contextmanager
    def _faults_named(self, where: str, seed: int) -> Iterator[None]:
        """What the environment raises becomes a sentence that says where."""
        try:
            yield
        except (Exception, SystemExit) as error:
            raise ValueError(
                f"env_id: {self._env_id}: {where} of the episode with seed {seed} failed with "
                f"{type(error).__name__}: {error}; repair the environment, or take another --seed"
            ) from error

    def _count(self) -> None:
        self._done += 1
        if self._progress is not None and (self._done % PROGRESS_EVERY == 0 or self._done == self._total):
            self._progress(self._done, self._total)


def _expect_at_least(least: int, **given: int | None) -> None:
    for name, value in given.items():
        if value is not None and value < least:
            raise ValueError(f"{name}: expected at least {least}, got {value}")


def _build(env_id: str, max_episode_steps: int | None) -> gymnasium.Env:
    try:
        env = make_gymnasium_env(env_id, None, max_episode_steps)
    except (gymnasium.error.Error, ValueError):  # these say what is to be done
        raise
    except (Exception, SystemExit) as error:
        raise ValueError(
            f"env_id: {env_id} could not be built: {type(error).__name__}: {error}; taken is what "
            "gymnasium.make builds without further arguments"
        ) from error
    if env.spec.id != bare_id(env_id):
        close_env(env)
        raise ValueError(
            f"env_id: {env_id} is {env.spec.id} with the packages installed here and may be another with "
            "others; give the version too"
        )
    return env


def _expect_uniform(space: gymnasium.Space, env_id: str) -> None:
    """Refuse actions that there is no uniform distribution of, or that no reader takes."""
    if isinstance(space, spaces.Discrete):
        return
    if not isinstance(space, spaces.Box) or len(space.shape) != 1:
        raise ValueError(f"{env_id}: actions: expected a Box of one dimension or Discrete, got {space}")
    with np.errstate(over="ignore", invalid="ignore"):
        span = space.high.astype(np.float32) - space.low.astype(np.float32)
    unbounded = np.flatnonzero(~np.isfinite(span))
    if len(unbounded):
        raise ValueError(
            f"{env_id}: actions: entry {unbounded[0]} has the bounds {space.low[unbounded[0]]} and "
            f"{space.high[unbounded[0]]}, between which nothing is uniform; wrap the environment in "
            "one with finite bounds, and register that under an id of its own"
        )


def _spec(env: gymnasium.Env) -> gymnasium.envs.registration.EnvSpec:
    """The environment as registered, with the time limit of `env`."""
    spec = copy.copy(gymnasium.spec(env.spec.id))
    spec.max_episode_steps = env.spec.max_episode_steps
    return spec


def _about(
    env: gymnasium.Env, env_id: str, entries: VectorEntries, observation_keys: Sequence[str] | None
) -> dict:
    """What metadata.json says of the dataset; ValueError where no state can be made of the observations."""
    from minari.serialization import serialize_space

    keys = observation_paths(parse_space(serialize_space(entries.space)), observation_keys, env_id)
    limit, registered = env.spec.max_episode_steps, gymnasium.spec(env.spec.id)
    about = {
        "algorithm_name": "uniformly random policy",
        "description": f"a uniformly random policy in {env_id}",
    }
    if keys is not None:
        about[OBSERVATION_KEYS_KEY] = keys
    if entries.left_out:
        names = ", ".join(sorted(entries.left_out))
        about[NOTES_KEY] = [
            f"entries of the observation that are no Box of one dimension are left out: {names}"
        ]
    made = {"id": env_id, "kwargs": registered.kwargs, "max_episode_steps": limit}
    if module_of(env_id) or recordable(registered) is None:
        about[ENV_SPEC_KEY] = made | {"kwargs": _in_json(registered.kwargs)}
    reference = reference_of({"env_id": env_id, "env_spec": made})
    if reference is not None and not reference.note:
        about |= {
            "ref_min_score": reference.ref_min,
            "ref_max_score": reference.ref_max,
            REF_SOURCE_KEY: reference.source,
        }
    return about


def _in_json(kwargs: dict) -> dict:
    """The arguments of a registration; none where JSON can not hold them, it passes them itself then."""
    try:
        return json.loads(json.dumps(kwargs))
    except (TypeError, ValueError):
        return {}


def _finite(reward) -> float:
    value = float(reward)
    if not abs(value) <= _LARGEST:
        raise FloatingPointError(f"reward: expected a finite float32 number, got {value}")
    return value
