"""Messages and conversations."""

from __future__ import annotations

from typing import Any


def user(text: str) -> dict[str, Any]:
    """A question."""
    return {"role": "user", "content": text}


def answer(text: str, **more: Any) -> dict[str, Any]:
    """An answer."""
    return {"role": "assistant", "content": text, **more}


def system(text: str) -> dict[str, Any]:
    """A system message."""
    return {"role": "system", "content": text}


def tool(text: str) -> dict[str, Any]:
    """What a function returned."""
    return {"role": "tool", "content": text}


def call(name: str, text: str | None = None, **arguments: Any) -> dict[str, Any]:
    """An answer that calls a function."""
    return {"role": "assistant", "content": text, "tool_calls": [{"type": "function", "function": {"name": name, "arguments": arguments}}]}


TWO = [user("Hi there"), answer("Hello!"), user("Bye"), answer("See you.")]
SPACED = [user("  Hi \n"), answer("\n Hello! \n"), user("Bye"), answer("  See you.\n\n")]
WITH_SYSTEM = [system("Be brief."), *TWO]
TOOLS = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}]
SUM = [user("2+3?"), call("add", a=2, b=3), tool("5"), answer("It is 5.")]
TWO_TOOLS = [
    user("2+3, 4+5?"),
    call("add", "Let me see.", a=2, b=3),
    tool("5"),
    tool("9"),
    answer("5 and 9."),
    user("Thanks"),
    answer("Sure."),
]
