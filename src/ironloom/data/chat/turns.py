"""What a model has to produce of a conversation, found by rendering it with and without each answer. Knows no tokens.

An answer is what follows the prompt that the model would be given for it: the conversation up to there, with the
template's generation prompt. It ends with the token that ends a turn. This needs no knowledge of the template; it only has
to continue its own prompts. Where it renders an answer otherwise once others follow (templates that drop earlier reasoning,
or move the list of tools) that answer is trained in a row of its own, which reads as it will when the model is asked for it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from ironloom.data.chat.template import ChatTemplate, Message
from ironloom.errors import DataError

ANSWERER = "assistant"
_PROBE = "Qj7zWx"  # an answer that no template writes by itself
_MARKER = r"<\|?[^<>|\s]+\|?>"  # what templates end turns with, where the tokenizer has no special token for it
_SHOWN = 2000


@dataclass(frozen=True)
class Answer:
    """What the model has to produce, as a part of a text.

    Attributes:
        start: First character behind the prompt.
        stop: End of the token that ends the turn.
        weight: How much its tokens count, above 0.
    """

    start: int
    stop: int
    weight: float = 1.0


@dataclass(frozen=True)
class Passage:
    """A rendered conversation and the answers in it that are trained, in order."""

    text: str
    answers: tuple[Answer, ...]


class Turns:
    """Finds answers in what a template renders.

    Args:
        template: The template.
        control_tokens: Texts that are special tokens of the tokenizer.
    """

    def __init__(self, template: ChatTemplate, control_tokens: Sequence[str]):
        self._template = template
        control = "|".join(map(re.escape, sorted(control_tokens, key=len, reverse=True))) or r"(?!)"
        self._control = re.compile(control)
        self._marker = re.compile(f"{control}|{_MARKER}")
        self._usual = self._usual_end()

    def passages(self, messages: Sequence[Message], tools: Sequence[Any] | None, weights: Sequence[float]) -> list[Passage]:
        """The texts in which each answer that counts is trained once, exactly as the model will be asked for it.

        Mostly one. Each holds what stands in front of its answers, and the last ones behind it only if they are in it.

        Args:
            messages: The conversation.
            tools: Schemas of the functions that may be called.
            weights: How much each message counts; 0: it is only given to the model.

        Raises:
            DataError: If the template refuses the conversation, or answers cannot be told from what is given.
        """
        found = {place: self._answer(messages[: place + 1], tools) for place, weight in enumerate(weights) if weight}
        rows = []
        while found:
            last = max(found)
            text = found[last].text
            whole = [place for place, row in found.items() if text.startswith(row.text[: row.answers[0].stop])]
            rows.append(Passage(text, tuple(replace(found.pop(place).answers[0], weight=weights[place]) for place in whole)))
        return rows[::-1]

    def _answer(self, messages: Sequence[Message], tools: Sequence[Any] | None) -> Passage:
        """The text up to the last message, which is an answer."""
        prompt = self._template.render(messages[:-1], tools, add_generation_prompt=True)
        text = self._template.render(messages, tools)
        if not text.startswith(prompt):
            raise DataError(
                "the chat template does not continue its own prompt, so what the model has to produce cannot be told from what it "
                f"is given (name another one in chat_template, or set its variables in chat_template_arguments).\n"
                f"The prompt ends with {prompt[-80:]!r}; the conversation was rendered as\n{_shown(text)}"
            )
        length = self._length(text[len(prompt) :], messages, tools, text)
        return Passage(text, (Answer(len(prompt), len(prompt) + length),))

    def _length(self, answer: str, messages: Sequence[Message], tools: Sequence[Any] | None, text: str) -> int:
        """How much of the rest of a text belongs to the answer that it begins with."""
        behind, end = self._usual
        if not end or not answer.endswith(behind):
            behind, end = self._behind(messages[:-1], tools) or (behind, end)
        if end and answer.endswith(behind):
            return len(answer) - len(behind) + len(end)
        if end and (place := answer.rfind(end)) >= 0:
            return place + len(end)
        if controls := list(self._control.finditer(answer)):
            return controls[-1].end()
        markers = list(self._marker.finditer(answer.rstrip()))
        if markers and markers[-1].end() == len(answer.rstrip()):
            return markers[-1].end()
        raise DataError(
            "the chat template puts nothing behind an answer that ends it: a model that is trained on it would never stop "
            f"(name another one in chat_template).\nThe conversation was rendered as\n{_shown(text)}"
        )

    def _usual_end(self) -> tuple[str, str]:
        """What :meth:`_behind` finds for a short conversation; empty texts where the template wants others."""
        for front in ([{"role": "user", "content": "?"}], [{"role": "system", "content": "?"}, {"role": "user", "content": "?"}]):
            if found := self._behind(front, None):
                return found
        return "", ""

    def _behind(self, messages: Sequence[Message], tools: Sequence[Any] | None) -> tuple[str, str] | None:
        """What stands behind an answer to this; of it what ends a turn: up to the first marker, without any up to white space."""
        try:
            text = self._template.render([*messages, {"role": ANSWERER, "content": _PROBE}], tools)
        except DataError:  # a template may want other conversations
            return None
        _, probe, behind = text.rpartition(_PROBE)
        if not probe or not behind:
            return None
        marker = self._marker.search(behind)
        return behind, behind[: marker.end()] if marker else behind.rstrip() or behind


def _shown(text: str) -> str:
    """A text as a message shows it; of a long one the end, which is what matters."""
    return text if len(text) <= _SHOWN else f"[...]{text[-_SHOWN:]}"
