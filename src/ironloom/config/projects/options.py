"""Options of the command line that a configuration declares itself, under the target ``dynamic_args``.

A value reaches the template under the option's name (``--max-steps``: ``max_steps``). What is not given is not
defined there, so that the template's own default holds; a flag has the three states given, negated and absent.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ironloom.config.graph import Path
from ironloom.errors import Origin, Problem
from ironloom.settings.base import nearest, unknown_key

#: Options that every command has.
RESERVED = ("--help", "--traceback", "--version")

_KEYS = ("names", "type", "help", "choices", "action", "nargs", "default", "metavar", "required", "const", "dest")
_ACTIONS = ("store", "store_true", "store_false", "append", "count")
_LONG = re.compile(r"--[A-Za-z][\w-]*", re.ASCII)
_SHORT = re.compile(r"-[A-Za-z]", re.ASCII)


_KINDS: dict[str, type | tuple[type, ...]] = {"int": int, "str": str, "float": (int, float), "bool": bool, "path": str}


@dataclass(frozen=True)
class Option:
    """One declared option.

    Attributes:
        names: Its spellings, such as ``--max-steps`` and ``-m``.
        dest: The name of its value in the template.
        kind: ``int``, ``str``, ``float``, ``bool`` or ``path``.
        action: As in argparse; ``store_true`` has a negated form.
        nargs: How many values, as in argparse; None: one, which is not put into a list.
        settings: The other keys: help, choices, metavar, required, const, and the default that the help shows.
        origin: Where it is declared.
    """

    names: tuple[str, ...]
    dest: str
    kind: str
    action: str
    nargs: int | str | None
    settings: Mapping[str, Any]
    origin: Origin | None

    @property
    def takes_value(self) -> bool:
        """Whether a value follows it."""
        return self.action in ("store", "append")

    @property
    def spellings(self) -> tuple[str, ...]:
        """Its names, and for a flag the negated ones."""
        if self.action != "store_true":
            return self.names
        return (*self.names, *(f"--no-{name[2:]}" for name in self.names if name.startswith("--")))

    def help(self) -> tuple[str, str]:
        """How it is written, and what it is for."""
        metavar = self.settings.get("metavar") or (_choices(self.settings) or self.kind.upper())
        shown = ", ".join(self.spellings) + (f" {metavar}" if self.takes_value else "")
        default = self.settings.get("default")
        notes = [f"default: {str(default).lower() if isinstance(default, bool) else default}"] if default is not None else []
        notes += ["required"] if self.settings.get("required") else []
        text = str(self.settings.get("help") or "")
        return shown, f"{text}{' ' if text else ''}[{'; '.join(notes)}]" if notes else text


def _choices(settings: Mapping[str, Any]) -> str:
    return "[" + "|".join(map(str, settings["choices"])) + "]" if settings.get("choices") else ""


class Declarations:
    """Options from the plain data under ``dynamic_args``.

    Args:
        origin: Where the value at a path below ``dynamic_args`` stands.
    """

    def __init__(self, origin: Callable[[Path], Origin | None]):
        self.problems: list[Problem] = []
        self._origin = origin
        self._taken: dict[str, str] = {}

    def options(self, declared: Any) -> list[Option]:
        """The options; what is wrong with the others is in ``problems``."""
        if declared is None:
            return []
        if not isinstance(declared, (list, dict)):
            self._wrong(f"expected a mapping of options, found {declared!r}", ())
            return []
        entries = declared.items() if isinstance(declared, dict) else enumerate(declared)
        found = [self._option(entry, (key,)) for key, entry in entries if entry is not None]
        return [option for option in found if option is not None]

    def _option(self, entry: Any, path: Path) -> Option | None:
        before = len(self.problems)
        if not isinstance(entry, dict):
            self._wrong(f"expected a mapping with names, found {entry!r}", path)
            return None
        for key in entry:
            if key not in _KEYS:
                problem = unknown_key(str(key), _KEYS, owner="an option")
                self._wrong(problem.message, (*path, key), problem.hint)
        names = self._names(entry, path)
        kind = self._one_of(entry, "type", tuple(_KINDS), "str", path)
        action = self._one_of(entry, "action", _ACTIONS, "store", path)
        for key in ("type", "choices", "nargs", "metavar", "const"):
            if entry.get(key) is not None and action not in ("store", "append"):
                self._wrong(f"an option with the action {action!r} takes no value", (*path, key), "leave it out")
        choices, nargs = entry.get("choices"), entry.get("nargs")
        if choices is not None and (not isinstance(choices, list) or not choices):
            self._wrong(f"expected a list of values, found {choices!r}", (*path, "choices"))
        elif choices is not None and not all(isinstance(choice, _KINDS[kind]) for choice in choices):
            self._wrong(f"expected values of the type {kind}, found {choices!r}", (*path, "choices"), "set type, or put texts in quotes")
        if nargs is not None and not (nargs in ("?", "*", "+") or (type(nargs) is int and nargs > 0)):
            self._wrong(f"expected ?, *, + or a whole number of at least 1, found {nargs!r}", (*path, "nargs"))
        if entry.get("const") is not None and nargs != "?":
            self._wrong("has an effect with nargs: '?' only", (*path, "const"))
        if not isinstance(entry.get("required", False), bool):
            self._wrong(f"expected true or false, found {entry['required']!r}", (*path, "required"))
        long = next((name for name in names if name.startswith("--")), "--")
        dest = entry.get("dest", long[2:].replace("-", "_"))
        if not isinstance(dest, str) or not (dest.isidentifier() or len(self.problems) > before):
            self._wrong(f"expected a name for the value, found {dest!r}", (*path, "dest"))
        if len(self.problems) > before:
            return None
        settings = {key: entry[key] for key in ("help", "choices", "metavar", "required", "const", "default") if key in entry}
        return Option(names, dest, kind, action, nargs, settings, self._origin(path))

    def _names(self, entry: dict[Any, Any], path: Path) -> tuple[str, ...]:
        given = entry.get("names")
        names = [given] if isinstance(given, str) else given
        place = (*path, "names") if "names" in entry else path
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            self._wrong("expected names, such as --max-steps or [--max-steps, -m]", place)
            return ()
        for name in names:
            if not (_LONG.fullmatch(name) or _SHORT.fullmatch(name)):
                self._wrong(f"{name!r} is no name of an option", place, "such as --max-steps or -m")
            elif name in RESERVED:
                self._wrong(f"{name} is an option of every command", place, "take another name")
            elif self._taken.setdefault(name, str(path[0])) != str(path[0]):
                self._wrong(f"{name} is the name of {self._taken[name]} too", place, "take another name")
        if all(_SHORT.fullmatch(name) for name in names):
            self._wrong("one of the names is a long one, such as --max-steps", place)
        return tuple(names)

    def _one_of(self, entry: dict[Any, Any], key: str, known: Sequence[str], default: str, path: Path) -> str:
        value = entry.get(key)
        if value is None:
            return default
        if value not in known:
            near = nearest(str(value), known)
            self._wrong(f"expected one of {', '.join(known)}, found {value!r}", (*path, key), f"did you mean {near!r}?" if near else "")
            return default
        return str(value)

    def _wrong(self, message: str, path: Path, hint: str = "") -> None:
        shown = ".".join(map(str, ("dynamic_args", *path)))
        self.problems.append(Problem(message, shown, self._origin(path), hint))
