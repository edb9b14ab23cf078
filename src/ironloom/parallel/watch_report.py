"""What is known of a rank, what one is suspected of, and the report of that. Pure: no clock, no process, no store."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ironloom.errors import RankError
from ironloom.parallel.watch_lines import source

_SHOWN = 4


@dataclass(frozen=True)
class Seen:
    """What is known of a rank.

    Attributes:
        rank: Its number.
        beat: Its last sign of life; empty before the first.
        fault: The exception that it left with.
        end: How it ended: ``done``, ``stopped``, ``failed``; None while it runs.
        exit: Its exit code, negative for a signal; None if it runs or nobody knows.
        quiet: Seconds since its last sign of life.
        still: Seconds since it last did something new.
    """

    rank: int
    beat: Mapping[str, Any]
    fault: Mapping[str, Any] | None = None
    end: str | None = None
    exit: int | None = None
    quiet: float = 0.0
    still: float = 0.0

    @property
    def runs(self) -> bool:
        """Whether it takes part, as far as is known."""
        return self.end is None and self.exit is None and bool(self.beat)

    def where(self) -> str:
        """Step and phase."""
        place = self.fault or self.beat
        if not place:
            return "before training began"
        return f"in step {place['step']}, phase {place['phase']}" if place["step"] >= 0 else f"in phase {place['phase']}"

    def line(self) -> str:
        """Where it stood in the source."""
        return str((self.fault or {}).get("line") or self.beat.get("line", ""))

    def name(self) -> str:
        """Rank, host and process."""
        return f"rank {self.rank} ({self.beat['host']}, process {self.beat['pid']})" if self.beat else f"rank {self.rank}"


@dataclass
class Case:
    """A suspicion: the culprits, what each of them did, and what to do."""

    culprits: list[Seen]
    what: Callable[[Seen], str]
    advice: str
    settle: float = 0.5
    lines: Mapping[int, str] = field(default_factory=dict)
    exit_code: int = RankError.exit_code


def report(case: Case, seen: Sequence[Seen]) -> Iterable[str]:
    """At most 25 lines: the culprits, then a few of the others, then what to do."""
    texts = {(one.fault or {}).get("text", "") for one in case.culprits}
    if len(case.culprits) == len(seen) > 1 and len(texts) == 1 and texts != {""}:
        yield from texts.pop().splitlines()  # all met the same: it is nobody's in particular
        return
    naming = [one.fault["text"] for one in case.culprits if one.fault is not None and one.fault.get("names")]
    if naming:
        yield from naming[0].splitlines()  # an error that names other ranks is not about the one that says it
        return
    for one in case.culprits[:_SHOWN]:
        yield from f"{one.name()} {case.what(one)}".splitlines()
        line = case.lines.get(one.rank) or one.line()
        if line:
            yield f"  at {line}"
            text = source(line)
            if text:
                yield f"     {text}"
    if len(case.culprits) > _SHOWN:
        yield f"and {len(case.culprits) - _SHOWN} more ranks: " + ", ".join(str(one.rank) for one in case.culprits[_SHOWN:][:16])
    others = [one for one in seen if one not in case.culprits]
    for one in others[:_SHOWN]:
        line = one.line()
        yield f"not the cause: rank {one.rank} {one.where()}" + (f", at {line}" if line else "")
    if len(others) > _SHOWN:
        yield f"nor {len(others) - _SHOWN} more ranks"
    if case.advice:
        yield case.advice
