"""Every shape of template with every kind of tokenizer: what is trained is what a hand marked, to the token."""

from __future__ import annotations

import itertools
import re

import pytest

from chats import CASES, KINDS, Case, tokenizer
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


def written(words: Tokenizer, ids: list[int]) -> str:
    """Text that can be compared: pieces lose a leading space when they are decoded alone."""
    return words.decode(ids).strip(" ")
