"""`load_dataset`: a Minari dataset by id or folder, converted once to a memory-mapped store."""

import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from dtag_fast.data import catalog
from dtag_fast.data.minari_reader import DATA_FILE, MinariSource, open_source
from dtag_fast.data.oddities import Oddities
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
            or a folder: of a Minari dataset, or of a store written by `TrajectoryStore.save`. An id goes
            first.
        cache_dir: where converted datasets are kept; None: $DTAG_CACHE, else ~/.cache/dtag_fast.
        observation_keys: for Dict observations the entries that become the state, in order; None: what the
            dataset itself says, else "observation" and "desired_goal" (where there is one).
        progress: called with (episodes done, episodes in all) during a conversion.

    Raises:
        FileNotFoundError: no such dataset; the message lists those there are and where they belong.
        ValueError: the dataset is damaged or of a kind that is not taken; names the episode and the key.
        OSError: the cache can not be written.
    """
    path = catalog.minari_root() / name_or_path / "data"
    if not path.is_dir():
        path = Path(name_or_path)
        if (path / META_FILE).is_file():
            return TrajectoryStore.open(path)
        path = path / "data" if (path / "data").is_dir() else path
        if not (path / catalog.METADATA_FILE).is_file():
            raise catalog.not_found(str(name_or_path))
    source = open_source(path, observation_keys)
    fingerprint = content_fingerprint(path)
    store = _open_or_convert(source, fingerprint, cache_root(cache_dir), progress)
    # Everything but the notes comes from metadata.json as it is now, so that it is never older than the file.
    store.metadata = {**source.metadata, "fingerprint": fingerprint, "notes": store.metadata["notes"]}
    return store


def cache_root(cache_dir: str | os.PathLike | None = None) -> Path:
    """Folder of converted datasets: `cache_dir`, else $DTAG_CACHE, else ~/.cache/dtag_fast."""
    chosen = cache_dir or os.environ.get(CACHE_VARIABLE)
    return Path(chosen) if chosen else Path.home() / ".cache" / "dtag_fast"


def content_fingerprint(path: Path) -> str:
    """32 hex digits that follow the content of a Minari dataset, cheap enough to be taken at every load.

    Hashed are its metadata, the size of its data and 64 blocks of 4 KiB spread over them from the first byte
    to the last.
    """
    digest = hashlib.blake2b(digest_size=16)
    digest.update((path / catalog.METADATA_FILE).read_bytes())
    with (path / DATA_FILE).open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        digest.update(str(size).encode())
        last = max(size - _BLOCK, 0)
        for block in range(_HASHED_BLOCKS):
            file.seek(last * block // (_HASHED_BLOCKS - 1))
            digest.update(file.read(_BLOCK))
    return digest.hexdigest()


def _open_or_convert(
    source: MinariSource, fingerprint: str, root: Path, progress: Callable[[int, int], None] | None
) -> TrajectoryStore:
    # The time of change catches an edit between the hashed blocks; the entries read are part of the result.
    changed = (source.path / DATA_FILE).stat().st_mtime_ns
    key = f"{FORMAT_VERSION}|{fingerprint}|{changed}|{'|'.join(source.state_paths)}"
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


def _convert(source: MinariSource, folder: Path, progress: Callable[[int, int], None] | None) -> None:
    folder.mkdir()
    oddities = Oddities(source.metadata["action_low"], source.metadata["action_high"])
    writer = StoreWriter(folder, source.metadata["dataset_id"], oddities)
    steps = 0
    try:
        for done, arrays in enumerate(source.episodes(), start=1):
            writer.append(arrays)
            steps += len(arrays[1])
            if progress is not None:
                progress(done, source.num_episodes)
        if steps != source.num_steps:
            oddities.say(f"metadata.json counts {source.num_steps} steps, the episodes hold {steps}")
        writer.finish({**source.metadata, "notes": oddities.sentences()})
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
