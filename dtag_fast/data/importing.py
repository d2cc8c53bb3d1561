"""Makes Minari datasets: from files of trajectories, and by joining datasets.

The result lies under the Minari root like any other dataset, so that every verb and Minari itself find it
by its id. It appears there in one rename, never half written.
"""

import copy
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from dtag_fast.data import catalog, env_ids
from dtag_fast.data.discrete import DiscreteActions, discrete_facts
from dtag_fast.data.flat_file import FlatFile, environment_of
from dtag_fast.data.minari_reader import (
    ENV_SPEC_KEY,
    NOTES_KEY,
    OBSERVATION_KEYS_KEY,
    REF_SOURCE_KEY,
    open_source,
)
from dtag_fast.data.new_dataset import expect_free, new_dataset, recordable, write_about, write_episodes
from dtag_fast.data.sources import open_file
from dtag_fast.data.validation import check_episode

_KEPT = ("env_spec", "eval_env_spec", "requirements", "algorithm_name", "code_permalink")  # of the first part
_REFERENCES = ("ref_min_score", "ref_max_score")

Progress = Callable[[int, int], None]


def import_files(
    files: Sequence[str | os.PathLike],
    dataset_id: str,
    env_id: str | None = None,
    progress: Progress | None = None,
) -> list[str]:
    """Make one Minari dataset of D4RL files and pickled trajectories, their episodes in the given order.

    Args:
        files: at least one.
        dataset_id: Minari id of the new dataset.
        env_id: Gymnasium environment of the data; None: what the files' names say.
        progress: called with (done, in all), for one file after the other.

    Returns:
        Sentences about what became of the files.

    Raises:
        ValueError: a file that can not be read or trusted; files of different tasks; an id that is malformed
            or taken.
        FileNotFoundError: a file is not there.
    """
    if not files:
        raise ValueError("FILE: expected at least one file, got none")
    expect_free(dataset_id)
    environment = environment_of(env_id) if env_id else None
    sources = []
    for file in map(Path, files):
        if not file.is_file():
            raise FileNotFoundError(f"FILE: {file} is no file; give a D4RL file or a pickle of trajectories")
        sources.append(open_file(file, environment))
    agreed = _agreed({str(source.path): source.metadata for source in sources})
    if agreed["env_spec"] is None:
        _expect_one_d4rl_environment(sources)
    described = [source.describe() for source in sources]
    dims = {
        (source.state_dim, "discrete" if DiscreteActions.of(one) else len(one["action_low"]))
        for source, one in zip(sources, described, strict=True)
    }
    if len(dims) > 1:
        raise ValueError(
            "FILE: the files have different sizes of observation and action, "
            f"{sorted(dims, key=lambda sizes: (sizes[0], str(sizes[1])))}; import them one by one"
        )
    metadata = described[0] | agreed | _common_actions(described)
    discrete = DiscreteActions.of(metadata)
    spaces = _spaces(sources[0].state_dim, metadata)
    with new_dataset(dataset_id) as folder:
        env_spec = _gymnasium_spec(metadata["env_spec"])
        write_episodes(folder, *spaces, env_spec, _episodes(sources, discrete, progress))
        notes = [
            note if len(sources) == 1 else f"{source.path.name}: {note}"
            for source in sources
            for note in source.notes
        ]
        names = ", ".join(source.path.name for source in sources)
        _update(folder, dataset_id, metadata | {"description": f"imported from {names}"}, {NOTES_KEY: notes})
    return notes


def combine(ids: Sequence[str], dataset_id: str, progress: Progress | None = None) -> None:
    """Join Minari datasets of one task, as medium and expert; episodes are copied with all they hold.

    Reference scores and environment are kept, where `minari.combine_datasets` drops the scores; parts without
    reference scores take those of the others.

    Args:
        ids: of at least two datasets under the Minari root.
        dataset_id: Minari id of the new dataset.
        progress: called with (episodes done, episodes in all).

    Raises:
        ValueError: different spaces, environments or reference scores; an id that is malformed or taken.
        FileNotFoundError: a dataset is not there.
    """
    from minari.dataset.minari_storage import MinariStorage

    if len(ids) < 2:
        raise ValueError(f"--combine: expected at least two ids, got {len(ids)}")
    expect_free(dataset_id)
    folders = [catalog.minari_root() / name / "data" for name in ids]
    for name, folder in zip(ids, folders, strict=True):
        if not folder.is_dir():
            raise catalog.not_found(name)
    sources = [open_source(folder) for folder in folders]
    agreed = _agreed({name: source.metadata for name, source in zip(ids, sources, strict=True)})
    storages = [MinariStorage.read(folder) for folder in folders]
    first = storages[0]
    for name, storage in zip(ids, storages, strict=True):
        if (storage.observation_space, storage.action_space) != (first.observation_space, first.action_space):
            raise ValueError(
                f"--combine: {name} has observations {storage.observation_space} and actions "
                f"{storage.action_space}, {ids[0]} has {first.observation_space} and {first.action_space}; "
                "combine datasets of one environment"
            )
    metadata = sources[0].metadata | agreed | {"description": f"combined from {', '.join(ids)}"}
    notes = [f"{name}: {note}" for name, source in zip(ids, sources, strict=True) for note in source.notes]
    about = [storage.metadata for storage in storages]
    more = {key: about[0][key] for key in _KEPT if key in about[0]}
    more |= {key: set().union(*(one.get(key, ()) for one in about)) for key in ("author", "author_email")}
    more |= {NOTES_KEY: notes, "combined_datasets": list(ids)}
    if metadata["observation_keys"]:
        more[OBSERVATION_KEYS_KEY] = metadata["observation_keys"]
    with new_dataset(dataset_id) as folder:
        spaces = first.observation_space, first.action_space
        write_episodes(folder, *spaces, None, _minari_episodes(storages, progress), first.jpeg_encoding)
        _update(folder, dataset_id, metadata, more)


def _agreed(parts: dict[str, dict]) -> dict:
    """The environment and the reference scores of all parts, as metadata; scores mean nothing on a mixture.

    Reference scores belong to the environment, so those of some parts are those of all, if it is recorded. An
    id that names its module goes before one that does not, as versions before recorded it.

    Raises:
        ValueError: parts whose environments or reference scores differ.
    """
    (first, about), *others = parts.items()
    agreed = {key: about[key] for key in ("env_id", "env_spec", "max_episode_steps")}
    for name, metadata in others:
        if not _same_spec(about["env_spec"], metadata["env_spec"]):
            raise _differing("env_spec", (first, about), (name, metadata))
        if metadata["env_spec"] and env_ids.module_of(metadata["env_id"]):
            agreed |= {key: metadata[key] for key in agreed}
    scored = {name: one for name, one in parts.items() if None not in (one[key] for key in _REFERENCES)}
    if scored:
        if agreed["env_spec"] is None:  # nothing says that the others are of the same task
            scored = parts
        (first, about), *others = scored.items()
        for name, metadata in others:
            for key in _REFERENCES:
                if metadata[key] != about[key]:
                    raise _differing(key, (first, about), (name, metadata))
        agreed |= {key: about[key] for key in (*_REFERENCES, "ref_source")}
    return agreed


def _expect_one_d4rl_environment(sources: Sequence[FlatFile]) -> None:
    """Refuse files of several of D4RL's environments that have the same reference scores.

    Raises:
        ValueError: naming two of them.
    """
    files = {source.task.d4rl_env: source.path.name for source in sources if source.task}
    if len(files) > 1:
        (first, one), (other, name), *_ = files.items()
        raise ValueError(
            f"FILE: {one} is of D4RL's {first}, {name} of its {other}; one dataset has one task: import them "
            "one by one"
        )


def _same_spec(one: dict | None, other: dict | None) -> bool:
    if one is None or other is None:
        return one is other
    return one | {"id": None} == other | {"id": None} and env_ids.is_same(one.get("id"), other.get("id"))


def _differing(key: str, first: tuple[str, dict], other: tuple[str, dict]) -> ValueError:
    has = ", ".join(f"{name} has {_brief(metadata[key])}" for name, metadata in (first, other))
    return ValueError(
        f"{key}: {has}; one dataset has one task: combine data of the same environment and reference scores"
    )


def _brief(value) -> str:
    if isinstance(value, dict):
        arguments = ", ".join(f"{key}={entry}" for key, entry in (value.get("kwargs") or {}).items())
        wrapper = f" as {value['wrapper']}" if value.get("wrapper") else ""
        return f"{value.get('id')}({arguments}){wrapper} with {value.get('max_episode_steps')} steps at most"
    return "none" if value is None else str(value)


def _common_actions(described: Sequence[dict]) -> dict:
    """The action space that holds those of all parts, which are of one kind (see `action_facts`)."""
    discrete = [DiscreteActions.of(one) for one in described]
    if discrete[0] is not None:  # of one environment, or all of none and then numbered from 0
        return discrete_facts(max(discrete, key=lambda space: space.n))
    return {
        "action_low": np.min([one["action_low"] for one in described], axis=0).tolist(),
        "action_high": np.max([one["action_high"] for one in described], axis=0).tolist(),
    }


def _spaces(state_dim: int, metadata: dict):
    from gymnasium.spaces import Box, Discrete

    observations, discrete = Box(-np.inf, np.inf, (state_dim,), np.float32), DiscreteActions.of(metadata)
    if discrete is not None:
        return observations, Discrete(discrete.n, start=discrete.start)
    low, high = (np.asarray(metadata[key], np.float32) for key in ("action_low", "action_high"))
    return observations, Box(low, high, dtype=np.float32)


def _gymnasium_spec(spec: dict | None):
    """Gymnasium's own description of the environment, where it knows it; Minari and others rebuild it so."""
    import gymnasium

    if spec is None or spec.get("wrapper"):  # Minari would rebuild another task
        return None
    try:
        known = copy.deepcopy(gymnasium.spec(env_ids.bare_id(spec["id"])))
    except gymnasium.error.Error:  # of a package that is not here; dtag_fast keeps its own description
        return None
    known.kwargs = {**known.kwargs, **spec["kwargs"]}
    known.max_episode_steps = spec["max_episode_steps"]
    return recordable(known)


def _update(folder: Path, dataset_id: str, metadata: dict, more: dict) -> None:
    about = {
        "description": metadata["description"],
        ENV_SPEC_KEY: metadata["env_spec"],
        **more,
    }
    if metadata["ref_min_score"] is not None:
        about |= {
            "ref_min_score": metadata["ref_min_score"],
            "ref_max_score": metadata["ref_max_score"],
            REF_SOURCE_KEY: metadata["ref_source"],
        }
    write_about(folder, dataset_id, about)


def _episodes(
    sources: Sequence[FlatFile], discrete: DiscreteActions | None, progress: Progress | None
) -> Iterator:
    from minari.data_collector import EpisodeBuffer

    for source in sources:
        steps = 0
        for index, arrays in enumerate(source.episodes()):
            checked = check_episode(arrays, f"{source.name}: episode {index}", discrete=discrete)
            observations, actions, rewards, terminations, truncations = checked
            if discrete is not None:
                actions = discrete.numbers(actions)
            steps += len(actions)
            if progress is not None:
                progress(index + 1 if source.counts == "episodes" else steps, source.total)
            yield EpisodeBuffer(
                observations=observations,
                actions=actions,
                rewards=rewards,
                terminations=terminations,
                truncations=truncations,
            )


def _minari_episodes(storages: Sequence, progress: Progress | None) -> Iterator:
    from minari.data_collector import EpisodeBuffer

    total, done = sum(storage.total_episodes for storage in storages), 0
    for storage in storages:
        numbers = range(storage.total_episodes)
        pairs = zip(storage.get_episodes(numbers), storage.get_episode_metadata(numbers), strict=True)
        for episode, about in pairs:
            done += 1
            if progress is not None:
                progress(done, total)
            arrays = {key: value for key, value in episode.items() if key != "id"}
            yield EpisodeBuffer(
                **arrays | {"infos": episode["infos"] or None},
                seed=about.get("seed"),
                options=about.get("options"),
            )
