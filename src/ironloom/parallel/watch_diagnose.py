"""From what the ranks tell to the one that caused a failure. Pure: no clock, no process, no store."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ironloom.errors import ConfigError, RankError
from ironloom.parallel.watch_report import Case, Seen, report

#: Seconds without a sign of life after which a process counts as silent, where there is an alarm anyway.
SILENT = 2.0
# Exit codes of an orderly stop after SIGINT and SIGTERM.
_ORDERLY = (0, 128 + signal.SIGINT, 128 + signal.SIGTERM)
# Seconds for a cause to show up before ranks that failed through others are looked at for themselves.
_PATIENCE_WITH_VICTIMS = 2.5
# Seconds for all ranks to meet the same mistake.
_PATIENCE_WITH_MISTAKES = 2.0
_SHOWN = 4
# Exit codes of mistakes that are not a rank's.
_KNOWN = (2, 3, 4)


@dataclass(frozen=True)
class Verdict:
    """Who caused a failure.

    Attributes:
        ranks: The culprits.
        lines: The report.
        exit_code: What the run ends with.
        settle: Seconds for which this must stay the verdict before it is told: a better one may follow.
    """

    ranks: tuple[int, ...]
    lines: tuple[str, ...]
    exit_code: int = RankError.exit_code
    settle: float = 0.0

    def text(self) -> str:
        """The report as it is printed."""
        return "\n".join((f"error: {self.lines[0]}", *(f"  {line}" for line in self.lines[1:])))


def judge(seen: Sequence[Seen]) -> Verdict | None:
    """The verdict on what the ranks tell; None while there is no failure."""
    for look in (_killed, _raised, _died, _left_out, _stuck):
        case = look(seen)
        if case is not None:
            return Verdict(tuple(one.rank for one in case.culprits), tuple(report(case, seen)), case.exit_code, case.settle)
    return None


def _killed(seen: Sequence[Seen]) -> Case | None:
    """Ranks that a signal ended, without a word."""
    killed = [one for one in seen if one.exit is not None and one.exit < 0 and one.fault is None]
    if not killed:
        return None
    if all(one.exit == -signal.SIGABRT for one in killed):
        # Gloo aborts a process whose collective does not fit that of the others; what it did before is the cause.
        odd = _left_out(seen)
        if odd is not None:
            return odd
        advice = "a library has ended it: look at the end of its output"
    else:
        advice = "a process is often killed because memory ran out: look at the system's log (dmesg) of that machine"
    return Case(killed, lambda one: f"was killed by {signal.Signals(-(one.exit or 0)).name} {one.where()}", advice)


def _raised(seen: Sequence[Seen]) -> Case | None:
    """Ranks that left with an error of their own."""
    own = [one for one in seen if one.fault is not None and not one.fault["of_others"]]
    if not own:
        return None
    code = _common([int(one.fault["code"]) for one in own if one.fault is not None])
    # A mistake of the user is met by every rank, a little sooner or later, and is told once when all have said it.
    settle = _PATIENCE_WITH_MISTAKES if code == ConfigError.exit_code and len(own) < len(seen) else 0.5
    return Case(own, lambda one: f"failed {one.where()}: {(one.fault or {})['text']}", "", settle, exit_code=code)


def _died(seen: Sequence[Seen]) -> Case | None:
    """Ranks whose process ended with an exit code that says failure, and without a word here: before there was a watch, or past it."""
    dead = [one for one in seen if one.exit is not None and one.exit not in _ORDERLY and one.fault is None]
    if not dead:
        return None
    code = _common([one.exit or 0 for one in dead])
    return Case(
        dead, lambda one: f"ended with exit code {one.exit} {one.where()}", "", exit_code=code if code in _KNOWN else RankError.exit_code
    )


def _common(codes: Sequence[int]) -> int:
    return codes[0] if len(set(codes)) == 1 else RankError.exit_code


def _left_out(seen: Sequence[Seen]) -> Case | None:
    """Ranks that went through a step as no other rank did, although the others are past it."""
    odd = {}
    for one in seen:
        others = [other for other in seen if other.rank != one.rank and other.beat]
        for kind, (_, step, line) in one.beat.get("kinds", {}).items():
            if others and all(kind not in other.beat["kinds"] and _is_past(other, step) for other in others):
                odd[one.rank] = (kind, step, line)
    if not odd:
        return None
    culprits = [one for one in seen if one.rank in odd]
    if len(culprits) == len(seen):  # each is odd to the others: the one that does what it usually does is not to blame
        usual = [one for one in culprits if one.beat["kinds"][odd[one.rank][0]][0] == 1]
        culprits = usual or culprits
    return _left_out_case(culprits, odd)


def _is_past(other: Seen, step: int) -> bool:
    return bool(other.beat["told"] > step)


def _left_out_case(culprits: list[Seen], odd: Mapping[int, tuple[str, int, str]]) -> Case:
    def what(one: Seen) -> str:
        kind, step, _ = odd[one.rank]
        names, _, jump = kind.partition(",+")
        if jump:
            return f"went from step {step} to step {step + int(jump)}, the other ranks did not"
        return f"left out a part of step {step}: it went through the phases {names.replace(',', ', ') or 'none'} only"

    lines = {rank: line for rank, (_, _, line) in odd.items()}
    return Case(culprits, what, "all ranks must take every step: look for a decision that only this rank makes", lines=lines)


def _stuck(seen: Sequence[Seen]) -> Case | None:
    """Nothing moves any more, or ranks failed through others and none says why."""
    running = [one for one in seen if one.runs]
    late = [one for one in running if one.still > one.beat["patience"]]
    victims = [one for one in seen if one.fault is not None]
    if not late and not victims:
        return None
    settle = 0.0 if late else _PATIENCE_WITH_VICTIMS
    silent = [one for one in running if one.quiet > SILENT]
    if silent:
        advice = "the process is stopped, or its machine is down or hangs"
        return Case(silent, lambda one: f"has not answered for {one.quiet:.0f} s; last seen {one.where()}", advice, settle)
    involved = [one for one in seen if one.beat and one.end not in ("done", "stopped")]
    gone = [one for one in seen if one.end in ("done", "stopped") or one.exit in _ORDERLY]
    if late and gone:
        return Case(
            gone, lambda one: f"has ended {one.where()}, others still wait for it", "all ranks must take the same number of steps", settle
        )
    unusual = _unusual(involved)
    if unusual:
        return _left_out_case(unusual, {one.rank: _kind_with_less(one, involved) for one in unusual})
    outside = [one for one in late if not one.beat["inside"]]
    behind = [one for one in outside if one.beat["count"] == min(other.beat["count"] for other in outside)]
    if outside and (len(outside) < len(involved) or len(behind) < len(involved)):
        advice = "this phase takes too long: look at the line, or raise the limit"
        return Case(behind, lambda one: f"has been stuck for {one.still:.0f} s {one.where()}", advice, settle)
    return _disagree(involved, settle)


def _unusual(involved: Sequence[Seen]) -> list[Seen]:
    """Ranks that are past a step and have gone through less of it than another one that cannot pass it."""
    unusual = [one for one in involved if _kind_with_less(one, involved)[0]]
    return unusual if len(unusual) < len(involved) else []


def _kind_with_less(one: Seen, involved: Iterable[Seen]) -> tuple[str, int, str]:
    for kind, (count, step, line) in one.beat["kinds"].items():
        names = kind.partition(",+")[0].split(",")
        if count < 3 and any(other.beat["told"] == step and not set(other.beat["names"]) <= set(names) for other in involved):
            return kind, step, line
    return "", 0, ""


def _disagree(involved: Sequence[Seen], settle: float) -> Case:
    """All wait for each other: their collectives differ. To blame is who does other than in the step before, then who is alone."""
    now = {one.rank: _collectives(one)[1] for one in involved}
    strays = [one for one in involved if _strays(*_collectives(one))]
    counts = Counter(map(tuple, now.values()))
    common, number = counts.most_common(1)[0]
    alone = [one for one in involved if tuple(now[one.rank]) != common] if number > len(involved) / 2 else []
    places = Counter((one.beat["step"], one.beat["phase"]) for one in involved)
    elsewhere = [one for one in involved if places[one.beat["step"], one.beat["phase"]] < len(involved) / 2]
    behind = [one for one in involved if one.beat["count"] == min(other.beat["count"] for other in involved)]
    culprits = next((some for some in (strays, alone, elsewhere, behind) if 0 < len(some) < len(involved)), list(involved))

    def what(one: Seen) -> str:
        done = ", ".join(name.partition(":")[2] for name in now[one.rank][-_SHOWN:])
        return f"waits {one.where()} for a collective that the others do not call" + (
            f"; its last ones in this step: {done}" if done else ""
        )

    return Case(culprits, what, "all ranks must call the same collectives in the same order", settle)


def _collectives(one: Seen) -> tuple[list[str], list[str]]:
    before, now = one.beat.get("collectives") or ([], [])
    return before, now


def _strays(before: list[str], now: list[str]) -> bool:
    """Whether a step does other than the one before it, as far as it has come."""
    return bool(before) and now != before[: len(now)]
