"""Records of both layouts become the same pairs of rows; what is no preference is named with its place and counted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from chats import answer, system, user
from ironloom.data.preferences import DPOData
from ironloom.data.preferences.records import pair_of
from ironloom.errors import ConfigError, DataError

HI, HELLO, GO = user("Hi"), answer("Hello!"), answer("Go away.")


def bare(turns):
    return [{key: value for key, value in turn.items() if key != "train"} for turn in turns]


@pytest.mark.parametrize(
    ("record", "given"),
    [
        ({"prompt": "Hi", "chosen": "Hello!", "rejected": "Go away."}, [HI]),
        ({"prompt": [HI], "chosen": [HELLO], "rejected": [GO]}, [HI]),
        ({"prompt": [HI], "chosen": HELLO, "rejected": GO}, [HI]),
        ({"chosen": [HI, HELLO], "rejected": [HI, GO]}, [HI]),
        ({"prompt": "Hi", "chosen": [HI, HELLO], "rejected": [HI, GO], "score": 1}, [HI]),
        ({"prompt": None, "chosen": [HI, HELLO], "rejected": [HI, GO]}, [HI]),
        ({"question": "Hi", "system": "Be brief.", "chosen": "Hello!", "rejected": "Go away."}, [system("Be brief."), HI]),
        ({"prompt": [system("Be brief."), HI], "chosen": [HELLO], "rejected": [GO]}, [system("Be brief."), HI]),
        ({"chosen": "\n\nHuman: Hi\n\nAssistant: Hello!", "rejected": "\n\nHuman: Hi\n\nAssistant: Go away."}, [HI]),
        ({"prompt": "\n\nHuman: Hi\n\nAssistant:", "chosen": " Hello!", "rejected": " Go away."}, [HI]),
        (
            {
                "conversations": [{"from": "human", "value": "Hi"}],
                "chosen": {"from": "gpt", "value": "Hello!"},
                "rejected": {"from": "gpt", "value": "Go away."},
            },
            [HI],
        ),
    ],
)
def test_both_layouts(record, given):
    pair = pair_of(record, "here")
    assert bare(pair.chosen) == [*given, HELLO]
    assert bare(pair.rejected) == [*given, GO]
    for side in (pair.chosen, pair.rejected):
        assert [turn["train"] for turn in side] == [False] * len(given) + [True]


def test_answers_before_the_difference_are_not_compared_and_all_behind_it_are():
    front = [HI, HELLO, user("Bye")]
    pair = pair_of({"chosen": [*front, answer("See you."), user("?"), answer("!")], "rejected": [*front, answer("No.")]}, "here")
    assert [turn["train"] for turn in pair.chosen] == [False, False, False, True, False, True]
    assert [turn["train"] for turn in pair.rejected] == [False, False, False, True]


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ([], "expected an object, found list"),
        ({"prompt": "Hi", "chosen": "a"}, r"no 'rejected' \(set chosen_column and rejected_column\); found prompt, chosen"),
        ({}, "no 'chosen' and no 'rejected'"),
        ({"chosen": "a", "rejected": "b"}, "chosen: an answer without a question"),
        ({"prompt": "Hi", "chosen": "a", "rejected": "a"}, "'chosen' and 'rejected' are equal"),
        ({"chosen": [HI, HELLO], "rejected": [HI]}, "'rejected' is only the beginning of the other"),
        ({"prompt": "Hi", "chosen": " ", "rejected": "a"}, "the answer of 'chosen' is empty"),
        ({"chosen": [HI, HELLO], "rejected": [user("Ho"), HELLO]}, "'chosen' does not end with an answer to what both have in common"),
        ({"prompt": "Hi", "chosen": [user("Ho"), HELLO], "rejected": [GO]}, "and not with the prompt"),
        ({"prompt": "Hi", "chosen": 5, "rejected": "a"}, "expected a text or a list of messages, found int"),
        ({"prompt": "Hi", "chosen": [{"content": "x"}], "rejected": "a"}, "chosen: messages, message 1: no 'role'"),
    ],
)
def test_what_is_no_preference_is_named(record, message):
    with pytest.raises(DataError, match=message) as failure:
        pair_of(record, "a.jsonl:3")
    assert str(failure.value).startswith("a.jsonl:3: ")


def data(path: Path | str, cache: Path, **options) -> DPOData:
    defaults = {
        "tokenizer_type": "byte",
        "vocab_name_or_path": None,
        "vocab_size": None,
        "seq_length": 64,
        "splits": (1, 0, 0),
        "chat_template": "plain",
        "too_long": "left",
        "cache_dir": str(cache),
        "num_workers": 1,
    }
    return DPOData([str(path)], **{**defaults, **options})


def file_of(folder: Path, *records) -> Path:
    path = folder / "pairs.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def test_pairs_become_rows_with_one_prompt_whose_answers_are_marked(tmp_path):
    path = file_of(tmp_path, {"prompt": "Hi", "chosen": "Hello!", "rejected": "Go away."})
    pairs = data(path, tmp_path)
    (sample,) = (pairs.train[0],)
    front = len(b"User:\nHi\n\nAssistant:\n")
    for side, text in (("chosen", b"Hello!"), ("rejected", b"Go away.")):
        labels = sample[f"{side}_labels"].tolist()
        assert labels[: front - 1] == [-100] * (front - 1)
        assert bytes(label for label in labels if 0 <= label < 256).strip() == text
    assert sample["chosen_ids"][:front].equal(sample["rejected_ids"][:front])


def test_long_prompts_lose_their_beginning_in_both_rows_and_long_answers_are_counted(tmp_path, caplog):
    caplog.set_level("INFO")
    long, answers = "x" * 60, {"chosen": "Yes, of course.", "rejected": "No."}
    path = file_of(
        tmp_path, {"prompt": long, **answers}, {"prompt": "Hi", "chosen": "y" * 70, "rejected": "No."}, {"prompt": "Hi", **answers}
    )
    pairs = data(path, tmp_path).train
    assert len(pairs) == 2
    one, other = pairs[0]["chosen_ids"], pairs[0]["rejected_ids"]
    assert len(one) == 64
    assert one[:40].equal(other[:40])
    assert "1 pairs with an answer that does not fit" in caplog.text
    assert "1 pairs whose prompt was cut" in caplog.text
    assert len(data(path, tmp_path, too_long="drop").train) == 1


def test_wrong_records_are_counted_and_nothing_is_left(tmp_path):
    good = {"prompt": "Hi", "chosen": "a", "rejected": "b"}
    path = file_of(tmp_path, good, {"prompt": "Hi", "chosen": "a", "rejected": "a"}, good, {"prompt": "Hi", "chosen": "a"})
    with pytest.raises(DataError, match=r"2 records cannot be used") as failure:
        data(path, tmp_path / "cache").prepare()
    assert "pairs.jsonl:2: 'chosen' and 'rejected' are equal" in str(failure.value)
    assert "pairs.jsonl:4: no 'rejected'" in str(failure.value)
    assert not list((tmp_path / "cache").glob("tokens/*"))


def test_a_built_in_docstring_is_right_as_often_as_wrong_and_held_out_ones_are_not_trained(tmp_path):
    from ironloom.data.preferences.docstrings import records

    found = list(records())
    assert len(found) > 500
    assert sorted(record["chosen"] for record in found) == sorted(record["rejected"] for record in found)
    pairs = data("python-docstrings", tmp_path, tokenizer_type="bbpe", vocab_size=1024, seq_length=256, splits=(0.9, 0.1, 0))
    held_out = {bytes(pairs.eval[index]["chosen_labels"].numpy().tobytes()) for index in range(12, len(pairs.eval))}
    assert not held_out & {pairs.train[index]["rejected_labels"].numpy().tobytes() for index in range(len(pairs.train) - 12)}


def test_special_tokens_of_a_file_count_in_pairs(tmp_path):
    special = tmp_path / "special.json"
    special.write_text(json.dumps({"additional_special_tokens": ["<call>"]}))
    path = file_of(tmp_path, {"prompt": "Hi", "chosen": "<call>", "rejected": "No."})
    plain, marked = (len(data(path, tmp_path, special_tokens=file).train[0]["chosen_ids"]) for file in (None, str(special)))
    assert plain - marked == len("<call>") - 1


def test_which_answers_are_trained_is_no_choice_with_pairs(tmp_path):
    with pytest.raises(ConfigError, match="train_on: has no effect on pairs"):
        data(tmp_path / "pairs.jsonl", tmp_path, train_on="last")
