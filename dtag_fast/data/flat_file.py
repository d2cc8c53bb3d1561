"""What files of bare trajectories have in common: no spaces, no environment, no reference scores inside.

The file's name says them where it is one of D4RL's (`d4rl_tasks`), or the user names the environment.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dtag_fast.data.d4rl_tasks import task_of
from dtag_fast.data.discrete import DiscreteActions, discrete_facts
from dtag_fast.data.env_ids import module_of, without_known_module
from dtag_fast.data.scores import reference_of, why_no_score


@dataclass(frozen=True)
class Environment:
    """An environment that the user named for a file.

    Attributes:
        spec: {"id", "kwargs", "max_episode_steps"}; the id with the module that registers it, if one does.
        state_dim: S, length of its observations.
        action_low, action_high: (A,) lists; empty where actions are discrete.
        discrete: the action space where it is discrete.
    """

    spec: dict
    state_dim: int
    action_low: list[float]
    action_high: list[float]
    discrete: DiscreteActions | None = None


class FlatFile:
    """Base of the readers of such files.

    Args:
        path: the file.
        environment: what the user named; None: what the file's name says.

    Attributes:
        task: D4RL task of the file's name, or None.
        name: the task's dataset id, else the file's name without its ending; names the file in errors.
        metadata: what is known without opening the file (see TrajectoryStore.metadata).
        state_dim: S, columns of the observations; once described.
        notes: sentences about what became of the file; complete once the episodes have been read.
    """

    def __init__(self, path: Path, environment: Environment | None = None):
        self.path, self.environment = path, environment
        self.task = task_of(path.stem)
        self.name = self.task.name if self.task else path.stem
        self.state_dim = 0
        self.notes: list[str] = []
        spec = environment.spec if environment else self.task.env_spec if self.task else None
        reference = self.task.reference if self.task else None
        if environment and reference_of(environment.spec["id"]):
            reference = None  # the table says more of it: how the versions of an environment differ
        self.metadata = {
            "dataset_id": self.name,
            "env_id": spec["id"] if spec else None,
            "env_spec": spec,
            "max_episode_steps": self.max_episode_steps,
            "observation_keys": None,
            "ref_min_score": reference.ref_min if reference else None,
            "ref_max_score": reference.ref_max if reference else None,
            "ref_source": reference.source if reference else None,
            "description": f"read from {path.name}",
        }
        if reference and (reason := why_no_score(self.metadata)):
            self.metadata |= dict.fromkeys(("ref_min_score", "ref_max_score", "ref_source"))
            self.notes.append(f"reference scores are left out: {reason}")

    @property
    def identity(self) -> tuple[str, ...]:
        """What decides the result beside the content: the file's name, and what is made of it."""
        wrapper = self.task and self.task.env_wrapper  # versions before had no environment for these
        return (self.path.name, wrapper) if wrapper else (self.path.name,)

    @property
    def data_files(self) -> list[str]:
        """Files whose content the episodes come from."""
        return [str(self.path)]

    @property
    def max_episode_steps(self) -> int | None:
        """Step limit: of the environment named by the user, else of D4RL's."""
        if self.environment is not None:
            return self.environment.spec["max_episode_steps"]
        return self.task.max_episode_steps if self.task else None

    def with_actions(self, low: np.ndarray, high: np.ndarray, state_dim: int, integers: bool) -> dict:
        """The metadata with the action space.

        That of the environment; all of D4RL's have [-1, 1]. Without either it is taken from the data: one
        column of integers is discrete actions, numbered from 0 to the largest.

        Args:
            low, high: (A,) smallest and largest action of the file per dimension.
            state_dim: S, columns of its observations.
            integers: whether the actions are of an integer type.

        Raises:
            ValueError: the environment has other observations or actions than the file, or discrete actions
                are negative.
        """
        self.state_dim = state_dim
        named = self.environment.discrete if self.environment else None
        if len(low) == 1 and (named is not None or (integers and self.environment is None)):
            lowest, highest = (int(np.nan_to_num(bound[0])) for bound in (low, high))
            return self.metadata | discrete_facts(self._discrete(lowest, highest))
        if self.environment is not None:
            self._expect_dims(state_dim, len(low))
            bounds = self.environment.action_low, self.environment.action_high
        elif self.task is not None:
            bounds = [-1.0] * len(low), [1.0] * len(low)
            if self.task.env_note:
                self.notes.append(self.task.env_note)
        else:
            unit = bool((low >= -1).all() and (high <= 1).all())
            bounds = ([-1.0] * len(low), [1.0] * len(low)) if unit else (low.tolist(), high.tolist())
            found = "[-1, 1], which holds all its actions" if unit else "the range of its actions"
            self.notes.append(
                f"{self.path.name} says neither environment nor action space: taken as bounds is {found}; "
                "name the environment with `dtag data import FILE --id ID --env ENV_ID`"
            )
        return {**self.metadata, "action_low": bounds[0], "action_high": bounds[1]}

    def _discrete(self, lowest: int, highest: int) -> DiscreteActions:
        """The space of discrete actions of which the file has these."""
        if self.environment is not None:
            space, name = self.environment.discrete, self.environment.spec["id"]
            if self.environment.state_dim != self.state_dim:
                raise ValueError(
                    f"env: {name} has {self.environment.state_dim} observations, {self.path.name} has "
                    f"{self.state_dim}; name the environment of the data"
                )
            if lowest < space.start or highest > space.last:
                raise ValueError(
                    f"env: {name} has actions {space.start} to {space.last}, {self.path.name} has {lowest} "
                    f"to {highest}; name the environment of the data"
                )
            return space
        if self.task is not None:
            raise ValueError(
                f"{self.name}: actions: expected vectors, as D4RL has them for this name, got integers; give "
                "the file another name, or name the environment with `dtag data import --env ENV_ID`"
            )
        if lowest < 0:
            raise ValueError(
                f"{self.name}: actions: expected discrete actions numbered from 0, got {lowest}; name the "
                "environment with `dtag data import FILE --id ID --env ENV_ID`"
            )
        self.notes.append(
            f"{self.path.name} says neither environment nor action space: its integer actions are taken as "
            f"discrete, 0 to {highest}, the largest in the file; name the environment with `dtag data import "
            "FILE --id ID --env ENV_ID`"
        )
        return DiscreteActions(highest + 1)

    def _expect_dims(self, state_dim: int, action_dim: int) -> None:
        env = self.environment
        if env.discrete is not None:
            raise ValueError(
                f"env: {env.spec['id']} has actions of {env.discrete}, {self.path.name} has vectors of "
                f"{action_dim}; name the environment of the data"
            )
        if (env.state_dim, len(env.action_low)) != (state_dim, action_dim):
            raise ValueError(
                f"env: {env.spec['id']} has {env.state_dim} observations and {len(env.action_low)} actions, "
                f"{self.path.name} has {state_dim} and {action_dim}; name the environment of the data"
            )


def environment_of(env_id: str) -> Environment:
    """Make an environment once to learn its spaces and step limit.

    Args:
        env_id: Gymnasium id ("Hopper-v5", "my_package:MyEnv-v0").

    Raises:
        gymnasium.error.Error: an id nobody registered, or whose module cannot be imported.
        ValueError: its observations or actions are no vectors, or it needs a package that is missing.
    """
    import gymnasium

    from dtag_fast.data import robotics
    from dtag_fast.data.gymnasium_env import make_gymnasium_env

    env_id = without_known_module(env_id)
    robotics.register_for(env_id, "env")
    env = make_gymnasium_env(env_id)
    try:
        actions, discrete = env.action_space, None
        if isinstance(actions, gymnasium.spaces.Discrete):
            discrete = DiscreteActions(int(actions.n), int(actions.start))
        for name, space in (("observations", env.observation_space), ("actions", actions)):
            vector = isinstance(space, gymnasium.spaces.Box) and len(space.shape) == 1
            if not vector and (discrete is None or space is not actions):
                raise ValueError(
                    f"env: {env_id} has {name} of {space}; a file of flat vectors can not be played there, "
                    "name an environment whose observations are vectors and whose actions are vectors or "
                    "discrete"
                )
        spec = {
            "id": f"{module}:{env.spec.id}" if (module := module_of(env_id)) else env.spec.id,
            "kwargs": dict(env.spec.kwargs),
            "max_episode_steps": env.spec.max_episode_steps,
        }
        low, high = ([], []) if discrete else (actions.low.tolist(), actions.high.tolist())
        return Environment(spec, env.observation_space.shape[0], low, high, discrete)
    finally:
        env.close()
