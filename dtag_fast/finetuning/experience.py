"""What an online run has played so far, and the episodes it may still learn from."""

from __future__ import annotations

from typing import Any

from dtag_fast.data import Episode, ReplayBuffer, TrajectoryStore
from dtag_fast.data.replay import top_episodes


class Experience:
    """The replay buffer with counts of what was played; saved in checkpoints.

    Args:
        buffer: empty, of a finite capacity.
        store: data to begin with. offline: the number of its episodes to take, those of highest return, the
            lowest of them first to go; None for as many as fit.

    Attributes:
        env_steps, episodes, failed: played so far; failed episodes are counted in `failed` alone.
        iterations: finished. updates_left: of the iteration that is under way.
        latest: numbers about the episodes of the latest iteration, for the log.
    """

    def __init__(self, buffer: ReplayBuffer, store: TrajectoryStore, offline: int | None):
        self.buffer = buffer
        self.env_steps = self.episodes = self.failed = self.iterations = self.updates_left = 0
        self.latest: dict[str, float] = {}
        wanted = buffer.capacity if offline is None else min(offline, buffer.capacity)
        best = top_episodes(store, wanted) if wanted else ()
        buffer.add_all(store.episode(int(index)) for index in best)
        buffer.mark_offline()

    @property
    def started(self) -> int:
        """Episodes ever begun: the number of the next one."""
        return self.episodes + self.failed

    def add(self, episodes: list[Episode]) -> None:
        """Enter finished episodes, in this order."""
        self.buffer.add_all(episodes)
        self.episodes += len(episodes)
        self.env_steps += sum(len(episode.actions) for episode in episodes)

    def state_dict(self) -> dict[str, Any]:
        """Without the episodes of the data, which are there anyway."""
        kept = {name: getattr(self, name) for name in _KEPT}
        return kept | {"buffer": self.buffer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave, in an experience made with the same arguments."""
        for name in _KEPT:
            setattr(self, name, state[name])
        self.buffer.load_state_dict(state["buffer"])


_KEPT = ("env_steps", "episodes", "failed", "iterations", "updates_left", "latest")
