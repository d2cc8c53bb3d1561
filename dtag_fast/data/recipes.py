"""Which command of `dtag data make` collects a dataset, by its id."""

import re

_MADE = r"(?P<name>[\w-]+)-(?P<steps>\d+)-s(?P<seed>\d+)-v0"


def command_for(dataset_id: str) -> str:
    """The command that collects a dataset of this id; environment, steps and seed where the id says them.

    Ids are those that `dtag data make` gives: "pointmaze/umaze-1000000-s0-v0", "random/hopper-100000-s0-v0".
    The latter have no version of the environment; named is the newest of that name that Gymnasium knows.
    """
    namespace, _, rest = dataset_id.rpartition("/")
    made = re.fullmatch(_MADE, rest)
    numbers = "" if made is None else f" --steps {int(made['steps'])} --seed {int(made['seed'])}"
    if namespace == "random":
        env_id = made and _environment(made["name"])
        return f"dtag data make random --env {env_id or 'ENV_ID'}{numbers}"
    if namespace == "pointmaze" and made and made["name"] in ("umaze", "medium", "large"):
        return f"dtag data make pointmaze-{made['name']}{numbers}"
    return "dtag data make pointmaze-umaze"


def _environment(name: str) -> str | None:
    """The newest environment whose random data have this name in their id; None where there is none."""
    import gymnasium

    from dtag_fast.data import robotics
    from dtag_fast.data.random_policy import default_id

    def newest() -> str | None:
        found = [spec for spec in gymnasium.registry.values() if default_id(spec.id, 1, 0) == wanted]
        return max(found, key=lambda spec: spec.version or 0).id if found else None

    wanted = default_id(name, 1, 0)
    if (env_id := newest()) is None and robotics.is_installed():
        robotics.register()
        env_id = newest()
    return env_id
