"""Records of the four kinds in use to conversations: messages, prompt and completion, instruction, ShareGPT."""

from __future__ import annotations

import json
import numbers
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from ironloom.errors import DataError

QUESTION_AND_ANSWER = (
    ("instruction", ("output", "response")),
    ("question", ("answer", "response")),
    ("query", ("response", "answer")),
)
"""Fields of instruction records: what is asked, and the names under which the answer may stand."""

_DETAILS = ("input", "context")
_LIGHTEST, _HEAVIEST = 1e-30, 1e30
_SYSTEM = ("system", "system_prompt")
_SPEAKERS = {
    **dict.fromkeys(("human", "user", "prompter"), "user"),
    **dict.fromkeys(("gpt", "assistant", "model", "bot", "chatgpt", "bard"), "assistant"),
    **dict.fromkeys(("observation", "tool", "function_response"), "tool"),
    "system": "system",
    "function_call": "assistant",
}
_KINDS = (
    "a list of messages in {column!r}, 'conversations' (ShareGPT), 'prompt' and 'completion', or 'instruction' (or 'question') and 'output'"
)


class Conversation(NamedTuple):
    """A conversation as chat templates take it: plain data, so that it travels between processes.

    Attributes:
        messages: The turns; besides what templates read perhaps ``train`` and ``weight``.
        tools: Schemas of the functions that may be called; None: there are none.
        place: File and line.
    """

    messages: list[dict[str, Any]]
    tools: list[Any] | None
    place: str


def conversation_of(record: Any, place: str, messages_column: str = "messages") -> Conversation:
    """The conversation in a record of any of the four kinds; the fields that it has tell which.

    Args:
        record: What was read.
        place: File and line, for messages.
        messages_column: The field with a list of messages.

    Raises:
        DataError: Naming the place and what is wrong there.
    """
    if not isinstance(record, Mapping):
        raise DataError(f"{place}: expected an object, found {type(record).__name__}")
    present = {key: value for key, value in record.items() if value is not None}
    try:
        messages = list(_messages(present, messages_column))
        _check(messages)
        return Conversation(messages, _tools(present.get("tools")), place)
    except DataError as error:
        raise DataError(f"{place}: {error}") from error


def _messages(record: Mapping[str, Any], column: str) -> Iterator[dict[str, Any]]:
    if column in record or "conversations" in record:
        name = column if column in record else "conversations"
        turns = _parsed(record[name], name)
        if not any(_is_system(turn) for turn in turns):
            yield from _system(record)
        for place, turn in enumerate(turns):
            yield _turn(turn, f"{name}, message {place}")
    elif "prompt" in record and "completion" in record:
        yield from _system(record)
        yield from _side(record["prompt"], "user", "prompt")
        yield from _side(record["completion"], "assistant", "completion")
    else:
        yield from _instruction(record, column)


def _instruction(record: Mapping[str, Any], column: str) -> Iterator[dict[str, Any]]:
    for asked, answers in QUESTION_AND_ANSWER:
        name = next((answer for answer in answers if answer in record), None)
        if asked in record and name is not None:
            break
    else:
        found = ", ".join(map(str, record)) or "nothing"
        raise DataError(
            f"no conversation: expected {_KINDS.format(column=column)}; found {found} (set messages_column, or convert the records)"
        )
    yield from _system(record)
    for pair in _parsed(record.get("history", []), "history"):
        if not isinstance(pair, Sequence) or isinstance(pair, str) or len(pair) != 2:
            raise DataError("'history' is a list of pairs, question and answer")
        yield {"role": "user", "content": _text(pair[0], "history")}
        yield {"role": "assistant", "content": _text(pair[1], "history")}
    question = _text(record[asked], asked)
    details = next((_text(record[key], key) for key in _DETAILS if record.get(key)), "")
    yield {"role": "user", "content": f"{question}\n\n{details}" if details else question}
    yield {"role": "assistant", "content": _text(record[name], name)}


def _system(record: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for key in _SYSTEM:
        if record.get(key):
            yield {"role": "system", "content": _text(record[key], key)}
            return


def _side(value: Any, role: str, name: str) -> Iterator[dict[str, Any]]:
    """A prompt or a completion: a text, or messages."""
    if isinstance(value, str):
        yield {"role": role, "content": _text(value, name)}
    else:
        for place, turn in enumerate(_parsed(value, name)):
            yield _turn(turn, f"{name}, message {place}")


def _is_system(turn: Any) -> bool:
    return isinstance(turn, Mapping) and "system" in (turn.get("role"), turn.get("from"))


def _turn(turn: Any, what: str) -> dict[str, Any]:
    """One message; fields that are null, as tables have them, are left out."""
    if not isinstance(turn, Mapping):
        raise DataError(f"{what}: expected an object with 'role' and 'content', found {type(turn).__name__}")
    message = {key: value for key, value in turn.items() if value is not None}
    if "role" not in message and "from" in message:
        message = _share_gpt(message, what)
    role = message.get("role")
    if not isinstance(role, str) or not role:
        raise DataError(f"{what}: no 'role' (or 'from')")
    content = message.get("content")
    if isinstance(content, list):
        message["content"] = _joined(content, what)
    elif content is None:
        if role != "assistant" or not (message.get("tool_calls") or message.get("function_call")):
            raise DataError(f"{what}: no 'content'")
        message["content"] = ""
    else:
        message["content"] = _text(content, f"{what}, 'content'")
    if "tool_calls" in message:
        message["tool_calls"] = [_call(call) for call in _parsed(message["tool_calls"], f"{what}, 'tool_calls'")]
    if not isinstance(message.get("train", True), bool):
        raise DataError(f"{what}: 'train' is true or false, not {message['train']!r}")
    _check_weight(message.get("weight", 1), what)
    if "train" in message and "weight" in message and message["train"] != bool(message["weight"]):
        raise DataError(f"{what}: 'train' and 'weight' contradict each other")
    return message


def _check_weight(weight: Any, what: str) -> None:
    """Refuse what is no weight: it is stored as a float32."""
    if not isinstance(weight, numbers.Real) or not (weight == 0 or _LIGHTEST <= float(weight) <= _HEAVIEST):
        raise DataError(f"{what}: 'weight' is 0 or a number from {_LIGHTEST:g} to {_HEAVIEST:g}, not {weight!r}")


def _share_gpt(turn: Mapping[str, Any], what: str) -> dict[str, Any]:
    speaker = turn["from"]
    role = _SPEAKERS.get(speaker.lower()) if isinstance(speaker, str) else None
    if role is None:
        raise DataError(f"{what}: unknown speaker {speaker!r} in 'from' ({', '.join(_SPEAKERS)})")
    others = {key: turn[key] for key in ("train", "weight") if key in turn}
    text = _text(turn.get("value"), f"{what}, 'value'")
    if speaker.lower() != "function_call":
        return {"role": role, "content": text, **others}
    try:
        call = json.loads(text)
        function = {"name": call["name"], "arguments": call["arguments"]}
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{what}: a function call is a JSON object with 'name' and 'arguments': {error}") from error
    return {"role": role, "content": "", "tool_calls": [{"type": "function", "function": function}], **others}


def _call(call: Any) -> Any:
    """A call of a function; templates want the arguments as an object, which some records spell as JSON."""
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("arguments"), str):
        return call
    try:
        return {**call, "function": {**function, "arguments": json.loads(function["arguments"])}}
    except ValueError:
        return call


def _joined(parts: list[Any], what: str) -> str:
    """The text of a content in parts."""
    texts = []
    for part in parts:
        if not isinstance(part, Mapping) or part.get("type", "text") != "text":
            kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
            raise DataError(f"{what}: only text can be trained on, not {kind!r}")
        texts.append(_text(part.get("text"), f"{what}, 'text'"))
    return "".join(texts)


def _tools(value: Any) -> list[Any] | None:
    return _parsed(value, "tools") or None if value else None


def _parsed(value: Any, name: str) -> list[Any]:
    """A list, which tables sometimes hold as JSON."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{name}: expected a list, found a text that is no JSON: {error}") from error
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise DataError(f"{name}: expected a list, found {type(value).__name__}")
    return list(value)


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise DataError(f"{name}: expected a text, found {type(value).__name__}")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:  # JSON can spell half of a surrogate pair
        raise DataError(f"{name}: half of a surrogate pair (at character {error.start})") from error
    return value


def _check(messages: list[dict[str, Any]]) -> None:
    """Refuse what is no conversation."""
    if not messages:
        raise DataError("a conversation without messages")
    if not any(message["role"] == "user" for message in messages):
        raise DataError("a conversation without a user turn")
