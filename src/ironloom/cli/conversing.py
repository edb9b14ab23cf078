"""A conversation with a model: its turns, their text by the chat template, and answers. Knows no terminal."""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ironloom.errors import ConfigError, DataError

if TYPE_CHECKING:
    from ironloom.cli.loading import Loaded
    from ironloom.models.sampling import Sampling


class Conversation:
    """Turns that a model answers.

    Args:
        loaded: The model.
        template: Name or file of a chat template; None for the one that the model came with.
        sampling: How tokens are drawn.
        max_new_tokens: Tokens of an answer at most.
        seed: The same seed and turns give the same answers.

    Attributes:
        turns: Messages with ``role`` and ``content``, the oldest first, without the instruction.
        system: The instruction that stands before them, or None.

    Raises:
        ConfigError: If there is no chat template.
    """

    def __init__(self, loaded: Loaded, template: str | None, sampling: Sampling, max_new_tokens: int, seed: int):
        from ironloom.data.chat.template import ChatTemplate, built_in
        from ironloom.models.cache import lookback

        self._loaded, self._sampling, self._seed = loaded, sampling, seed
        if template is None and "default" not in loaded.tokenizer.chat_templates:
            raise ConfigError(
                f"{loaded.folder} has no chat template: give --chat-template FILE, or one that comes along "
                f"({', '.join(built_in())}; plain needs no tokens of its own)"
            )
        self._template = ChatTemplate.of(loaded.tokenizer, template)
        self._limit = lookback(loaded.model)
        self._room = min(max_new_tokens, max(1, self._limit // 2))
        self._max_new_tokens = max_new_tokens
        self.turns: list[dict[str, str]] = []
        self.system: str | None = None
        self._answers = 0

    def answer(self, text: str, show: Callable[[str], None], note: Callable[[str], None]) -> None:
        """Add what was said and what the model answers. An interrupt ends the answer where it is.

        Args:
            text: What the user says.
            show: Called with each part of the answer.
            note: Called with what the user has to know.

        Raises:
            DataError: If the template does not take it or it is too long; the conversation is as before then.
        """
        from ironloom.device import random_key
        from ironloom.models.generate_text import continue_texts

        before = list(self.turns)
        self.turns.append({"role": "user", "content": text})
        try:
            prompt = self._prompt(note)
            end = self._loaded.end | self._end_of_turn()
        except DataError:
            self.turns = before
            raise
        parts: list[str] = []

        def grow(row: int, part: str) -> None:
            parts.append(part)
            show(part)

        seed = random_key("chat", self._seed, self._answers)
        self._answers += 1
        try:
            continue_texts(
                self._loaded.model,
                self._loaded.tokenizer,
                [prompt],
                self._sampling,
                max_new_tokens=min(self._max_new_tokens, max(1, self._limit - len(prompt))),
                seeds=[seed],
                end=end,
                show=grow,
            )
        except KeyboardInterrupt:
            note("stopped")
        self.turns.append({"role": "assistant", "content": "".join(parts)})

    def reset(self) -> None:
        """Forget the turns; the instruction stays."""
        self.turns, self._answers = [], 0

    def save(self, file: Path) -> None:
        """Add the conversation to a file, as a line of JSON of the kind that fine-tuning reads.

        Raises:
            DataError: If there is nothing to save, or the disk does not take it.
        """
        if not self.turns:
            raise DataError("nothing was said yet")
        try:
            with file.expanduser().open("a", encoding="utf-8") as lines:
                lines.write(json.dumps({"messages": self._messages(self.turns)}, ensure_ascii=False) + "\n")
        except OSError as error:
            raise DataError(f"{file}: cannot be written: {error.strerror}") from error

    def _messages(self, turns: list[dict[str, str]]) -> list[dict[str, str]]:
        return turns if self.system is None else [{"role": "system", "content": self.system}, *turns]

    def _prompt(self, note: Callable[[str], None]) -> list[int]:
        """The tokens of all turns; the oldest are forgotten if the model cannot read so far."""
        forgotten = 0
        while True:
            text = self._template.render(self._messages(self.turns), add_generation_prompt=True, now=datetime.datetime.now())
            prompt = self._loaded.tokenizer.encode(text)
            if prompt and len(prompt) + self._room <= self._limit:
                break
            if len(self.turns) == 1:
                raise DataError(f"too long: {len(prompt)} tokens, the model reads {self._limit} and needs some of them for its answer")
            self.turns = self.turns[2:]
            forgotten += 1
        if forgotten:
            note(f"the model reads {self._limit} tokens: the oldest {forgotten} of your turns are forgotten")
        return prompt

    def _end_of_turn(self) -> set[int]:
        """The control token that the template writes after an answer, if there is one."""
        answer = "ok"
        turns = [*self._messages(self.turns[-1:]), {"role": "assistant", "content": answer}]
        text = self._template.render(turns, now=datetime.datetime.now())
        after = text[text.rfind(answer) + len(answer) :]
        first = self._loaded.tokenizer.encode(after)[:1]
        return {token for token in first if not self._loaded.tokenizer.decode([token], skip_special_tokens=True)}
