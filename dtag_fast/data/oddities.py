"""Things about a dataset that a user should know and that are no reason to refuse it."""

import hashlib

import numpy as np

from dtag_fast.data.store import Episode


class Oddities:
    """Collects facts episode by episode and says them in sentences.

    Args:
        action_low, action_high: bounds of the action space, (A,) or one for all dimensions; infinite where
            there is none.
    """

    def __init__(self, action_low, action_high):
        low, high = np.asarray(action_low, np.float64), np.asarray(action_high, np.float64)
        # Bounds like 0.1 differ from their float32 neighbours by rounding, which is not worth a report.
        slack = 1e-6 * np.maximum(1.0, np.nan_to_num(np.maximum(abs(low), abs(high)), posinf=0.0))
        self._low, self._high = (low - slack).astype(np.float32), (high + slack).astype(np.float32)
        self._outside_steps, self._outside_first, self._outside_most = 0, None, 0.0
        self._seen: dict[bytes, int] = {}
        self._duplicates: list[tuple[int, int]] = []
        self._early_ends: list[int] = []
        self._open_ends = 0
        self._sentences: list[str] = []

    def add(self, index: int, episode: Episode) -> None:
        """Look at one (checked) episode."""
        excess = np.maximum(self._low - episode.actions, episode.actions - self._high)
        if excess.max() > 0:
            self._outside_steps += int((excess > 0).any(axis=1).sum())
            self._outside_most = max(self._outside_most, float(excess.max()))
            self._outside_first = index if self._outside_first is None else self._outside_first
        digest = hashlib.blake2b(episode.observations.tobytes() + episode.actions.tobytes(), digest_size=16)
        first = self._seen.setdefault(digest.digest(), index)
        if first != index:
            self._duplicates.append((index, first))
        ends = episode.terminations | episode.truncations
        if ends[:-1].any():
            self._early_ends.append(index)
        self._open_ends += not ends[-1]

    def say(self, sentence: str) -> None:
        """Add a sentence of the reader's own."""
        self._sentences.append(sentence)

    def sentences(self) -> list[str]:
        """Everything found, one sentence each; empty for a dataset without oddities."""
        found = list(self._sentences)
        if self._outside_steps:
            found.append(
                f"{self._outside_steps} steps have actions outside the action space, by up to "
                f"{self._outside_most:.3g} (first in episode {self._outside_first})"
            )
        if self._duplicates:
            index, first = self._duplicates[0]
            found.append(
                f"{len(self._duplicates)} episodes repeat an earlier one (first: {index} is equal to {first})"
            )
        if self._early_ends:
            found.append(
                f"{len(self._early_ends)} episodes go on after a termination or truncation (first: episode "
                f"{self._early_ends[0]})"
            )
        if self._open_ends:
            found.append(f"{self._open_ends} episodes end without a termination or truncation")
        return found
