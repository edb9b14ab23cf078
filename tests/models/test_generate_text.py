"""Texts end where they should, and what is shown while they grow is what they are in the end."""

from __future__ import annotations

import json

import pytest
import torch

from ironloom.data.tokenizer import Tokenizer
from ironloom.errors import CheckpointError
from ironloom.models.generate_text import continue_texts, end_tokens
from ironloom.models.sampling import Sampling

END = 256
TEXT = "One; two\N{SNOWMAN} three\nHuman: four"


class Parrot(torch.nn.Module):
    """Writes a given text of bytes behind a prompt of one token, then the end token, for ever."""

    def __init__(self, text: str):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.config = type("Config", (), {})()
        self.ids = [*text.encode(), END]

    def forward(self, input_ids, attention_mask=None):
        place = min(input_ids.shape[1] - 1, len(self.ids) - 1)
        logits = torch.zeros(*input_ids.shape, 300)
        logits[:, -1, self.ids[place]] = 1.0
        return type("Output", (), {"logits": logits})()


def said(stop=(), text=TEXT, tokens=100):
    parts = []
    options = {"max_new_tokens": tokens, "seeds": [0], "end": [END], "stop": stop, "show": lambda row, part: parts.append(part)}
    (found,) = continue_texts(Parrot(text), Tokenizer.bytes(), [[65]], Sampling(), **options)
    assert "".join(parts) == found.text
    return found, parts


def test_a_text_ends_at_its_end_token():
    found, parts = said()
    assert (found.text, found.ended, found.tokens) == (TEXT, "end", [*TEXT.encode(), END])
    assert parts == list(TEXT), "each character is shown once it is whole"


@pytest.mark.parametrize(
    ("stop", "expected"),
    [
        (["\nHuman:"], "One; two\N{SNOWMAN} three"),
        (["wo", "two"], "One; "),
        (["\N{SNOWMAN}"], "One; two"),
        (["O"], ""),
        (["two\N{SNOWMAN}"], "One; "),
    ],
)
def test_a_text_ends_before_a_stop_string(stop, expected):
    found, parts = said(stop)
    assert (found.text, found.ended) == (expected, "stop")
    assert "".join(parts) == expected, "nothing of a stop string is shown"


def test_what_only_begins_like_a_stop_string_is_shown_later():
    found, parts = said(["twist", "two!"])
    assert (found.text, found.ended) == (TEXT, "end")
    assert "two\N{SNOWMAN}" in parts


def test_a_text_that_is_cut_keeps_what_there_is():
    found, _ = said(tokens=10)
    assert (found.text, found.ended, len(found.tokens)) == ("One; two\N{REPLACEMENT CHARACTER}", "length", 10)
    assert said(["two!"], tokens=8)[0].text == "One; two"
    with pytest.raises(ValueError, match="stop strings"):
        said([""])


def test_the_ends_of_a_text_are_those_of_tokenizer_and_files(tmp_path):
    file = tmp_path / "generation_config.json"
    assert (end_tokens(tmp_path, None), end_tokens(tmp_path, 7)) == (set(), {7})
    for named, expected in (({"eos_token_id": [8, 9]}, {7, 8, 9}), ({"eos_token_id": 8}, {7, 8}), ({}, {7}), ({"eos_token_id": None}, {7})):
        file.write_text(json.dumps(named))
        assert end_tokens(tmp_path, 7) == expected
    file.write_text("{")
    with pytest.raises(CheckpointError, match="generation_config"):
        end_tokens(tmp_path, 7)
