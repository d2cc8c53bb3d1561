"""Ids of environments as `gymnasium.make` takes them: "Id-v0", or "module:Id-v0" to import a module first."""

_REGISTERED_HERE = "gymnasium_robotics:"  # dtag_fast registers these itself, whoever asks for one


def bare_id(env_id: str) -> str:
    """The id without its module, by which tables know it: "my_package:Hopper-v5" -> "Hopper-v5"."""
    return env_id.rpartition(":")[2]


def module_of(env_id: str) -> str:
    """The module that registers the id, "" where none is named."""
    return env_id.rpartition(":")[0]


def without_known_module(env_id: str) -> str:
    """The id without a module that nobody needs to be told: "gymnasium_robotics:PointMaze_UMaze-v3"."""
    return env_id.removeprefix(_REGISTERED_HERE)


def is_same(one: str | None, other: str | None) -> bool:
    """Whether two ids name one environment: the same id, and no two different modules."""
    if not one or not other:
        return one == other
    modules = {module_of(one), module_of(other)} - {""}
    return bare_id(one) == bare_id(other) and len(modules) < 2
