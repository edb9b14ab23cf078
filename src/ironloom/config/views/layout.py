"""Python expressions broken into lines: on one line where they fit, else one part to a line."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal

WIDTH = 100
INDENT = "    "


@dataclass(frozen=True)
class Group:
    """Something in brackets.

    Attributes:
        opening: What stands before the parts, the bracket included: ``Thing(``.
        parts: What stands in the brackets.
        closing: The closing bracket.
        comma: When a comma stands after the last part: a tuple of one always needs it, brackets around one
            expression never may have it.
    """

    opening: str
    parts: tuple[Code, ...]
    closing: str
    comma: Literal["always", "broken", "never"] = "broken"


Code = str | Group


def prefixed(prefix: str, code: Code) -> Code:
    """The expression with a text before it: ``key=value``, ``return value``."""
    if isinstance(code, str):
        return prefix + code
    return dataclasses.replace(code, opening=prefix + code.opening)


def one_line(code: Code) -> str:
    """The expression on one line."""
    if isinstance(code, str):
        return code
    inside = ", ".join(map(one_line, code.parts)) + ("," if code.comma == "always" else "")
    return f"{code.opening}{inside}{code.closing}"


def lines(code: Code, indent: str = "", end: str = "") -> list[str]:
    """The lines of an expression, each beginning with ``indent``, the last ending with ``end``."""
    whole = f"{indent}{one_line(code)}{end}"
    if isinstance(code, str) or not code.parts or len(whole) <= WIDTH:
        return [whole]
    comma = "" if code.comma == "never" else ","
    inside = [line for part in code.parts for line in lines(part, indent + INDENT, comma)]
    return [indent + code.opening, *inside, f"{indent}{code.closing}{end}"]
