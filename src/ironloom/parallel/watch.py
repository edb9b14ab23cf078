"""What a rank tells about itself while it runs, so that a failure of many can be traced to one.

The loop calls :meth:`Watch.phase` where its work changes; a thread publishes that, and the line the main thread stands at,
to a store that all ranks reach. Who is to blame is decided in ``watch_diagnose``. Knows nothing of the loop.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from ironloom.errors import RankError
from ironloom.parallel.watch_errors import code_of, is_of_others, text_of
from ironloom.parallel.watch_lines import caller, line_of_error, standing_at
from ironloom.parallel.watch_memory import Memory, memory_file
from ironloom.parallel.watch_observe import Observer

#: Seconds between two signs of life.
INTERVAL = 0.5
#: Seconds without progress after which a run counts as stuck.
LIMIT = 600.0
# Distinct kinds of steps (by their phases) that are remembered.
_KINDS = 32


class Watch:
    """The account of one rank; a context manager around everything that this rank does with the others.

    Leaving it with an exception records that; one that other ranks caused is replaced by a :class:`RankError`, once the
    cause is known.

    Args:
        store: A ``torch.distributed`` store with a connection of its own; see ``watch_store``.
        rank: Number of this process.
        world: Number of processes.
        token: Names this start of the ranks.
        limit: Seconds that a phase may take without another :meth:`phase`.
        observes: Whether the ranks look after each other, because no launcher of ours does.
        interval: Seconds between two signs of life.
    """

    def __init__(
        self, store: Any, rank: int, world: int, token: str, *, limit: float = LIMIT, observes: bool = False, interval: float = INTERVAL
    ):
        self.rank, self.world, self.limit = rank, world, limit
        self._memory = Memory(memory_file(token, rank))
        self._store, self._interval = store, interval
        # The backup speaks up only when the first observer does not.
        self._observer = Observer(store, world, token, delay=float(rank)) if observes and rank < 2 else None
        self._observes = observes
        self._phase, self._step, self._count, self._patience = "start", -1, 0, max(limit, LIMIT)
        self._names: dict[str, None] = {}
        self._kinds: dict[str, list[Any]] = {}
        self._began = self._began_before = time.time_ns()
        self._beats = 0
        self._main = threading.main_thread().ident or 0
        self._stop, self._wake = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="ironloom-watch", daemon=True)

    def phase(self, name: str, step: int, patience: float | None = None) -> None:
        """Say what this rank begins to do. Every rank goes through the same phases in a step; takes about a microsecond.

        Args:
            name: For example ``data``, ``forward``, ``optimizer``, ``evaluate``, ``save``.
            step: The optimizer step, counted alike on all ranks.
            patience: Seconds that this phase may take, where the limit of the run is too short for it.
        """
        if step != self._step:
            self._turn(step)
        self._names[name] = None
        self._phase = name
        self._patience = self.limit if patience is None else patience
        self._count += 1
        self._memory.write(name, step, self._count)

    def _turn(self, step: int) -> None:
        """A step ends and another one begins: remember of which kind the one that ends was."""
        if self._step >= 0 and step > self._step:
            kind = ",".join(self._names)
            if step != self._step + 1:
                kind += f",+{step - self._step}"
            known = self._kinds.get(kind)
            if known is not None:
                known[0] += 1
                if known[0] < 4:
                    known[1:] = [self._step, caller(3)]
            elif len(self._kinds) < _KINDS:
                self._kinds[kind] = [1, self._step, caller(3)]
                if len(self._kinds) > 1:
                    self._wake.set()  # told at once: if no other rank does so, this one may not live for long
        self._names.clear()
        self._step = step
        self._began_before, self._began = self._began, time.time_ns()

    def __enter__(self) -> Self:
        self._memory.write(self._phase, self._step, self._count)
        self._publish()
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is None or isinstance(error, KeyboardInterrupt | SystemExit | GeneratorExit):
            self._leave("done" if error is None else "stopped")
            return
        of_others = is_of_others(error)
        self._put(
            "fault",
            {
                "of_others": of_others,
                "names": isinstance(error, RankError) and not of_others,
                "text": text_of(error),
                "line": line_of_error(error),
                "code": code_of(error),
                **self.place(),
            },
        )
        if not of_others:
            self._leave("failed")
            return
        report = self._report(self.limit + 5)
        self._leave("failed")
        if report is not None:
            raise RankError(f"rank {self.rank} stopped: {report}") from error

    def place(self) -> dict[str, Any]:
        """Where this rank is: phase and step."""
        return {"phase": self._phase, "step": self._step}

    def _leave(self, how: str) -> None:
        self._stop.set()
        self._wake.set()
        self._thread.join(2 * self._interval + 2)
        self._publish()
        self._put("end", {"how": how, **self.place()})
        self._memory.close()

    def _report(self, seconds: float) -> str | None:
        """First line of the verdict, waited for; None if there is none."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            try:
                if self._store.check(["verdict"]):
                    return str(json.loads(self._store.get("verdict"))["lines"][0])
            except RuntimeError:  # the store has gone with the process that held it
                return None
            time.sleep(0.05)
        return None

    def _run(self) -> None:
        try:
            while not self._stops():
                self._publish()
                if self._observer is not None:
                    verdict = self._observer.look()
                    if verdict is not None:
                        print(verdict.text(), file=sys.stderr, flush=True)
                if self._observes and self._store.check(["verdict"]):
                    self._give_up()
        except RuntimeError as error:
            if self._observes and not self._stop.is_set():
                print(f"error: rank {self.rank} lost the store that rank 0 holds: {text_of(error)}", file=sys.stderr, flush=True)
                self._give_up()
            self._outlive()

    def _outlive(self) -> None:
        """The launcher has gone: end this process, which nobody looks after any more, when it makes no progress towards its own end."""
        count, since = self._count, time.monotonic()
        while not self._stop.wait(self._interval):
            if count != self._count:
                count, since = self._count, time.monotonic()
            elif time.monotonic() - since > self._patience:
                print(f"error: rank {self.rank} has lost its launcher and is stuck", file=sys.stderr, flush=True)
                os._exit(RankError.exit_code)

    def _stops(self) -> bool:
        """Wait for the next sign of life; whether there is to be none."""
        self._wake.wait(self._interval)
        self._wake.clear()
        return self._stop.is_set()

    def _give_up(self) -> None:
        """End a process whose main thread may wait for ever; it gets a moment to end in its own way."""
        if not self._stop.wait(2.0):
            sys.stdout.flush()
            os._exit(RankError.exit_code)

    def _publish(self) -> None:
        self._beats += 1
        told = self._step  # before the kinds: those of all steps up to this one are among them
        beat: dict[str, Any] = {
            "told": told,
            "names": list(self._names),
            "beats": self._beats,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "count": self._count,
            "patience": self._patience,
            "kinds": self._kinds.copy(),
            **self.place(),
            **standing_at(self._main),
        }
        if beat["inside"]:
            beat["collectives"] = self._collectives()
        self._put("beat", beat)

    def _collectives(self) -> list[list[str]]:
        """The collectives of the step before and of this one, as far as PyTorch's recorder has kept them."""
        from torch._C import _distributed_c10d

        recorded = json.loads(_distributed_c10d._dump_fr_trace_json())  # type: ignore[attr-defined]
        before, now = [], []
        for entry in recorded.get("entries", ()):
            if entry["time_created_ns"] >= self._began:
                now.append(entry["profiling_name"])
            elif entry["time_created_ns"] >= self._began_before:
                before.append(entry["profiling_name"])
        return [before, now]

    def _put(self, what: str, value: Mapping[str, Any]) -> None:
        self._store.set(f"{what}/{self.rank}", json.dumps(value))
