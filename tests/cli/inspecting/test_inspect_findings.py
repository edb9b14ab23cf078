"""``ironloom data inspect``: each fault is planted and found, and what the data hold is counted."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xxhash

from cli.inspecting.corpora import WORDS, chats, write
from ironloom.cli import main

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def forge(tmp_path: Path, name: str, dtype: str, change: Callable[[Any], None]) -> None:
    """Change a file of the only store, and say that it was written like this."""
    (folder,) = (tmp_path / "cache" / "tokens").iterdir()
    values = np.fromfile(folder / name, dtype)
    change(values)
    values.tofile(folder / name)
    meta = json.loads((folder / "meta.json").read_text())
    meta["files"][name]["xxh3"] = xxhash.xxh3_64_hexdigest(values.tobytes())
    (folder / "meta.json").write_text(json.dumps(meta))


def kinds(report: dict[str, Any], level: str = "error") -> list[str]:
    return [finding["kind"] for finding in report["findings"] if finding["level"] == level]


def test_a_clean_corpus_is_told_and_ends_with_0(tmp_path: Path, inspect: Any) -> None:
    write(tmp_path / "a.jsonl", WORDS)
    write(tmp_path / "b.jsonl", ["something else altogether"])
    code, report, out = inspect(
        f"train_datasets: [{tmp_path}/a.jsonl], eval_datasets: [{tmp_path}/b.jsonl], splits: [1.0, 0.0, 0.0]", length=32
    )
    assert (code, report["good"], report["format"], report["findings"]) == (0, True, 1, [])
    assert "nothing is wrong" in out
    store = report["stores"]["training"]
    lengths = [len(text) + 1 for text in WORDS]
    assert (store["documents"], store["tokens"]) == (5, sum(lengths))
    assert store["lengths"] == {
        "min": min(lengths),
        "median": np.median(lengths),
        "mean": pytest.approx(np.mean(lengths)),
        "p95": pytest.approx(np.percentile(lengths, 95)),
        "max": max(lengths),
        "histogram": [{"first": 8, "last": 15, "documents": 2}, {"first": 16, "last": 26, "documents": 3}],
    }
    assert store["unused"] == 257 - len({*"".join(WORDS).encode(), 256})
    assert (store["trained"], store["masked"], store["counts"]) == (None, 0.0, {})
    assert {each["kind"]: (each["rows"], each["cut"]) for each in store["packings"]} == {
        "none": (5, 0),
        "concat": (2, 2),
        "best_fit": (3, 0),
    }
    end = {"kind": "special", "trained": True, "tokens": 1, "text": "<|endoftext|>", "weight": 1.0}
    assert store["samples"][0]["segments"][-1] == end


def test_broken_records_are_all_counted_over_all_files(tmp_path: Path, inspect: Any) -> None:
    lines = [
        b'{"text": "good"}',
        b"{",
        b'{"text": 1}',
        b'{"text": "\xff"}',
        b"[]",
        b'{"other": ""}',
        b'{"text": ""}',
        b'{"text": "\\ud800"}',
    ]
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    (tmp_path / "data" / "b.parquet").write_bytes(b"PAR1")
    (tmp_path / "data" / "c.csv").write_text("text,id\nx,1\ny\nz,3\n")
    (tmp_path / "data" / "d.json").write_text('[{"text": "a"}, {"text": null}]')
    code, report, out = inspect(f"train_datasets: [{tmp_path}/data], eval_datasets: [{tmp_path}/missing.jsonl]")
    assert code == 3
    broken = report["broken"]["training"]
    assert (broken["records"], broken["wrong"], broken["empty"]) == (13, 8, 1)
    for place in [*(f"a.jsonl:{line}: " for line in (2, 3, 4, 5, 6, 8)), "c.csv:3: 1 fields", "d.json: record 1: "]:
        assert sum(f"{tmp_path}/data/{place}" in line for line in broken["shown"]) == 1, place
        assert place in out
    (unreadable,) = broken["unreadable"]
    assert "b.parquet: not a complete Parquet file" in unreadable
    assert "no such file" in report["broken"]["evaluation"]["unreadable"][0]
    assert kinds(report) == ["broken_records", "unreadable_source", "unreadable_source"]
    assert list((tmp_path / "cache").rglob("*.bin")) == []


def test_conversations_and_pairs_that_are_none_are_named_by_line(tmp_path: Path, inspect: Any) -> None:
    rows = [
        {"messages": [{"role": "user", "content": "q"}]},
        {"messages": "x"},
        {"messages": []},
        {"chosen": "a", "rejected": "a", "prompt": "q"},
    ]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for task, wrong in (("sft", (2, 3, 4)), ("dpo", (1, 2, 3, 4))):
        code, report, _ = inspect(f"train_datasets: [{tmp_path}/a.jsonl], task_type: {task}, chat_template: plain")
        assert (code, kinds(report)) == (3, ["broken_records"])
        assert [int(re.search(r"a\.jsonl:(\d+)", line)[1]) for line in report["broken"]["training"]["shown"]] == list(wrong)


def test_conversations_that_the_template_refuses_are_all_named(tmp_path: Path, inspect: Any) -> None:
    refusing = "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}{{ m.content }}|{% endfor %}"
    (tmp_path / "chat.jinja").write_text(refusing)
    system = {"role": "system", "content": "Be good."}
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    rows = [{"messages": turns if number % 3 else [system, *turns]} for number in range(30)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, report, _ = inspect(f"train_datasets: [{tmp_path}/a.jsonl], task_type: sft, chat_template: {tmp_path}/chat.jinja")
    broken = report["broken"]["training"]
    assert (code, kinds(report), broken["records"], broken["wrong"]) == (3, ["broken_records"], 30, 10)
    assert [int(re.search(r"a\.jsonl:(\d+): .*no system", line)[1]) for line in broken["shown"]] == list(range(1, 31, 3))


def test_a_limit_on_samples_limits_what_is_looked_at(tmp_path: Path, inspect: Any) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n{\n{"text": "b"}\n{\n')
    _, report, _ = inspect(f"train_datasets: [{{dataset_path: {tmp_path}/a.jsonl, max_samples: 2}}]")
    assert (report["broken"]["training"]["records"], report["broken"]["training"]["wrong"]) == (3, 1)


def test_training_data_in_evaluation_data_are_a_leak(tmp_path: Path, inspect: Any) -> None:
    write(tmp_path / "a.jsonl", WORDS)
    write(tmp_path / "b.jsonl", ["new", WORDS[3], "newer", WORDS[1], WORDS[1]])
    code, report, out = inspect(f"train_datasets: [{tmp_path}/a.jsonl], eval_datasets: [{tmp_path}/b.jsonl], splits: [1.0, 0.0, 0.0]")
    assert (code, kinds(report)) == (3, ["leak"])
    (leak,) = report["leaks"]
    assert (leak["use"], leak["store"], leak["training"], leak["samples"], leak["of"]) == ("evaluation", "evaluation", "training", 3, 5)
    assert [(same["sample"], same["training_sample"]) for same in leak["first"]] == [(1, 3), (3, 1), (4, 1)]
    assert "3 of 5 samples of the evaluation data are in the training data" in out


@pytest.mark.parametrize("planted", [True, False])
def test_a_split_can_leak_too(tmp_path: Path, inspect: Any, planted: bool) -> None:
    texts = [f"this is text number {number:03}" for number in range(100)]
    texts[97] = texts[5] if planted else texts[97]
    texts[11] = texts[12]  # a copy within the training part is none
    write(tmp_path / "a.jsonl", texts)
    code, report, _ = inspect(f"train_datasets: [{tmp_path}/a.jsonl], splits: [0.9, 0.1, 0.0]")
    assert report["stores"]["training"]["parts"] == {"training": [0, 90], "evaluation": [90, 100]}
    assert (code, kinds(report)) == ((3, ["leak"]) if planted else (0, []))
    if planted:
        assert report["leaks"][0]["first"] == [{"sample": 97, "training_sample": 5, "text": "this is text number 005<|endoftext|>"}]


def test_several_sources_and_sets_are_looked_at_each_by_itself(tmp_path: Path, inspect: Any) -> None:
    write(tmp_path / "a.jsonl", WORDS[:3])
    write(tmp_path / "b.jsonl", WORDS[3:])
    write(tmp_path / "good.jsonl", ["something that is new altogether"])
    write(tmp_path / "bad.jsonl", [WORDS[4]])
    _, report, _ = inspect(
        f"train_datasets: [{tmp_path}/a.jsonl, {tmp_path}/b.jsonl], test_datasets: [{tmp_path}/good.jsonl, {tmp_path}/bad.jsonl], "
        "splits: [1.0, 0.0, 0.0]"
    )
    assert set(report["stores"]) == {"training", "test/good", "test/bad"}
    assert [(leak["use"], leak["store"], leak["training"], leak["samples"]) for leak in report["leaks"]] == [
        ("test", "test/bad", "training", 1)
    ]


def test_what_is_only_noteworthy_is_a_warning(tmp_path: Path, inspect: Any) -> None:
    write(tmp_path / "a.jsonl", ["same", "long " * 20, "same", "\n", "other", "same", "other"])
    code, report, out = inspect(f"train_datasets: [{tmp_path}/a.jsonl], splits: [1.0, 0.0, 0.0]")
    assert (code, kinds(report)) == (0, [])
    assert {finding["kind"]: finding["count"] for finding in report["findings"]} == {"duplicates": 3, "long_documents": 1}
    most = report["stores"]["training"]["duplicates"]["most"]
    assert [(each["sample"], each["times"], each["text"]) for each in most] == [(0, 3, "same<|endoftext|>"), (4, 2, "other<|endoftext|>")]
    assert "warning: training: 3 of 7 samples are copies of earlier ones" in out


def test_what_is_trained_and_what_was_left_out(tmp_path: Path, inspect: Any) -> None:
    chats(tmp_path / "a.jsonl", [("Q", "An answer"), ("Why?", "x" * 300), ("R", "Another")])
    (tmp_path / "chat.jinja").write_text(CHATML)
    code, report, out = inspect(
        f"train_datasets: [{tmp_path}/a.jsonl], task_type: sft, chat_template: {tmp_path}/chat.jinja, splits: [1.0, 0.0, 0.0]",
        "--samples",
        "2",
        length=96,
    )
    assert code == 0
    store = report["stores"]["training"]
    trained = len("An answer<|im_end|>Another<|im_end|>")
    assert (store["documents"], store["trained"], store["untrained"]) == (2, trained, 0)
    assert store["masked"] == pytest.approx(1 - trained / store["tokens"])
    assert store["counts"] == {"rows whose answer does not fit into the sequence length, left out": 1}
    assert kinds(report, "warning") == ["preparing"]
    texts = [[segment["text"] for segment in sample["segments"] if segment["trained"]] for sample in store["samples"]]
    assert texts == [["An answer<|im_end|>"], ["Another<|im_end|>"]]
    assert "  + | An answer<|im_end|>\n" in out
    assert "    | <|im_start|>user\n" in out


def test_weights_of_answers_are_shown(tmp_path: Path, inspect: Any) -> None:
    talk = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A", "weight": 0.5}]
    talk += [{"role": "user", "content": "R"}, {"role": "assistant", "content": "BB"}]
    (tmp_path / "a.jsonl").write_text(json.dumps({"messages": talk}) + "\n")
    (tmp_path / "chat.jinja").write_text(CHATML)
    entries = f"train_datasets: [{tmp_path}/a.jsonl], task_type: sft, chat_template: {tmp_path}/chat.jinja, splits: [1.0, 0.0, 0.0]"
    code, report, out = inspect(entries, "--samples", "1", length=200)
    store = report["stores"]["training"]
    assert (code, store["trained"], store["weight"]) == (0, 11 + 12, 0.5 * 11 + 12)
    segments = [segment for segment in store["samples"][0]["segments"] if segment["trained"]]
    assert [(segment["text"], segment["weight"]) for segment in segments] == [("A<|im_end|>", 0.5), ("BB<|im_end|>", 1.0)]
    assert "  +0.5 | A<|im_end|>\n" in out and "  + | BB<|im_end|>\n" in out
    assert ", weighing 17.5 together, masked" in out


def test_both_sides_of_a_pair_are_shown(tmp_path: Path, inspect: Any) -> None:
    rows = [{"prompt": f"Question {number}", "chosen": "yes", "rejected": "no"} for number in (1, 2, 1)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, report, out = inspect(
        f"train_datasets: [{tmp_path}/a.jsonl], task_type: dpo, chat_template: plain, splits: [1.0, 0.0, 0.0]", "--samples", "1", length=64
    )
    store = report["stores"]["training"]
    assert (code, report["kinds"]) == (0, ["dpo_chosen", "dpo_rejected"])
    assert [(sample["document"], sample["label"]) for sample in store["samples"]] == [(2, "chosen"), (3, "rejected")]
    assert (store["documents"], store["duplicates"]["copies"]) == (6, 1)
    assert "document 3 (rejected)" in out


def test_tokens_outside_the_vocabulary_are_found(tmp_path: Path, inspect: Any) -> None:
    write(tmp_path / "a.jsonl", WORDS)
    datasets = f"train_datasets: [{tmp_path}/a.jsonl], splits: [1.0, 0.0, 0.0]"
    assert inspect(datasets)[0] == 0

    def change(tokens: Any) -> None:
        tokens[[-1, -2, 3]] = (65535, 257, 40000)

    forge(tmp_path, "tokens.bin", "<u2", change)
    code, report, out = inspect(datasets)
    assert (code, kinds(report), report["stores"]["training"]["outside"]) == (3, ["outside_vocabulary"], 3)
    assert "3 tokens are outside the vocabulary of 257, in document 0, 4" in out


def test_documents_with_nothing_to_train_on_are_found(tmp_path: Path, inspect: Any) -> None:
    chats(tmp_path / "a.jsonl", [("Q", "A"), ("R", "B"), ("S", "C")])
    datasets = f"train_datasets: [{tmp_path}/a.jsonl], task_type: sft, chat_template: plain, splits: [1.0, 0.0, 0.0]"
    assert inspect(datasets, length=64)[0] == 0

    def change(trained: Any) -> None:
        rows = trained.reshape(3, -1)
        rows[1] = 0
        rows[1, 0] = 1  # of a first token nobody asks for

    forge(tmp_path, "trained.bin", "<u1", change)
    code, report, out = inspect(datasets, length=64)
    assert (code, kinds(report), report["stores"]["training"]["untrained"]) == (3, ["nothing_trained"], 1)
    assert "1 of 3 documents have nothing to train on: 1" in out


def test_a_damaged_store_is_named_and_not_read(tmp_path: Path, inspect: Any) -> None:
    write(tmp_path / "a.jsonl", WORDS)
    datasets = f"train_datasets: [{tmp_path}/a.jsonl], splits: [1.0, 0.0, 0.0]"
    inspect(datasets)
    (file,) = (tmp_path / "cache").rglob("documents.bin")
    file.write_bytes(b"\xff" * file.stat().st_size)
    code, report, out = inspect(datasets)
    assert (code, kinds(report), report["stores"]) == (3, ["damaged_store"], {})
    assert f"{file}: the content is damaged" in out


def test_too_little_held_out_data_is_told_with_the_rest(tmp_path: Path, inspect: Any) -> None:
    write(tmp_path / "a.jsonl", WORDS)
    code, report, _ = inspect(f"train_datasets: [{tmp_path}/a.jsonl], splits: [0.98, 0.02, 0.0]", "trainer.do_eval=true")
    assert (code, kinds(report), list(report["stores"])) == (3, ["unusable"], ["training"])
    with pytest.raises(SystemExit) as end:
        main(["data", "inspect", str(tmp_path / "run.yaml"), "trainer.do_eval=false"])
    assert end.value.code == 0  # nobody asks for them
