"""Records of preferences to pairs of conversations that differ in how they end: the preferred answer and the other one."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from ironloom.data.chat.records import conversation_of
from ironloom.data.chat.turns import ANSWERER
from ironloom.errors import DataError

PROMPTS = ("prompt", "question", "instruction")
"""Fields with what both answers answer, where it is a field of its own; so is the column of messages, or ``conversations``."""

_TURN = re.compile(r"(?:^|\n\n)(Human|Assistant):")  # as the datasets of Bai et al. (2022) spell turns
_SPOKEN = "\n\nHuman:"
_SPEAKERS = {"Human": "user", "Assistant": ANSWERER}
_COPIED = ("system", "system_prompt", "tools")


class Pair(NamedTuple):
    """Two conversations with a common beginning; plain data, so that it travels between processes.

    Attributes:
        chosen: The turns of the preferred one; answers that are its own have ``train`` true, all others false.
        rejected: The turns of the other one, likewise.
        tools: Schemas of the functions that may be called; None: there are none.
        place: File and line.
    """

    chosen: list[dict[str, Any]]
    rejected: list[dict[str, Any]]
    tools: list[Any] | None
    place: str


def pair_of(record: Any, place: str, columns: tuple[str, str] = ("chosen", "rejected"), messages_column: str = "messages") -> Pair:
    """The pair in a record.

    The two columns hold answers to what a prompt's column holds, or whole conversations; each is a text or a list of
    messages. A text with turns that begin with ``Human:`` and ``Assistant:`` is a conversation.

    Args:
        record: What was read.
        place: File and line, for messages.
        columns: The fields of the preferred and of the other one.
        messages_column: A field with a prompt as a list of messages.

    Raises:
        DataError: Naming the place and what is wrong there.
    """
    if not isinstance(record, Mapping):
        raise DataError(f"{place}: expected an object, found {type(record).__name__}")
    present = {key: value for key, value in record.items() if value is not None}
    missing = [name for name in columns if name not in present]
    if missing:
        found = ", ".join(map(str, present)) or "nothing"
        raise DataError(f"{place}: no {' and no '.join(map(repr, missing))} (set chosen_column and rejected_column); found {found}")
    others = {key: present[key] for key in _COPIED if key in present}
    prompt = next((present[name] for name in (*PROMPTS, messages_column, "conversations") if name in present), None)
    sides, tools = [], None
    for name in columns:
        turns = list(_turns(prompt, present[name], f"{place}: {name}"))
        conversation = conversation_of({**others, "messages": turns}, f"{place}: {name}")
        for number, message in enumerate(conversation.messages):
            if message.get("weight", 1) not in (0, 1):
                raise DataError(f"{conversation.place}: message {number}: 'weight' is 0 or 1 in pairs, not {message['weight']!r}")
        sides.append(conversation.messages)
        tools = conversation.tools
    chosen, rejected = _marked(sides[0], sides[1], place, columns)
    return Pair(chosen, rejected, tools, place)


def _turns(prompt: Any, side: Any, what: str) -> Iterator[Any]:
    """The turns of one side, those of the prompt first."""
    given = [] if prompt is None else _messages(prompt, "user", what)
    if prompt is None and isinstance(side, str):
        side = f"\n\n{side.lstrip()}"
    if prompt is None and isinstance(side, str) and not side.startswith(_SPOKEN):
        raise DataError(f"{what}: an answer without a question: neither a prompt ({', '.join(PROMPTS)}) nor turns (Human:, Assistant:)")
    own = _messages(side, ANSWERER, what)
    if given and own and _role(own[0]) not in (ANSWERER, None):
        if list(map(_said, own[: len(given)])) != list(map(_said, given)):
            raise DataError(f"{what}: begins with a turn that is not an answer, and not with the prompt")
        given = []  # the prompt comes again with each side
    if given and isinstance(side, str):
        own = [{"role": ANSWERER, "content": side.strip() if str(prompt).startswith(_SPOKEN) else side}]
    yield from given
    yield from own


def _messages(value: Any, role: str, what: str) -> list[Any]:
    """A text, a message, or a list of messages as such a list."""
    if isinstance(value, str):
        return _spoken(value) if value.startswith(_SPOKEN) else [{"role": role, "content": value}]
    if isinstance(value, Mapping):
        return [value]
    if not isinstance(value, Sequence):
        raise DataError(f"{what}: expected a text or a list of messages, found {type(value).__name__}")
    return list(value)


def _spoken(text: str) -> list[dict[str, str]]:
    """The turns of a text such as ``\\n\\nHuman: Hi\\n\\nAssistant: Hello``; an empty last turn, which invites the answer, is none."""
    _, *parts = _TURN.split(text)
    turns = [{"role": _SPEAKERS[speaker], "content": said.strip()} for speaker, said in zip(parts[::2], parts[1::2], strict=True)]
    return turns[:-1] if turns and turns[-1] == {"role": ANSWERER, "content": ""} else turns


def _role(turn: Any) -> Any:
    if not isinstance(turn, Mapping):
        return None
    role = turn.get("role", turn.get("from"))
    return {"gpt": ANSWERER, "human": "user"}.get(role, role) if isinstance(role, str) else role


def _said(turn: Any) -> tuple[Any, Any]:
    return _role(turn), turn.get("content", turn.get("value")) if isinstance(turn, Mapping) else None


def _marked(chosen: list[Any], rejected: list[Any], place: str, columns: tuple[str, str]) -> tuple[list[Any], list[Any]]:
    """Both sides, with the answers behind their common beginning marked."""
    chosen, rejected = ([{**turn, "train": False} for turn in side] for side in (chosen, rejected))
    if chosen == rejected:
        raise DataError(f"{place}: {columns[0]!r} and {columns[1]!r} are equal: there is nothing to prefer")
    common = next((index for index, (one, other) in enumerate(zip(chosen, rejected, strict=False)) if one != other), None)
    if common is None:
        raise DataError(
            f"{place}: {columns[len(chosen) > len(rejected)]!r} is only the beginning of the other: it has no answer of its own"
        )
    for side, name in ((chosen, columns[0]), (rejected, columns[1])):
        if side[common]["role"] != ANSWERER or side[-1]["role"] != ANSWERER:
            raise DataError(f"{place}: {name!r} does not end with an answer to what both have in common")
        if not str(side[-1]["content"]).strip() and not side[-1].get("tool_calls"):
            raise DataError(f"{place}: the answer of {name!r} is empty")
        for turn in side[common:]:
            turn["train"] = turn["role"] == ANSWERER
    return chosen, rejected
