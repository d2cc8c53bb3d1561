"""Builds and closes one Gymnasium environment, and keeps MuJoCo's messages off the terminal meanwhile."""

import importlib
import importlib.util
import json
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import gymnasium

from dtag_fast.data import robotics
from dtag_fast.data.env_ids import bare_id, module_of

# Said for every HalfCheetah that is built; it concerns Gymnasium's model file, not the user.
_NOISE = "compiler attribute 'settotalmass' is deprecated"


def make_gymnasium_env(
    env_id: str, env_spec: Mapping | None = None, max_episode_steps: int | None = None
) -> gymnasium.Env:
    """Build one environment, without Gymnasium's checks of every step.

    Args:
        env_id: Gymnasium id ("Hopper-v5", "my_package:MyEnv-v0").
        env_spec: Gymnasium's EnvSpec as a dict, or {"kwargs": arguments of the environment}; None: as it is
            registered.
        max_episode_steps: time limit in steps; None: the registered one.

    Raises:
        ValueError: an environment of Gymnasium-Robotics without that package.
        gymnasium.error.UnregisteredEnv: an id nobody registered, or whose module cannot be imported.
    """
    spec = env_spec or {}
    with mujoco_noise_removed():
        robotics.register_for(env_id, "env_id")
        _import_module_of(env_id)
        if "entry_point" in spec:
            described = gymnasium.envs.registration.EnvSpec.from_json(json.dumps(spec))
            env = gymnasium.make(described, max_episode_steps=max_episode_steps, disable_env_checker=True)
        else:
            kwargs = spec.get("kwargs", {})
            options = {"max_episode_steps": max_episode_steps, "disable_env_checker": True, **kwargs}
            try:
                env = gymnasium.make(env_id, **options)
            except gymnasium.error.UnregisteredEnv as error:
                raise type(error)(
                    f"env_id: {error} An id that a module of your own registers is written 'module:{env_id}'"
                ) from error
    robotics.remove_model_file(env)
    return env


def registered_spec(env_id: str) -> gymnasium.envs.registration.EnvSpec | None:
    """What an id is registered with; None where nobody registered it.

    Raises:
        gymnasium.error.UnregisteredEnv: its module cannot be imported.
    """
    _import_module_of(env_id)
    return gymnasium.registry.get(bare_id(env_id))


def _import_module_of(env_id: str) -> None:
    """Import the module that "module:id" names, which registers the id."""
    module = module_of(env_id)
    try:
        if module:
            importlib.import_module(module)
    except ImportError as error:
        raise gymnasium.error.UnregisteredEnv(
            f"env_id: {env_id} names the module {module}, which cannot be imported ({error}); install it, or "
            "put its folder on PYTHONPATH"
        ) from error


def close_env(env: gymnasium.Env | None) -> None:
    """Close an environment, which may be broken: what it raises then loses no result."""
    if env is None:
        return
    try:
        env.close()
    except Exception as error:
        warnings.warn(
            f"environment: closing it raised {type(error).__name__}: {error}", RuntimeWarning, stacklevel=3
        )


@contextmanager
def mujoco_noise_removed() -> Iterator[None]:
    """Meanwhile hand MuJoCo's warnings to Python's `warnings`, all but the known noise.

    Left alone, MuJoCo prints them from C and appends them to MUJOCO_LOG.TXT in the working directory.
    """
    if importlib.util.find_spec("mujoco") is None:
        yield
        return
    import mujoco

    def forward(message: str) -> None:
        if _NOISE not in message:
            warnings.warn(f"MuJoCo: {message}", RuntimeWarning, stacklevel=2)

    before = mujoco.get_mju_user_warning()
    mujoco.set_mju_user_warning(forward)
    try:
        yield
    finally:
        mujoco.set_mju_user_warning(before)
