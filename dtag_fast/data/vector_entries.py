"""Observations of an environment as a new dataset holds them: float32 vectors, those of a Dict by name."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import gymnasium
import numpy as np
from gymnasium import spaces

from dtag_fast.data.spaces import flatten_observation


@dataclass(frozen=True)
class VectorEntries:
    """The Boxes of one dimension in an observation space; what no state can be made of is left out.

    Attributes:
        space: the observation space of the dataset: a Box, or a Dict of such, of float32.
        paths: of the entries, in order ("observation", "desired_goal/kettle"); None for one Box.
        widths: how many numbers each entry has.
        left_out: paths of the entries that are something else.
    """

    space: gymnasium.Space
    paths: tuple[str, ...] | None
    widths: tuple[int, ...]
    left_out: tuple[str, ...] = ()

    @classmethod
    def of(cls, space: gymnasium.Space, where: str) -> "VectorEntries":
        """Those of an environment's observation space.

        Args:
            where: names the environment in errors.

        Raises:
            ValueError: there are none.
        """
        entries = dict(_leaves(space)) if isinstance(space, spaces.Dict) else {"": space}
        vectors = {path: entry for path, entry in entries.items() if _is_vector(entry)}
        if not vectors:
            raise ValueError(
                f"{where}: observations: expected a Box of one dimension or a Dict of such, got {space}; "
                "take such an environment, or wrap this one and register it under an id of its own"
            )
        widths = tuple(entry.shape[0] for entry in vectors.values())
        if "" in vectors:
            return cls(_as_float32(space), None, widths)
        nested = _nested({path: _as_float32(entry) for path, entry in vectors.items()})
        left_out = tuple(path for path in entries if path not in vectors)
        return cls(_as_dict_space(nested), tuple(vectors), widths, left_out)

    def row(self, observation) -> np.ndarray:
        """A copy of an observation, its entries one after the other: (sum of `widths`,) float32.

        Raises:
            ValueError: an entry is missing, or has another length than its space says.
            FloatingPointError: a number is not finite, or beyond float32.
        """
        with np.errstate(over="ignore"):  # an overflow becomes infinity and is refused below
            row = np.array(flatten_observation(observation, self.paths))  # environments may reuse their array
        if row.shape != (sum(self.widths),):
            raise ValueError(
                f"observation: expected {sum(self.widths)} numbers as the observation space says, got shape "
                f"{row.shape}"
            )
        finite = np.isfinite(row)
        if not finite.all():
            entry = int(np.argmin(finite))
            raise FloatingPointError(
                f"observation: expected finite float32 numbers, entry {entry} is {row[entry]}"
            )
        return row

    def arrays(self, rows: Sequence[np.ndarray]) -> np.ndarray | dict:
        """What Minari takes for the observations of an episode: of T + 1 rows an array, or nested dicts."""
        stacked = np.stack(rows)  # (T + 1, sum of widths)
        if self.paths is None:
            return stacked
        columns = np.split(stacked, np.cumsum(self.widths)[:-1], axis=1)
        return _nested(dict(zip(self.paths, columns, strict=True)))


def _is_vector(space: gymnasium.Space) -> bool:
    return isinstance(space, spaces.Box) and len(space.shape) == 1


def _as_float32(space: spaces.Box) -> spaces.Box:
    with np.errstate(over="ignore"):  # bounds beyond float32 are none
        return spaces.Box(space.low.astype(np.float32), space.high.astype(np.float32), dtype=np.float32)


def _leaves(space: spaces.Dict, before: str = "") -> Iterator[tuple[str, gymnasium.Space]]:
    for name, entry in space.spaces.items():
        if isinstance(entry, spaces.Dict):
            yield from _leaves(entry, f"{before}{name}/")
        else:
            yield f"{before}{name}", entry


def _nested(entries: dict[str, object]) -> dict:
    """Nested dicts of values given by their paths."""
    root: dict = {}
    for path, value in entries.items():
        *parents, name = path.split("/")
        folder = root
        for parent in parents:
            folder = folder.setdefault(parent, {})
        folder[name] = value
    return root


def _as_dict_space(nested: dict) -> spaces.Dict:
    return spaces.Dict(
        {name: _as_dict_space(entry) if isinstance(entry, dict) else entry for name, entry in nested.items()}
    )
