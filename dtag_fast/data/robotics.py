"""What Gymnasium-Robotics needs around it."""

import contextlib
import importlib.util
import io
import os

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


def register_for(env_id: str, name: str) -> None:
    """Make its environments known if `env_id` is not known yet and looks like one of them.

    Args:
        name: of the argument, for the error.
    Raises:
        ValueError: it is one of them, and the package is missing.
    """
    import gymnasium

    if env_id in gymnasium.registry or ":" in env_id:
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
