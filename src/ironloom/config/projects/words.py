"""The words of a command line that are options: which ones, and their values."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn

from ironloom.config.overrides import ORIGIN, is_override
from ironloom.config.projects.options import RESERVED, Option
from ironloom.errors import ConfigError, Problem
from ironloom.settings.base import nearest


def _boolean(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise ValueError(text)
    return text.lower() == "true"


_TYPES: dict[str, Callable[[str], Any]] = {"int": int, "str": str, "float": float, "bool": _boolean, "path": os.path.expanduser}
_WANTED = {"int": "a whole number", "float": "a number", "bool": "true or false"}


def is_option(word: str) -> bool:
    """Whether a word of the command line has the form of an option."""
    return re.match(r"--?[A-Za-z]", word) is not None


def guess(words: Sequence[str]) -> dict[str, Any]:
    """What the options among the words may mean, before it is known which there are: enough to find out."""
    found: dict[str, Any] = {}
    for index, word in enumerate(words):
        if word.startswith("--"):
            name, equals, value = word.partition("=")
            following = words[index + 1] if index + 1 < len(words) else "--"
            value = value if equals else following
            found[name[2:].replace("-", "_")] = True if is_option(value) or value == "--" else _number(value)
            if name.startswith("--no-"):
                found[name[5:].replace("-", "_")] = False
    return found


def _number(text: str) -> Any:
    for kind in (int, float, _boolean):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def take(words: Sequence[str], options: Sequence[Option], own: Iterable[str] = ()) -> tuple[dict[str, Any], list[str]]:
    """Separate options from the other words of a command.

    Args:
        words: The words of the command line.
        options: Which options there are.
        own: Names of the command's own options, to suggest.

    Returns:
        The typed values of the options that were given, by name; the other words in their order.

    Raises:
        ConfigError: With every option that does not exist, or whose value is missing or wrong.
    """
    table = {spelling: option for option in options for spelling in option.spellings}
    problems: list[Problem] = []
    given: list[list[str]] = []
    rest: list[str] = []
    index = 0
    while index < len(words):
        word = words[index]
        index += 1
        if not is_option(word):
            rest.append(word)
            continue
        name = word.partition("=")[0]
        if name not in table and not word.startswith("--") and word[:2] in table:
            name = word[:2]
        option = table.get(name)
        if option is None:
            problems.append(_unknown(name, [*table, *own, *RESERVED]))
            continue
        count = _following(option, words[index:]) if word == name else 0
        given.append([word, *words[index : index + count]])
        index += count
    values: dict[str, Any] = {}
    if not problems:
        values = _parsed(given, options, problems)
    if problems:
        raise ConfigError(problems)
    return values, rest


def _following(option: Option, words: Sequence[str]) -> int:
    """How many of the next words are values of an option."""
    if not option.takes_value:
        return 0
    if option.nargs is None:
        return 1
    if isinstance(option.nargs, int):
        return option.nargs
    most = 1 if option.nargs == "?" else len(words)
    count = 0
    while count < min(most, len(words)) and not is_option(words[count]) and not is_override(words[count]):
        count += 1
    return count


def _unknown(name: str, known: Sequence[str]) -> Problem:
    near = nearest(name, known)
    hint = f"did you mean {near!r}?" if near else "a setting of the configuration is given as key=value"
    return Problem(f"there is no option {name!r}", origin=ORIGIN, hint=hint)


def _parsed(given: list[list[str]], options: Sequence[Option], problems: list[Problem]) -> dict[str, Any]:
    parser = _Parser(add_help=False, allow_abbrev=False, prog="", argument_default=argparse.SUPPRESS, prefix_chars="-")
    for option in options:
        _add(parser, option)
    values: dict[str, Any] = {}
    found = argparse.Namespace()
    words: list[str] = []
    for group in given:
        # One value is tied to its option, so that it may begin with a dash.
        words += [f"{group[0]}={group[1]}"] if len(group) == 2 else group
    try:
        parser.parse_args(words, found)
    except _RefusedError as refusal:
        problems.append(Problem(str(refusal), origin=ORIGIN))
    else:
        values = vars(found)
    return values


class _RefusedError(Exception):
    """What argparse has to say about wrong options."""


class _Parser(argparse.ArgumentParser):
    """Raises where argparse would end the process."""

    def error(self, message: str) -> NoReturn:
        """Refuse."""
        raise _RefusedError(message)


def _add(parser: argparse.ArgumentParser, option: Option) -> None:
    settings: dict[str, Any] = {"dest": option.dest}
    if option.action == "store_true":
        parser.add_argument(*option.names, action=argparse.BooleanOptionalAction, **settings)
        return
    if option.takes_value:
        settings["type"] = _converter(option.kind)
        for key in ("choices", "const"):
            if option.settings.get(key) is not None:
                settings[key] = option.settings[key]
        if option.nargs is not None:
            settings["nargs"] = option.nargs
    parser.add_argument(*option.names, action=option.action, **settings)


def _converter(kind: str) -> Callable[[str], Any]:
    def convert(text: str) -> Any:
        try:
            return _TYPES[kind](text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"expected {_WANTED[kind]}, found {text!r}") from None

    return convert
