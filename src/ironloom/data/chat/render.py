"""Conversations to token ids and marks: template, answers and masks together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from ironloom.data.chat.masks import Row, rows_of
from ironloom.data.chat.template import ChatTemplate, Message
from ironloom.data.chat.turns import ANSWERER, Turns
from ironloom.errors import DataError

if TYPE_CHECKING:
    from ironloom.data.tokenizer import Tokenizer

TrainOn = Literal["all", "last"]


class ChatRenderer:
    """Renders conversations for one tokenizer and template.

    Args:
        tokenizer: Encodes.
        template: See ``template.find_template``; None for the tokenizer's own.
        arguments: Further variables of the template.
        train_on: ``all`` answers or the ``last`` one. A message's own ``train`` (true or false) or ``weight`` (0: not at
            all) counts more.

    Raises:
        ConfigError: If there is no template, or it is no Jinja.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        template: str | None = None,
        arguments: Mapping[str, Any] | None = None,
        train_on: TrainOn = "all",
    ):
        self._tokenizer = tokenizer
        self.template = ChatTemplate.of(tokenizer, template, arguments)
        self._turns = Turns(self.template, tokenizer.control_tokens)
        self._train_on = train_on

    @property
    def fingerprint(self) -> str:
        """Equal for renderers that make the same of every conversation; the tokenizer has its own."""
        return f"{self.template.fingerprint}:{self._train_on}"

    def rows(self, messages: Sequence[Message], tools: Sequence[Any] | None = None) -> list[Row]:
        """The rows in which each answer that counts is trained once; none if no answer counts.

        Args:
            messages: The conversation.
            tools: Schemas of the functions that may be called.

        Raises:
            DataError: If the template refuses the conversation, or what is trained cannot be told from what is given.
        """
        weights = self._weights(messages)
        plain = [{key: value for key, value in message.items() if key not in ("train", "weight")} for message in messages]
        return rows_of(self._turns.passages(plain, tools, weights), self._tokenizer)

    def _weights(self, messages: Sequence[Message]) -> list[float]:
        """How much each message counts; 0: it is only given to the model."""
        answers = [place for place, message in enumerate(messages) if message["role"] == ANSWERER]
        chosen = answers[-1:] if self._train_on == "last" else answers
        weights = []
        for place, message in enumerate(messages):
            counts = bool(message.get("train", message.get("weight", place in chosen)))
            if counts and place not in answers:
                raise DataError(f"message {place}: {message['role']!r} is given to the model, only {ANSWERER!r} can be trained")
            if counts and all(other["role"] == "system" for other in messages[:place]):
                raise DataError(f"message {place}: an answer without a question (with train: false it is only given to the model)")
            weights.append(float(message.get("weight") or 1) if counts else 0.0)
        return weights


def render(
    messages: Sequence[Message],
    tokenizer: Tokenizer,
    *,
    template: str | None = None,
    tools: Sequence[Any] | None = None,
    arguments: Mapping[str, Any] | None = None,
    train_on: TrainOn = "all",
) -> tuple[list[int], list[int]]:
    """One conversation as one row; for many, :class:`ChatRenderer` is made once.

    Args:
        messages: The conversation.
        tokenizer: Encodes.
        template: See ``template.find_template``; None for the tokenizer's own.
        tools: Schemas of the functions that may be called.
        arguments: Further variables of the template.
        train_on: ``all`` answers or the ``last`` one.

    Returns:
        The ids of the conversation up to the last answer that counts, and for each 1 if the model has to produce it, else 0.

    Raises:
        ConfigError: If there is no template, or it is no Jinja.
        DataError: If no answer counts, the template refuses the conversation, or renders earlier answers otherwise once
            others follow, so that one row cannot hold them.
    """
    rows = ChatRenderer(tokenizer, template, arguments, train_on).rows(messages, tools)
    if not rows:
        raise DataError("the conversation has no answer that is trained")
    if len(rows) > 1:
        raise DataError(
            "the chat template renders earlier answers otherwise once others follow: they need rows of their own (train_on: last)"
        )
    return rows[0].ids, rows[0].trained
