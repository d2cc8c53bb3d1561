"""A cache that dies with the objects it is about."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Hashable
from typing import Any

_EMPTY: dict = {}


class WeakCache:
    """Values per tuple of live objects and key; gone when the first object is.

    Values must not refer strongly to the objects. At most `limit` keys are kept per tuple, the oldest leave
    first.
    """

    def __init__(self, limit: int = 32) -> None:
        self._entries: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()
        self._limit = limit
        self._lock = threading.Lock()

    def get(self, objects: tuple, key: Hashable) -> Any | None:
        """The value, or None."""
        entry = self._entries.get(objects[0], _EMPTY)
        found = entry.get(
            key
        )  # looks the key up even in an empty entry, so that a key without a hash is told
        if found is None:
            return None
        others, value = found
        if len(others) != len(objects) - 1:
            return None
        for reference, other in zip(others, objects[1:], strict=True):
            if reference() is not other:
                return None
        return value

    def put(self, objects: tuple, key: Hashable, value: Any) -> None:
        """Store, replacing what stood under the key."""
        with self._lock:
            entry = self._entries.setdefault(objects[0], {})
            entry.pop(key, None)
            while len(entry) >= self._limit:
                entry.pop(next(iter(entry)))
            entry[key] = tuple(weakref.ref(o) for o in objects[1:]), value

    def drop(self, objects: tuple) -> None:
        """Forget all keys of the first object."""
        with self._lock:
            self._entries.pop(objects[0], None)
