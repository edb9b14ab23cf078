"""Every shape of template with every kind of tokenizer: what is trained is what a hand marked, to the token."""

from __future__ import annotations

import itertools
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chat_cases import CASES, KINDS, Case, tokenizer
from chat_templates import CHATML, LLAMA3, MISTRAL, PHI3, ZEPHYR
from ironloom.data.chat import ChatRenderer, Row
from ironloom.data.tokenizer import Tokenizer
from ironloom.errors import DataError


def runs(row: Row, trained: bool) -> list[list[int]]:
    """The runs of ids that are trained, or those that are not."""
    groups = itertools.groupby(zip(row.ids, row.trained, strict=True), key=lambda each: each[1])
    return [[token for token, _ in group] for mark, group in groups if bool(mark) == trained]


def marked(text: str) -> tuple[str, list[str], str]:
    """The text without marks, the parts that are trained, and the prompt of the first one."""
    return re.sub("[«»]", "", text), re.findall("«(.*?)»", text, re.DOTALL), text.partition("«")[0]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_what_is_trained(case: Case, kind: str) -> None:
    words = tokenizer(kind)
    if (case.name, kind) == ("words, and a line break ends", "pieces"):
        # The space that ends the prompt would be the first of the answer, and pieces know no word without one.
        with pytest.raises(DataError, match=r"reach over the boundary.*assistant: ' \| 'Hello!"):
            ChatRenderer(words, case.template).rows(case.messages)
        return
    rows = ChatRenderer(words, case.template, case.arguments, case.train_on).rows(case.messages, case.tools)
    assert len(rows) == len(case.rows)
    for row, expected in zip(rows, case.rows, strict=True):
        text, parts, prompt = marked(expected)
        whole = words.encode(text)
        # An inference engine encodes the prompt and goes on from there: so must what is trained.
        first = row.trained.index(1)
        assert row.ids[:first] == words.encode(prompt)
        assert words.decode(row.ids) == words.decode(whole)
        if not row.cuts:
            assert row.ids == whole
        found = runs(row, trained=True)
        assert [written(words, part) for part in found] == [written(words, words.encode(part)) for part in parts]


PIECES = [" ", "\n", "a", "He", "llo", "!", "]", ":", "<|im_end|>", "\u00e9", "\u4f60"]
SAYINGS = st.lists(st.sampled_from(PIECES), min_size=1, max_size=6).map("".join)
STOPS = {CHATML: "<|im_end|>", LLAMA3: "<|eot_id|>", PHI3: "<|end|>", MISTRAL: "</s>", ZEPHYR: "</s>"}


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(sorted(STOPS)), st.sampled_from(["bytes", "plain", "special"]), st.lists(SAYINGS, min_size=4, max_size=4))
def test_whatever_is_said(template: str, kind: str, said: list[str]) -> None:
    """The ids in front of the first answer are those of its prompt, and each answer is trained once, to its end."""
    words = tokenizer(kind)
    renderer = ChatRenderer(words, template)
    messages = [{"role": ("user", "assistant")[place % 2], "content": text} for place, text in enumerate(said)]
    answers = [text.strip() if template == LLAMA3 else text for text in said[1::2]]
    (row,) = renderer.rows(messages)
    assert words.decode(row.ids) == renderer.template.render(messages)
    assert row.ids[: row.trained.index(1)] == words.encode(renderer.template.render(messages[:1], add_generation_prompt=True))
    assert [words.decode(part) for part in runs(row, trained=True)] == [text + STOPS[template] for text in answers]


def written(words: Tokenizer, ids: list[int]) -> str:
    """Text that can be compared: pieces lose a leading space when they are decoded alone."""
    return words.decode(ids).strip(" ")
