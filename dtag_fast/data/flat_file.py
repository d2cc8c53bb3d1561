"""What files of bare trajectories have in common: no spaces, no environment, no reference scores inside.

The file's name says them where it is one of D4RL's (`d4rl_tasks`), or the user names the environment.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dtag_fast.data.d4rl_tasks import task_of
from dtag_fast.data.scores import reference_of


@dataclass(frozen=True)
class Environment:
    """An environment that the user named for a file.

    Attributes:
        spec: {"id", "kwargs", "max_episode_steps"}.
        state_dim: S, length of its observations.
        action_low, action_high: (A,) lists.
    """

    spec: dict
    state_dim: int
    action_low: list[float]
    action_high: list[float]


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

    @property
    def identity(self) -> tuple[str, ...]:
        """What decides the result beside the content: the file's name."""
        return (self.path.name,)

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

    def with_bounds(self, low: np.ndarray, high: np.ndarray, state_dim: int) -> dict:
        """The metadata with the action space.

        That of the environment; all of D4RL's have [-1, 1]. Without either it is taken from the data.

        Args:
            low, high: (A,) smallest and largest action of the file per dimension.
            state_dim: S, columns of its observations.

        Raises:
            ValueError: the environment has other observations or actions than the file.
        """
        self.state_dim = state_dim
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

    def _expect_dims(self, state_dim: int, action_dim: int) -> None:
        env = self.environment
        if (env.state_dim, len(env.action_low)) != (state_dim, action_dim):
            raise ValueError(
                f"env: {env.spec['id']} has {env.state_dim} observations and {len(env.action_low)} actions, "
                f"{self.path.name} has {state_dim} and {action_dim}; name the environment of the data"
            )


def environment_of(env_id: str) -> Environment:
    """Make an environment once to learn its spaces and step limit.

    Raises:
        gymnasium.error.Error: an id nobody registered.
        ValueError: its observations or actions are no vectors, or it needs a package that is missing.
    """
    import gymnasium

    from dtag_fast.data import robotics

    robotics.register_for(env_id, "env")
    env = gymnasium.make(env_id, disable_env_checker=True)
    try:
        robotics.remove_model_file(env)
        for name, space in (("observations", env.observation_space), ("actions", env.action_space)):
            if not isinstance(space, gymnasium.spaces.Box) or len(space.shape) != 1:
                raise ValueError(
                    f"env: {env_id} has {name} of {space}; a file of flat vectors can not be played there, "
                    "name an environment whose observations and actions are vectors"
                )
        spec = {
            "id": env.spec.id,
            "kwargs": dict(env.spec.kwargs),
            "max_episode_steps": env.spec.max_episode_steps,
        }
        low, high = env.action_space.low.tolist(), env.action_space.high.tolist()
        return Environment(spec, env.observation_space.shape[0], low, high)
    finally:
        env.close()
