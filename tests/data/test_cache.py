"""Converted once, found again by content, never half written."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

import dtag_fast.data.cache as cache
from dtag_fast.data import TrajectoryStore, load_dataset

LENGTHS = (7, 1, 30)


@pytest.fixture
def written(write_minari, make_episodes, minari_home):
    """A Minari set "test/set-v0"; gives its data folder."""
    write_minari("test/set-v0", make_episodes(LENGTHS))
    return minari_home / "test/set-v0/data"


@pytest.fixture
def conversions(monkeypatch):
    """Counts conversions."""
    calls = []
    convert = cache._convert
    monkeypatch.setattr(cache, "_convert", lambda *args: (calls.append(1), convert(*args)))
    return calls


def cached_folders(dataset_id="test/set-v0"):
    folder = cache.cache_root() / "datasets" / dataset_id.replace("/", "--")
    return sorted(folder.iterdir()) if folder.exists() else []


def test_second_load_maps_the_converted_arrays(written, conversions):
    first, second = load_dataset("test/set-v0"), load_dataset("test/set-v0")
    assert len(conversions) == 1
    assert first.metadata == second.metadata
    assert isinstance(second.observations, np.memmap)
    np.testing.assert_array_equal(first.observations, second.observations)


def test_nothing_is_written_beside_the_dataset(written):
    before = {path: path.stat().st_mtime_ns for path in written.rglob("*")}
    for path in (*before, written):
        path.chmod(0o555 if path.is_dir() else 0o444)
    load_dataset("test/set-v0")
    assert {path: path.stat().st_mtime_ns for path in written.rglob("*")} == before


def test_changed_content_is_converted_again(written, write_minari, make_episodes, conversions):
    old = load_dataset("test/set-v0")
    shutil.rmtree(written.parent)
    write_minari("test/set-v0", make_episodes(LENGTHS, seed=1))
    new = load_dataset("test/set-v0")
    assert len(conversions) == 2
    assert old.metadata["fingerprint"] != new.metadata["fingerprint"]
    assert not np.array_equal(old.actions, new.actions)


def test_touched_data_is_converted_again_with_the_same_fingerprint(written, conversions):
    first = load_dataset("test/set-v0")
    os.utime(written / "main_data.hdf5", ns=(1, 1))
    second = load_dataset("test/set-v0")
    assert len(conversions) == 2
    assert first.metadata["fingerprint"] == second.metadata["fingerprint"]


def test_a_fingerprint_without_a_conversion(written, write_minari, make_episodes, conversions, tmp_path):
    first = cache.dataset_fingerprint("test/set-v0")
    metadata = written / "metadata.json"
    metadata.write_text(metadata.read_text().replace("{", '{"ref_min_score": 1.0, ', 1))
    os.utime(written / "main_data.hdf5", ns=(1, 1))
    assert cache.dataset_fingerprint("test/set-v0") == cache.dataset_fingerprint(written.parent) == first
    load_dataset("test/set-v0").save(tmp_path / "store")
    of_store = cache.dataset_fingerprint(tmp_path / "store")
    assert of_store != first
    shutil.rmtree(written.parent)
    write_minari("test/set-v0", make_episodes(LENGTHS, seed=1))
    assert cache.dataset_fingerprint("test/set-v0") != first and len(conversions) == 1
    load_dataset("test/set-v0").save(tmp_path / "other")
    assert cache.dataset_fingerprint(tmp_path / "other") != of_store
    with pytest.raises(FileNotFoundError, match="test/none-v0"):
        cache.dataset_fingerprint("test/none-v0")


def test_changed_metadata_is_seen_at_once(written):
    assert load_dataset("test/set-v0").metadata["ref_min_score"] is None
    path = written / "metadata.json"
    path.write_text(path.read_text().replace("{", '{"ref_min_score": 1.0, "ref_max_score": 2.0, ', 1))
    assert load_dataset("test/set-v0").metadata["ref_min_score"] == 1.0


def test_cache_dir_argument_goes_before_the_variable(written, tmp_path):
    load_dataset("test/set-v0", tmp_path / "elsewhere")
    assert not cached_folders()
    assert any((tmp_path / "elsewhere" / "datasets").iterdir())


def test_default_root_is_in_the_home_folder(monkeypatch, tmp_path):
    monkeypatch.delenv("DTAG_CACHE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache.cache_root() == tmp_path / ".cache" / "dtag_fast"


@pytest.mark.parametrize("damage", ["cut", "missing", "garbled"])
def test_damaged_cache_is_made_again(written, conversions, damage):
    expected = load_dataset("test/set-v0").actions.copy()
    (folder,) = cached_folders()
    if damage == "cut":
        file = folder / "actions.npy"
        file.write_bytes(file.read_bytes()[:200])
    elif damage == "missing":
        (folder / "actions.npy").unlink()
    else:
        (folder / "meta.json").write_text("{")
    np.testing.assert_array_equal(load_dataset("test/set-v0").actions, expected)
    assert len(conversions) == 2


def test_failed_conversion_leaves_nothing(written, monkeypatch):
    def fail(self, metadata):
        raise KeyboardInterrupt

    monkeypatch.setattr(cache.StoreWriter, "finish", fail)
    with pytest.raises(KeyboardInterrupt):
        load_dataset("test/set-v0")
    assert cached_folders() == []


def test_conversion_by_another_process_in_between_is_used(written, monkeypatch):
    convert = cache._convert

    def convert_after_the_other(source, folder, progress):
        convert(source, folder, progress)
        if not cached_folders_done():
            monkeypatch.setattr(cache, "_convert", convert)
            load_dataset("test/set-v0")  # the other process, faster

    def cached_folders_done():
        return [path for path in cached_folders() if not path.name.startswith(".")]

    monkeypatch.setattr(cache, "_convert", convert_after_the_other)
    assert load_dataset("test/set-v0").num_steps == sum(LENGTHS)
    assert len(cached_folders()) == 1


def test_leftovers_of_killed_conversions_are_removed_after_a_day(written):
    folder = cache.cache_root() / "datasets" / "test--set-v0"
    old, fresh = folder / ".converting-old", folder / ".converting-fresh"
    for leftover in (old, fresh):
        leftover.mkdir(parents=True)
    os.utime(old, (1, 1))
    load_dataset("test/set-v0")
    assert not old.exists()
    assert fresh.exists()


def test_unwritable_cache_names_the_remedy(written, monkeypatch):
    def refuse(*args, **options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refuse)  # as root, permissions of folders do not hold
    with pytest.raises(PermissionError, match=r"can not be written \(Permission denied\); set DTAG_CACHE"):
        load_dataset("test/set-v0")


def test_progress_counts_episodes(written):
    seen = []
    load_dataset("test/set-v0", progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize("below", ["", "data"])
def test_a_folder_is_taken_as_well_as_an_id(written, below):
    folder = written.parent / below
    assert load_dataset(folder).metadata == load_dataset("test/set-v0").metadata


def test_a_saved_store_is_opened_where_it_lies(make_store, minari_home, tmp_path):
    make_store(LENGTHS).save(tmp_path / "store")
    assert isinstance(load_dataset(tmp_path / "store"), TrajectoryStore)
    assert not cache.cache_root().exists()
