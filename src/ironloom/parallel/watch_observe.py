"""Reads what the ranks publish, keeps the clocks, and writes down the verdict once there is one."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Mapping
from typing import Any

from ironloom.parallel.watch_diagnose import Verdict, judge
from ironloom.parallel.watch_memory import memory_file, read
from ironloom.parallel.watch_report import Seen

#: Seconds between two looks.
PERIOD = 0.25


class Observer:
    """Looks at all ranks through a store.

    Args:
        store: The store that they publish to.
        world: Number of ranks.
        token: Names this start of the ranks.
        delay: Seconds to wait after a verdict is clear, for another observer to speak first.
    """

    def __init__(self, store: Any, world: int, token: str, delay: float = 0.0):
        self._store, self._world, self._token, self._delay = store, world, token, delay
        self._host = socket.gethostname()
        self._heard: dict[int, tuple[int, float]] = {}
        self._moved: dict[int, tuple[tuple[Any, ...], float]] = {}
        self._first: dict[str, float] = {}
        self._last = 0.0
        self._done = False

    def look(self, exits: Mapping[int, int] | None = None) -> Verdict | None:
        """Look at every rank, at most every ``PERIOD``.

        Args:
            exits: Exit codes of ranks that the caller knows to have ended.

        Returns:
            The verdict, once; it is in the store then. None while there is nothing to say.
        """
        now = time.monotonic()
        if self._done or now - self._last < PERIOD:
            return None
        self._last = now
        verdict = judge([self._seen(rank, now, exits or {}) for rank in range(self._world)])
        if verdict is None:
            self._first.clear()
            return None
        since = self._first.setdefault("verdict", now)
        if now - since < max(verdict.settle, self._delay):
            return None
        self._done = True
        if self._store.add("verdicts", 1) > 1:
            return None  # somebody else was faster
        self._store.set("verdict", json.dumps({"lines": verdict.lines, "code": verdict.exit_code, "ranks": verdict.ranks}))
        return verdict

    def _seen(self, rank: int, now: float, exits: Mapping[int, int]) -> Seen:
        beat, fault, end, code = (self._read(f"{what}/{rank}") for what in ("beat", "fault", "end", "exit"))
        beat = self._newest(rank, beat or {})
        heard, moved = beat.get("beats", 0), (beat.get("count", 0), beat.get("phase"), bool(beat))
        if self._heard.get(rank, (-1, 0.0))[0] != heard:
            self._heard[rank] = (heard, now)
        if self._moved.get(rank, ((), 0.0))[0] != moved:
            self._moved[rank] = (moved, now)
        return Seen(
            rank,
            beat,
            fault,
            end["how"] if end else None,
            exits.get(rank, code),
            quiet=now - self._heard[rank][1],
            still=now - self._moved[rank][1],
        )

    def _newest(self, rank: int, beat: dict[str, Any]) -> dict[str, Any]:
        """A sign of life with what is known from after it: the page of a rank on this machine, or what its launcher found there."""
        page = read(memory_file(self._token, rank)) if beat.get("host") == self._host else self._read(f"page/{rank}")
        return {**beat, **page} if page is not None and beat and page["count"] != beat["count"] else beat

    def _read(self, key: str) -> Any:
        return json.loads(self._store.get(key)) if self._store.check([key]) else None
