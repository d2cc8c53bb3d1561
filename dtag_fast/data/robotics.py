"""What Gymnasium-Robotics needs around it."""

import contextlib
import importlib.util
import io
import os
import sys
from types import SimpleNamespace

MISSING = "needs the package gymnasium-robotics, which is missing; pip install 'dtag_fast[robotics]'"


def is_installed() -> bool:
    """Whether Gymnasium-Robotics can be imported."""
    return importlib.util.find_spec("gymnasium_robotics") is not None


def register(quiet: bool = True) -> None:
    """Make its environments known to Gymnasium.

    Args:
        quiet: without the notice on Adroit's dense rewards that its import prints, which puzzles whoever
            runs something else.
    """
    import gymnasium

    with contextlib.redirect_stderr(io.StringIO()) if quiet else contextlib.nullcontext():
        import gymnasium_robotics
    gymnasium.register_envs(gymnasium_robotics)
    _let_joint_types_be_numbers()


class _NumberedJointTypes:
    """The module `mujoco` with its types of joints as plain numbers."""

    def __init__(self, module):
        self._module = module
        kinds = ("mjJNT_FREE", "mjJNT_BALL", "mjJNT_SLIDE", "mjJNT_HINGE")
        self.mjtJoint = SimpleNamespace(**{kind: int(getattr(module.mjtJoint, kind)) for kind in kinds})

    def __getattr__(self, name: str):
        return getattr(self._module, name)


def _let_joint_types_be_numbers() -> None:
    """Let its reading of joints work where MuJoCo's types of joints equal no number of NumPy.

    With MuJoCo 4.0.0 `mjtJoint.mjJNT_HINGE == numpy.int32(3)` is False; Gymnasium-Robotics 1.4.2 looks such a
    number up among the types and asserts that it is there, so that FrankaKitchen, Fetch and the hands of
    HandManipulate do not start. The one module that does so gets numbers to compare with.
    """
    import mujoco
    import numpy as np
    from gymnasium_robotics.utils import mujoco_utils

    hinge = mujoco.mjtJoint.mjJNT_HINGE
    if mujoco_utils.mujoco is mujoco and np.int32(int(hinge)) not in (hinge,):
        mujoco_utils.mujoco = _NumberedJointTypes(mujoco)


def register_for(env_id: str, name: str) -> None:
    """Make its environments known if `env_id` is not known yet and looks like one of them.

    Args:
        name: of the argument, for the error.
    Raises:
        ValueError: it is one of them, and the package is missing.
    """
    import gymnasium

    if env_id in gymnasium.registry or ":" in env_id:
        if env_id.startswith("gymnasium_robotics:") or "gymnasium_robotics" in sys.modules:
            _let_joint_types_be_numbers()
        return
    if is_installed():
        register(quiet=not env_id.startswith("Adroit"))
    elif env_id.startswith(("PointMaze", "AntMaze", "Adroit", "FrankaKitchen", "Fetch", "HandManipulate")):
        raise ValueError(f"{name}: {env_id} {MISSING}")


def remove_model_file(env) -> None:
    """Remove the file that a maze environment leaves in the temporary folder when it is made.

    The model is in memory by then.
    """
    path = getattr(env.unwrapped, "tmp_xml_file_path", None)
    if path is not None:
        with contextlib.suppress(OSError):  # another user's, or gone already
            os.unlink(path)
