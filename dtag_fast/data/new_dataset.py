"""New Minari datasets under the Minari root: an id that is valid and free, episodes, what is said of them.

A dataset appears under its id in one rename, never half written.
"""

import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from dtag_fast.data import catalog

if TYPE_CHECKING:
    from gymnasium import Space
    from gymnasium.envs.registration import EnvSpec
    from minari.data_collector import EpisodeBuffer

RECIPE_KEY = "dtag_recipe"  # of metadata.json: what a collected dataset was made from
_BATCH = 64  # episodes given to Minari at a time


def expect_id(dataset_id: str) -> None:
    """Refuse an id that Minari would not find again.

    Raises:
        ValueError: it has no version, or characters or a namespace that Minari does not take.
    """
    from minari.dataset.minari_dataset import DATASET_ID_RE

    match = DATASET_ID_RE.fullmatch(dataset_id)
    if match is None or match["version"] is None:
        raise ValueError(
            f"--id: expected namespace/name-vN with a namespace of two characters or more, or name-vN, got "
            f"{dataset_id!r}; for example d4rl/hopper-medium-v2"
        )


def expect_free(dataset_id: str) -> None:
    """Refuse an id that is malformed or taken.

    Raises:
        ValueError: naming what is wrong with it.
    """
    expect_id(dataset_id)
    if (catalog.minari_root() / dataset_id).exists():
        raise ValueError(
            f"--id: {dataset_id!r} exists already under {catalog.minari_root()}; take another id, or remove "
            f"it with: minari delete {dataset_id}"
        )


def made_before(dataset_id: str, recipe: Mapping) -> bool:
    """Whether a dataset of this id and recipe lies under the Minari root.

    Args:
        recipe: what the dataset is made from, as JSON gives it back.

    Raises:
        ValueError: the id is malformed, or something of another recipe has it.
    """
    expect_id(dataset_id)
    folder = catalog.minari_root() / dataset_id
    if not folder.exists():
        return False
    try:
        known = catalog.read_metadata(folder / "data").get(RECIPE_KEY)
    except (OSError, ValueError):  # no dataset, or a damaged one
        known = None
    if known != recipe:
        raise ValueError(
            f"--id: {dataset_id!r} exists already and was made from {known or 'something else'}; take "
            f"another id, or remove it with: minari delete {dataset_id}"
        )
    return True


@contextmanager
def new_dataset(dataset_id: str) -> Iterator[Path]:
    """A data folder to write into; afterwards it is the dataset's, or nothing is left of it.

    Raises:
        ValueError: afterwards, the id is malformed or has been taken meanwhile.
    """
    root = catalog.minari_root().absolute()  # Minari fails to write under a relative one
    root.mkdir(parents=True, exist_ok=True)
    target = root / dataset_id
    with tempfile.TemporaryDirectory(dir=root, prefix=".unfinished-") as scratch:  # hidden: not listed
        folder = Path(scratch) / "set" / "data"
        folder.parent.mkdir()
        yield folder
        expect_free(dataset_id)  # what another process made meanwhile stays
        _make_namespace(dataset_id)
        target.parent.mkdir(parents=True, exist_ok=True)
        os.rename(folder.parent, target)


def _make_namespace(dataset_id: str) -> None:
    from minari.namespace import create_namespace, list_local_namespaces

    namespace = dataset_id.rpartition("/")[0]
    with catalog.minari_root_at(catalog.minari_root()):
        if namespace and namespace not in list_local_namespaces():
            create_namespace(namespace)


def write_episodes(
    folder: Path,
    observation_space: "Space",
    action_space: "Space",
    env_spec: "EnvSpec | None",
    episodes: "Iterable[EpisodeBuffer]",
    jpeg_encoding: bool = True,
) -> None:
    """Write episodes into a new dataset batch by batch; memory does not grow with the dataset.

    Args:
        folder: the data folder, not there yet.
        observation_space, action_space, env_spec, jpeg_encoding: as Minari takes them.
        episodes: Minari's buffers, drawn while they are written.
    """
    from minari.dataset.minari_storage import MinariStorage

    spaces = observation_space, action_space
    storage = MinariStorage.new(folder, *spaces, env_spec=env_spec, jpeg_encoding=jpeg_encoding)
    remaining = iter(episodes)
    while batch := list(islice(remaining, _BATCH)):
        storage.update_episodes(batch)


def write_about(folder: Path, dataset_id: str, about: Mapping) -> None:
    """Add to the metadata of a written dataset its id, Minari's version and `about`."""
    from minari import __version__
    from minari.dataset.minari_storage import MinariStorage

    given = {"dataset_id": dataset_id, "minari_version": __version__, **about}
    MinariStorage.read(folder).update_metadata(given)


def recordable(env_spec: "EnvSpec") -> "EnvSpec | None":
    """The spec, from which Minari and others rebuild the environment; None where JSON can not hold it.

    A spec with a class or function in it, as an entry point say, is of that kind.
    """
    try:
        env_spec.to_json()
    except (TypeError, ValueError):
        return None
    return env_spec
