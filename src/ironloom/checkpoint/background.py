"""Saving off the training path: the values are copied at the boundary of a step, a thread writes them.

At most one save is under way; the next one waits for it. Its files are those of a save in the foreground, byte for byte.
"""

from __future__ import annotations

import dataclasses
import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ironloom.checkpoint.shared_folder import SharedFolder
from ironloom.weights.parts import Part
from ironloom.weights.peers import Peers

logger = logging.getLogger("ironloom")


@dataclass(frozen=True)
class Outcome:
    """How a save in the background ended, and what it cost.

    Attributes:
        step: Its step.
        path: The checkpoint; None if it could not be written.
        error: Why not, or what went wrong after it was complete.
        num_bytes: Bytes that this process wrote.
        waited: Seconds that training waited for the thread.
        copied: Seconds that training waited while values were gathered and copied.
        written: Seconds that the thread took.
    """

    step: int
    path: Path | None
    error: Exception | None
    num_bytes: int
    waited: float
    copied: float
    written: float

    @property
    def blocked(self) -> float:
        """Seconds that training lost."""
        return self.waited + self.copied


class BackgroundSaves:
    """Saves checkpoints in a thread. Every process calls each method at the same places.

    Args:
        folder: Where to.
        peers: Those that save together, over a connection that nothing else uses.
    """

    def __init__(self, folder: SharedFolder, peers: Peers):
        self.folder, self.peers = folder, peers
        self._thread: threading.Thread | None = None
        self._outcome: Outcome | None = None
        self._step = -1

    @property
    def step(self) -> int | None:
        """The step whose save is under way, or has ended and was not asked for; None if there is none."""
        return None if self._thread is None else self._step

    def is_writing(self) -> bool:
        """Whether a save is under way in this process."""
        return self._thread is not None and self._thread.is_alive()

    def start(
        self,
        step: int,
        parts: Callable[[], Iterable[Part]],
        info: dict[str, Any],
        extras: Callable[[Path], None] | None = None,
        then: Callable[[], Any] | None = None,
    ) -> Outcome | None:
        """Copy what is to be saved and begin to write it. A save that is still under way is waited for first.

        Args:
            step: As in :meth:`SharedFolder.save`, like ``info`` and ``extras``.
            parts: As there, but with copies of all that the next step changes (``hold=True``).
            info: See ``step``.
            extras: See ``step``.
            then: Called in the first process, in the thread, when the checkpoint is complete.

        Returns:
            The outcome of the save before, if it was not asked for yet.

        Raises:
            SaveFailed: In every process, if the folder for it cannot be made.
            RankError: If a process is gone.
        """
        before = self.wait()
        begin = time.perf_counter()
        staging = self.folder.begin(step, extras)
        try:
            held = list(parts())
        except BaseException:
            self.folder.abandon(step)
            raise
        copied = time.perf_counter() - begin
        num_bytes = sum(part.nbytes for part in held)

        def work() -> None:
            start, path, fault = time.perf_counter(), None, None
            try:
                written = self.folder.write(step, staging, _drained(held))
                path = self.folder.finish(step, info, written, self.peers)
                if then is not None and self.peers.rank == 0:
                    then()
            except Exception as error:
                fault = error
            self._outcome = Outcome(step, path, fault, num_bytes, 0.0, copied, time.perf_counter() - start)

        self._step, self._thread = step, threading.Thread(target=work, name=f"save-{step}")
        self._thread.start()
        return before

    def wait(self) -> Outcome | None:
        """Wait for the save that is under way.

        Returns:
            Its outcome; None if there is none, or it was returned before.
        """
        if self._thread is None:
            return None
        begin = time.perf_counter()
        self._thread.join()
        assert self._outcome is not None, "a thread that has ended has an outcome"
        outcome = dataclasses.replace(self._outcome, waited=time.perf_counter() - begin)
        self._thread, self._outcome = None, None
        if self.peers.rank == 0 and outcome.path is not None:
            logger.info(
                "the checkpoint of step %d, %s bytes by this process, was written in the background in %.2f s; "
                "training waited %.2f s (%.2f s for copies, %.2f s for the disk)",
                *(outcome.step, f"{outcome.num_bytes:,}", outcome.written, outcome.blocked, outcome.copied, outcome.waited),
            )
        return outcome


def _drained(parts: list[Part]) -> Iterator[Part]:
    """The parts in order, each let go of when the next is taken: the copies go as they are written."""
    parts.reverse()
    while parts:
        yield parts.pop()
