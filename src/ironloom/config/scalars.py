"""The scalar rules of configuration files: what is a number, a truth value, null or a text.

They are those of YAML 1.2's core schema: ``1e-3`` is a number; ``yes``, ``no``, ``on``, ``off``
and dates are texts.
"""

from __future__ import annotations

import math
import re
from typing import Any

import yaml

STR, INT, FLOAT, BOOL, NULL, SEQ, MAP, MERGE = (
    f"tag:yaml.org,2002:{kind}" for kind in ("str", "int", "float", "bool", "null", "seq", "map", "merge")
)

_RULES = (
    (NULL, r"~|null|Null|NULL|", ("~", "n", "N", "")),
    (BOOL, r"true|True|TRUE|false|False|FALSE", tuple("tTfF")),
    (INT, r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", tuple("-+0123456789")),
    (
        FLOAT,
        r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        tuple("-+0123456789."),
    ),
    (MERGE, r"<<", ("<",)),
)


def resolvers() -> dict[str, list[tuple[str, re.Pattern[str]]]]:
    """The rules in the form of PyYAML's ``yaml_implicit_resolvers``: by first character."""
    table: dict[str, list[tuple[str, re.Pattern[str]]]] = {}
    for tag, pattern, first in _RULES:
        for character in first:
            table.setdefault(character, []).append((tag, re.compile(rf"(?:{pattern})\Z")))
    return table


def parse(text: str, tag: str) -> Any:
    """The value of a scalar's text under a standard tag.

    Raises:
        ValueError: If the text does not fit an explicit tag, as in ``!!int abc``, or for another tag.
    """
    if tag in (STR, MERGE):
        return text
    rule = {name: pattern for name, pattern, _ in _RULES}.get(tag)
    if tag == FLOAT and rule is not None:
        rule += r"|[-+]?[0-9]+"
    if rule is None or not re.fullmatch(rule, text):
        raise ValueError(f"{text!r} is not of type {tag.rpartition(':')[2]}")
    if tag == NULL:
        return None
    if tag == BOOL:
        return text.lower() == "true"
    if tag == INT:
        base = {"0o": 8, "0x": 16}.get(text[:2], 10)
        return int(text, base)
    return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))


def plain(text: str) -> Any:
    """The value of a scalar without quotes and tag."""
    for tag, pattern, _ in _RULES[:-1]:
        if re.fullmatch(pattern, text):
            return parse(text, tag)
    return text


def write(value: Any) -> tuple[str, str]:
    """Tag and text of a leaf.

    Raises:
        TypeError: If it is none of null, truth value, number, text.
    """
    if value is None:
        return NULL, "null"
    if type(value) is bool:
        return BOOL, "true" if value else "false"
    if type(value) is int:
        return INT, str(value)
    if type(value) is float:
        return FLOAT, _float_text(value)
    if type(value) is str:
        return STR, value
    raise TypeError(f"a configuration holds null, true/false, numbers and texts, found {type(value).__name__}")


def _float_text(value: float) -> str:
    if math.isnan(value):
        return ".nan"
    if math.isinf(value):
        return ".inf" if value > 0 else "-.inf"
    return repr(value)


def ambiguous(text: str) -> bool:
    """Whether readers of older YAML would take a plain ``text`` for something else (``yes``, a date)."""
    return any(pattern.match(text) for first in (text[:1], None) for _, pattern in yaml.SafeLoader.yaml_implicit_resolvers.get(first, ()))
