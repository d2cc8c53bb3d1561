"""Which Minari datasets lie on this machine, and where Minari looks for them."""

import difflib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from dtag_fast.untrusted.plain_json import read_json

ROOT_VARIABLE = "MINARI_DATASETS_PATH"
METADATA_FILE = "metadata.json"
MOST_CHARACTERS = 1 << 28  # bounds of images take a number per pixel and channel


@dataclass(frozen=True)
class LocalDataset:
    """One dataset folder under the Minari root.

    Attributes:
        dataset_id: path below the root, which is Minari's id.
        path: folder that holds metadata.json and the data.
        episodes, steps: as metadata.json says; None where it does not.
        size: bytes of the files in `path`.
        env_id: Gymnasium id of the environment, or None.
        problem: a sentence if metadata.json can not be used, else None.
    """

    dataset_id: str
    path: Path
    episodes: int | None
    steps: int | None
    size: int
    env_id: str | None
    problem: str | None = None


def minari_root() -> Path:
    """Minari's folder of datasets: $MINARI_DATASETS_PATH, else ~/.minari/datasets. It need not exist."""
    root = os.environ.get(ROOT_VARIABLE)
    return Path(root) if root is not None else Path.home() / ".minari" / "datasets"


@contextmanager
def minari_root_at(root: str | os.PathLike) -> Iterator[None]:
    """Minari reads and writes under `root` meanwhile, as an absolute path: it can not write elsewhere."""
    before = os.environ.get(ROOT_VARIABLE)
    os.environ[ROOT_VARIABLE] = str(Path(root).absolute())
    try:
        yield
    finally:
        if before is None:
            del os.environ[ROOT_VARIABLE]
        else:
            os.environ[ROOT_VARIABLE] = before


def read_metadata(folder: Path) -> dict:
    """metadata.json of a Minari dataset.

    Raises:
        FileNotFoundError: there is none. ValueError: damaged.
    """
    file = folder / METADATA_FILE
    metadata = read_json(file.read_bytes(), str(file), MOST_CHARACTERS)
    if not isinstance(metadata, dict):
        raise ValueError(f"{file}: expected a JSON object, got {type(metadata).__name__}; get the file anew")
    return metadata


def list_local(root: str | os.PathLike | None = None) -> list[LocalDataset]:
    """All datasets under `root` (default: `minari_root()`), sorted by id; broken ones have a `problem`."""
    root = minari_root() if root is None else Path(root)
    return sorted((_describe(root, path) for path in _data_folders(root)), key=lambda set_: set_.dataset_id)


def not_found(name: str) -> FileNotFoundError:
    """The error for a dataset that is not on this machine: what there is, what is near it, how to get it."""
    from dtag_fast.data.recipes import command_for

    root = minari_root()
    ids = [dataset.dataset_id for dataset in list_local(root)]
    near = difflib.get_close_matches(name, ids, n=3)
    meant = f"; near it: {', '.join(near)}" if len(near) not in (0, len(ids)) else ""
    return FileNotFoundError(
        f"dataset: {name!r} is neither a file, a folder nor a Minari dataset under {root} ({_origin()}), "
        f"which holds {', '.join(ids) or 'no datasets'}{meant}; put it at {root / name / 'data'}, point "
        f"{ROOT_VARIABLE} to its root, download it with `dtag data download {name}`, make one of a D4RL file "
        f"with `dtag data import FILE --id {name}`, or collect one with `{command_for(name)}`"
    )


def _origin() -> str:
    if ROOT_VARIABLE in os.environ:
        return f"from {ROOT_VARIABLE}"
    return f"the default, as {ROOT_VARIABLE} is not set"


def _data_folders(folder: Path) -> Iterator[Path]:
    """As Minari: a folder with an entry "data" is a dataset, any other a namespace; hidden ones are left."""
    if not folder.is_dir():
        return
    if (folder / "data").exists():
        yield folder / "data"
        return
    for entry in folder.iterdir():
        if entry.is_dir() and not entry.name.startswith("."):
            yield from _data_folders(entry)


def _describe(root: Path, path: Path) -> LocalDataset:
    dataset_id = path.parent.relative_to(root).as_posix()
    size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    try:
        metadata = read_metadata(path)
        spec = metadata.get("dtag_env_spec") or read_json(metadata.get("env_spec") or "{}", "env_spec")
        episodes, steps = int(metadata["total_episodes"]), int(metadata["total_steps"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        problem = f"{METADATA_FILE} can not be used: {type(error).__name__}: {error}"
        return LocalDataset(dataset_id, path, None, None, size, None, problem)
    problem = None
    if metadata.get("dataset_id") != dataset_id:
        problem = f"{METADATA_FILE} has the id {metadata.get('dataset_id')!r}; not its folder's"
    return LocalDataset(dataset_id, path, episodes, steps, size, spec.get("id"), problem)
