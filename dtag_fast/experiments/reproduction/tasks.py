"""The tasks of the experiments, by D4RL's names without version, and the data that stand for them here."""

from dataclasses import dataclass
from pathlib import Path

from dtag_fast.data.catalog import METADATA_FILE, minari_root
from dtag_fast.data.d4rl_tasks import task_of

MAZES = ("umaze", "medium", "large")
GYM = tuple(
    f"{body}-{quality}"
    for body in ("halfcheetah", "hopper", "walker2d")
    for quality in ("medium", "medium-replay", "medium-expert")
)
MAZE2D = tuple(f"maze2d-{size}" for size in MAZES)
ADROIT = ("door-human", "door-expert")
ANTMAZE = ("antmaze-umaze",)

# datasets of Minari's server by the first word of a task's name
_MINARI = {
    "halfcheetah": "mujoco/{body}/{quality}-v0",
    "hopper": "mujoco/{body}/{quality}-v0",
    "walker2d": "mujoco/{body}/{quality}-v0",
    "maze2d": "D4RL/pointmaze/{quality}-v2",
    "antmaze": "D4RL/antmaze/{quality}-v1",
    "door": "D4RL/door/{quality}-v2",
}


@dataclass(frozen=True)
class Source:
    """Where data are looked for.

    Attributes:
        kind: "local" (local/BODY/QUALITY-v0 under the Minari root, PointMaze data made here), "minari" (the
            ids of Minari's server, under the Minari root), "d4rl" (D4RL's own files in `folder`).
        root: the Minari root, or the folder of D4RL's files.
    """

    kind: str
    root: Path

    @classmethod
    def parse(cls, text: str) -> "Source":
        """Of "local", "minari" or "d4rl:DIR".

        Raises:
            ValueError: something else, or there is no such folder.
        """
        kind, _, folder = text.partition(":")
        if kind == "d4rl" and folder:
            root = Path(folder).expanduser()
            if not root.is_dir():
                raise ValueError(f"data: {folder} is no folder; give the one that holds D4RL's .hdf5 files")
            return cls("d4rl", root.absolute())
        if text not in ("local", "minari"):
            raise ValueError(f'data: expected "local", "minari" or "d4rl:DIR", got {text!r}')
        return cls(text, minari_root())

    def find(self, task: str) -> str | None:
        """What `load_dataset` takes for a task; None where it is not on this machine."""
        if self.kind == "d4rl":
            return self._file(task)
        body, _, quality = task.partition("-")
        name = f"local/{body}/{quality}-v0"
        if self.kind == "minari":
            name = _MINARI[body].format(body=body, quality=quality)
        return name if (self.root / name / "data" / METADATA_FILE).is_file() else None

    def wanted(self, task: str) -> str:
        """What would have to be there for `find` to find it, in words."""
        body, _, quality = task.partition("-")
        if self.kind == "d4rl":
            return f"a file of {task} in {self.root}"
        if self.kind == "minari":
            return f"{_MINARI[body].format(body=body, quality=quality)} under the Minari root"
        return f"local/{body}/{quality}-v0 under the Minari root"

    @property
    def remedy(self) -> str:
        """What brings data here, for whoever has none."""
        if self.kind == "d4rl":
            return (
                "D4RL's files have names like hopper_medium_replay-v2.hdf5; give the folder that holds them"
            )
        elsewhere = "set MINARI_DATASETS_PATH to the root that holds them"
        if self.kind == "minari":
            return f"`dtag data download ID` fetches one, or {elsewhere}"
        return f"{elsewhere}, or take --data minari or --data d4rl:DIR"

    def _file(self, task: str) -> str | None:
        """Of several versions the latest."""
        versions = {}
        for file in sorted(self.root.iterdir()):
            found = task_of(file.stem) if file.suffix in (".hdf5", ".pkl") else None
            if found is not None and found.name.rpartition("-v")[0] == task:
                versions.setdefault(int(found.name.rpartition("-v")[2]), file)
        return str(versions[max(versions)]) if versions else None
