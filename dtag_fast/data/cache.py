"""`load_dataset`: a dataset by Minari id, folder or file, converted once to a memory-mapped store."""

import hashlib
import os
import shutil
import tempfile
import time
from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate
from pathlib import Path

from dtag_fast.data import catalog
from dtag_fast.data.discrete import DiscreteActions
from dtag_fast.data.minari_reader import open_source
from dtag_fast.data.oddities import Oddities
from dtag_fast.data.sources import Source, open_file
from dtag_fast.data.store import FORMAT_VERSION, META_FILE, TrajectoryStore
from dtag_fast.data.writer import StoreWriter

CACHE_VARIABLE = "DTAG_CACHE"
_UNFINISHED = ".converting-"
_UNFINISHED_LIFETIME = 24 * 3600  # seconds after which an unfinished conversion belongs to a dead process
_HASHED_BLOCKS, _BLOCK = 64, 4096


def load_dataset(
    name_or_path: str | os.PathLike,
    cache_dir: str | os.PathLike | None = None,
    *,
    observation_keys: Sequence[str] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> TrajectoryStore:
    """Load a dataset; the first time it is converted to flat arrays, later it is only mapped into memory.

    Args:
        name_or_path: id of a Minari dataset under its root (MINARI_DATASETS_PATH, else ~/.minari/datasets),
            or a folder: of a Minari dataset, or of a store written by `TrajectoryStore.save`; or a file: of
            D4RL (.hdf5), or of pickled trajectories (.pkl). An id goes first.
        cache_dir: where converted datasets are kept; None: $DTAG_CACHE, else ~/.cache/dtag_fast.
        observation_keys: for Dict observations the entries that become the state, in order; None: what the
            dataset itself says, else "observation" and "desired_goal" (where there is one).
        progress: called with (done, in all) during a conversion: episodes, or steps of a D4RL file.

    Raises:
        FileNotFoundError: no such dataset; the message lists those there are and where they belong.
        ValueError: the dataset is damaged or of a kind that is not taken; names the episode and the key.
        OSError: the cache can not be written.
    """
    path = _place(name_or_path)
    if (path / META_FILE).is_file():
        return TrajectoryStore.open(path)
    if path.is_file():
        if observation_keys:
            raise ValueError(f"observation_keys: {path} has observations without keys; leave them out")
        source, about = open_file(path), b""
    else:
        source = open_source(path, observation_keys)
        about = (path / catalog.METADATA_FILE).read_bytes()
    files = source.data_files
    stats = [os.stat(file) for file in files]
    fingerprint = content_fingerprint(files, [stat.st_size for stat in stats], about)
    # The time of change catches an edit between the hashed blocks; the identity is part of the result.
    changed = "|".join(str(stat.st_mtime_ns) for stat in stats)
    key = f"{FORMAT_VERSION}|{fingerprint}|{changed}|{'|'.join(source.identity)}"
    store = _open_or_convert(source, key, cache_root(cache_dir), progress)
    # What metadata.json or the file's name say now, so that it is never older; the rest as it was converted.
    store.metadata = {**store.metadata, **source.metadata, "fingerprint": fingerprint}
    return store


def cache_root(cache_dir: str | os.PathLike | None = None) -> Path:
    """Folder of converted datasets: `cache_dir`, else $DTAG_CACHE, else ~/.cache/dtag_fast."""
    chosen = cache_dir or os.environ.get(CACHE_VARIABLE)
    return Path(chosen) if chosen else Path.home() / ".cache" / "dtag_fast"


def dataset_fingerprint(name_or_path: str | os.PathLike) -> str:
    """What `content_fingerprint` says of the files that a dataset's episodes come from, without its metadata;
    reads little and converts nothing.

    Args:
        name_or_path: as `load_dataset` takes it.

    Raises:
        FileNotFoundError, ValueError: as there.
    """
    path = _place(name_or_path)
    if (path / META_FILE).is_file():
        files = [str(file) for file in sorted(path.iterdir())]
    else:
        files = (open_file(path) if path.is_file() else open_source(path, None)).data_files
    return content_fingerprint(files, [os.stat(file).st_size for file in files])


def content_fingerprint(files: Sequence[str], sizes: Sequence[int], about: bytes = b"") -> str:
    """32 hex digits that follow the content of a dataset, cheap enough to be taken at every load.

    Hashed are `about` (its metadata), the sizes of its files in bytes and 64 blocks of 4 KiB spread over all
    of them, as if they were one, from the first byte to the last.
    """
    digest = hashlib.blake2b(about, digest_size=16)
    digest.update("|".join(map(str, sizes)).encode())
    ends = list(accumulate(sizes))
    last = max(sum(sizes) - _BLOCK, 0)
    at_file: dict[int, list[int]] = {}
    for block in range(_HASHED_BLOCKS if files else 0):
        position = last * block // (_HASHED_BLOCKS - 1)
        number = min(bisect_right(ends, position), len(files) - 1)
        at_file.setdefault(number, []).append(position - (ends[number] - sizes[number]))
    for number, positions in at_file.items():
        with open(files[number], "rb") as file:
            for position in positions:
                file.seek(position)
                digest.update(file.read(_BLOCK))
    return digest.hexdigest()


def _place(name_or_path: str | os.PathLike) -> Path:
    """The folder of a Minari dataset's data or of a store, or the file, that a name or path stands for."""
    path = catalog.minari_root() / name_or_path / "data"
    if path.is_dir():
        return path
    path = Path(name_or_path)
    if (path / META_FILE).is_file():
        return path
    path = path / "data" if (path / "data").is_dir() else path
    if not path.is_file() and not (path / catalog.METADATA_FILE).is_file():
        raise catalog.not_found(str(name_or_path))
    return path


def _open_or_convert(
    source: Source, key: str, root: Path, progress: Callable[[int, int], None] | None
) -> TrajectoryStore:
    folder = root / "datasets" / source.metadata["dataset_id"].replace("/", "--")
    target = folder / hashlib.blake2b(key.encode(), digest_size=12).hexdigest()
    if (found := _open_intact(target)) is not None:
        return found
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(folder)
        with tempfile.TemporaryDirectory(dir=folder, prefix=_UNFINISHED) as scratch:
            _convert(source, Path(scratch) / "store", progress)
            _publish(Path(scratch) / "store", target)
    except PermissionError as error:
        raise PermissionError(
            f"cache: {folder} can not be written ({error.strerror}); set {CACHE_VARIABLE} to another folder"
        ) from error
    return TrajectoryStore.open(target)


def _convert(source: Source, folder: Path, progress: Callable[[int, int], None] | None) -> None:
    folder.mkdir()
    metadata = source.describe()
    discrete = DiscreteActions.of(metadata)
    bounds = (metadata["action_low"], metadata["action_high"]) if discrete is None else (0.0, 1.0)
    oddities = Oddities(*bounds)
    writer = StoreWriter(folder, metadata["dataset_id"], oddities, discrete)
    steps = 0
    try:
        for episodes, arrays in enumerate(source.episodes(), start=1):
            writer.append(arrays)
            steps += len(arrays[1])
            if progress is not None:
                progress(episodes if source.counts == "episodes" else steps, source.total)
        expected = getattr(source, "num_steps", steps)
        if steps != expected:
            oddities.say(f"metadata.json counts {expected} steps, the episodes hold {steps}")
        writer.finish({**metadata, "notes": [*source.notes, *oddities.sentences()]})
    finally:
        writer.close()


def _open_intact(folder: Path) -> TrajectoryStore | None:
    """The store in `folder`, None where there is none or a damaged one."""
    try:
        return TrajectoryStore.open(folder)
    except (OSError, ValueError, KeyError):
        return None


def _publish(made: Path, target: Path) -> None:
    """Move a finished conversion into place; where another process was faster, its equal result stays."""
    if target.exists() and _open_intact(target) is None:
        shutil.rmtree(target)
    try:
        os.rename(made, target)
    except OSError:
        if _open_intact(target) is None:
            raise


def _remove_abandoned(folder: Path) -> None:
    for entry in folder.glob(f"{_UNFINISHED}*"):
        if time.time() - entry.stat().st_mtime > _UNFINISHED_LIFETIME:
            shutil.rmtree(entry, ignore_errors=True)
