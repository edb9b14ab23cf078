"""Texts continued as texts: strings that end them, what is certain while they grow, tokens that end them by a model's files."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from ironloom.errors import CheckpointError
from ironloom.models.generate import continue_prompts
from ironloom.models.sampling import Sampling

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from ironloom.models.decoder import Decoder

#: Tokens of a prompt that new ones are decoded after: the text of a token may depend on the one before it.
_BEFORE = 8
#: What a decoder writes for bytes that are no character, or not yet.
_INCOMPLETE = "\N{REPLACEMENT CHARACTER}"


class Vocabulary(Protocol):
    """What is asked of a tokenizer."""

    def decode(self, ids: Iterable[int], *, skip_special_tokens: bool = False) -> str:
        """The text of tokens."""


@dataclass(frozen=True)
class Continuation:
    """What a model added to a prompt.

    Attributes:
        text: Without special tokens, and without the string that ended it.
        tokens: All that were drawn.
        ended: By a token (``end``), a string (``stop``), or because there may be no more tokens (``length``).
    """

    text: str
    tokens: list[int]
    ended: Literal["end", "stop", "length"]


def continue_texts(
    model: Decoder | PreTrainedModel,
    tokenizer: Vocabulary,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    *,
    max_new_tokens: int,
    seeds: Sequence[int],
    end: Collection[int] = (),
    stop: Sequence[str] = (),
    show: Callable[[int, str], None] | None = None,
) -> list[Continuation]:
    """Continue prompts of any lengths, all at once; a text does not depend on those beside it.

    Args:
        model: A decoder, or a causal model of ``transformers``.
        tokenizer: Its tokenizer.
        prompts: Token ids of each, at least one.
        sampling: How tokens are drawn.
        max_new_tokens: Number of tokens to add at most.
        seeds: Of each prompt.
        end: Tokens that end a text.
        stop: Strings that end a text, wherever tokens begin and end; they are left out.
        show: Called with a prompt's number and what of its text has become certain; the parts together are the text.

    Raises:
        ValueError: If a prompt or a stop string is empty, or arguments do not fit.
    """
    if not all(stop):
        raise ValueError("expected stop strings of at least one character")
    texts = [_Growing(tokenizer, prompt[-_BEFORE:], end, stop) for prompt in prompts]

    def watch(row: int, tokens: list[int]) -> bool:
        new = texts[row].grow(tokens)
        if show is not None and new:
            show(row, new)
        return texts[row].ended == "stop"

    written = continue_prompts(model, prompts, sampling, max_new_tokens=max_new_tokens, seeds=seeds, end=end, watch=watch)
    for row, text in enumerate(texts):
        rest = text.rest()
        if show is not None and rest:
            show(row, rest)
    return [Continuation(text.certain, tokens, text.ended) for text, tokens in zip(texts, written, strict=True)]


class _Growing:
    """A text that tokens are added to. What may still become a stop string or another character is not certain."""

    def __init__(self, tokenizer: Vocabulary, before: Sequence[int], end: Collection[int], stop: Sequence[str]):
        self._tokenizer, self._before = tokenizer, list(before)
        self._begun = len(self._decoded(self._before))
        self._end, self._stop = end, stop
        self._whole = ""
        self.certain = ""
        self.ended: Literal["end", "stop", "length"] = "length"

    def grow(self, tokens: list[int]) -> str:
        """What has become certain by the last of the new tokens."""
        if tokens[-1] in self._end:
            self.ended = "end"
            tokens = tokens[:-1]
        self._whole = self._decoded(self._before + tokens)[self._begun :]
        found = [place for place in (self._whole.find(string) for string in self._stop) if place >= 0]
        if found:
            self._whole, self.ended = self._whole[: min(found)], "stop"
        if self.ended != "length":
            return self.rest()
        characters = self._whole.rstrip(_INCOMPLETE)
        return self._until(len(characters) - self._open(characters))

    def rest(self) -> str:
        """What is left when no more tokens come."""
        return self._until(len(self._whole))

    def _until(self, length: int) -> str:
        new = self._whole[len(self.certain) : length]
        self.certain += new
        return new

    def _open(self, text: str) -> int:
        """How many of the last characters of ``text`` may be the beginning of a stop string."""
        lengths = [size for string in self._stop for size in range(1, len(string)) if text.endswith(string[:size])]
        return max(lengths, default=0)

    def _decoded(self, tokens: list[int]) -> str:
        return self._tokenizer.decode(tokens, skip_special_tokens=True)


def end_tokens(folder: Path, eos_token_id: int | None) -> set[int]:
    """The tokens that end a text: the tokenizer's, and those that ``generation_config.json`` names.

    Raises:
        CheckpointError: If that file is damaged.
    """
    found = set() if eos_token_id is None else {eos_token_id}
    file = folder / "generation_config.json"
    if file.is_file():
        try:
            named = json.loads(file.read_text(encoding="utf-8")).get("eos_token_id")
        except (OSError, ValueError, AttributeError) as error:
            raise CheckpointError(f"{file}: not readable: {error}") from error
        found.update([named] if isinstance(named, int) else named or [])
    return found
