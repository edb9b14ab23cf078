"""Conversations to batches: rows and labels, lengths, splits, the cache, and training on them from the command line."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from chat_templates import CHATML, QWEN3
from chats import TWO, answer, system, user
from ironloom.cli import main
from ironloom.data import SFTData, collate_rows, make_loader
from ironloom.data.tokenizer import Tokenizer
from ironloom.errors import ConfigError, DataError

BYTES = Tokenizer.bytes()


def write(folder: Path, conversations: list[Any], name: str = "chats.jsonl") -> str:
    path = folder / name
    path.write_text("".join(json.dumps({"messages": messages}) + "\n" for messages in conversations))
    return str(path)


def pairs(count: int) -> list[list[dict[str, Any]]]:
    return [[user(f"Q{number}"), answer(f"A{number}")] for number in range(count)]


def data(source: Any, cache: Path, **options: Any) -> SFTData:
    defaults: dict[str, Any] = {
        "tokenizer_type": "byte",
        "vocab_name_or_path": None,
        "vocab_size": None,
        "seq_length": 200,
        "splits": (1.0, 0.0, 0.0),
        "chat_template": CHATML,
        "cache_dir": str(cache),
    }
    return SFTData(source if isinstance(source, list) else [source], **{**defaults, **options})


def shown(sample: dict[str, torch.Tensor]) -> tuple[str, str]:
    """What the model is given, and what it is trained to say next, where it is trained."""
    labels = sample["shift_labels"]
    return BYTES.decode(sample["input_ids"].tolist()), BYTES.decode(labels[labels >= 0].tolist())


def test_each_position_is_trained_on_the_next_token_of_answers(tmp_path: Path) -> None:
    rows = data(write(tmp_path, [TWO]), tmp_path).train
    (sample,) = rows
    text = "<|im_start|>user\nHi there<|im_end|>\n<|im_start|>assistant\nHello!<|im_end|>\n"
    text += "<|im_start|>user\nBye<|im_end|>\n<|im_start|>assistant\nSee you.<|im_end|>\n"
    assert shown(sample) == (text[:-1], "Hello!<|im_end|>See you.<|im_end|>")
    ids, labels = sample["input_ids"], sample["shift_labels"]
    trained = (labels >= 0).nonzero().flatten()
    assert torch.equal(labels[trained], torch.tensor(BYTES.encode(text))[trained + 1])
    first = text.index("Hello!")
    # Off by one, the first token of the answer would be lost, or the last one of the prompt be trained.
    assert (int(trained[0]), int(labels[first - 1]), int(labels[first - 2])) == (first - 1, ord("H"), -100)
    assert ids.dtype == labels.dtype == torch.int64


def test_rows_of_a_batch_are_filled_up_with_what_is_not_trained(tmp_path: Path) -> None:
    rows = data(write(tmp_path, [TWO, *pairs(3)]), tmp_path).train
    loader = make_loader(rows, batch_size=4, shuffle=False, seed=0, collate=lambda samples: collate_rows(samples, 7))
    (batch,) = loader
    length = len(rows[0]["input_ids"])
    assert batch["input_ids"].shape == batch["shift_labels"].shape == (4, length)
    for number, sample in enumerate(rows):
        own = len(sample["input_ids"])
        for name, fill in (("input_ids", 7), ("shift_labels", -100)):
            assert torch.equal(batch[name][number, :own], sample[name])
            assert bool((batch[name][number, own:] == fill).all())
    assert collate_rows([rows[1]], length=200)["input_ids"].shape == (1, 200)


def test_padding_changes_no_loss(tmp_path: Path) -> None:
    """The sum over a padded batch is that over its rows alone."""
    from ironloom.models import Decoder, build_decoder
    from ironloom.objectives.cross_entropy import CrossEntropy
    from ironloom.settings import ModelConfig

    config = ModelConfig(num_layers=2, d_model=16, d_ffn=32, num_attention_heads=2, head_dim=8, dropout_embd=0.0, dropout_attn=0.0)
    model = build_decoder(config=config, vocab_size=257, eos_token_id=256, seed=0).eval()
    assert isinstance(model, Decoder)
    rows = data(write(tmp_path, [TWO, *pairs(3)]), tmp_path).train
    objective, samples = CrossEntropy(), list(rows)
    batch = collate_rows(samples, 9)
    alone = [collate_rows([sample]) for sample in samples]
    assert objective.weight(batch) == sum(map(objective.weight, alone))
    losses = [objective(model, each, 1)[0] for each in alone]
    torch.testing.assert_close(objective(model, batch, 1)[0], torch.stack(losses).sum())


CUT, WITHOUT = "rows cut to the sequence length", "rows whose answer does not fit into the sequence length, left out"


@pytest.mark.parametrize(
    ("too_long", "seq_length", "trained", "counts"),
    [
        # The 147 bytes of TWO have answers from 58 to 74 and from 128 to 146; a row has one token more than the model is given.
        ("drop", 130, ["A0<|im_end|>"], {"rows longer than the sequence length, left out": 3}),
        ("right", 130, ["Hello!<|im_end|>See", "A0<|im_end|>"], {CUT: 1, WITHOUT: 2}),
        ("right", 73, ["Hello!<|im_end|>", "A0<|im_end|>"], {CUT: 1, WITHOUT: 2}),
        ("right", 72, ["A0<|im_end|>"], {WITHOUT: 3}),
        ("left", 80, ["See you.<|im_end|>", "y<|im_end|>", "A0<|im_end|>"], {CUT: 2, WITHOUT: 1}),
    ],
)
def test_rows_that_are_too_long(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, too_long: str, seq_length: int, trained: list[str], counts: dict[str, int]
) -> None:
    # A prompt that is longer than a row, and an only answer that is.
    only = [[user("x" * 120), answer("y")], [user("z"), answer("y" * 140)]]
    source = write(tmp_path, [TWO, *only, *pairs(1)])
    with caplog.at_level(logging.INFO):
        prepared = data(source, tmp_path, seq_length=seq_length, too_long=too_long)
        assert [shown(sample)[1] for sample in prepared.train] == trained
    assert all(len(sample["input_ids"]) <= seq_length for sample in prepared.train)
    assert prepared.stores["training"].counts == counts
    for what, number in counts.items():
        assert f"training data: {number} {what}" in caplog.text


def test_what_has_nothing_to_train_is_counted_and_left_out(tmp_path: Path) -> None:
    silent = [[user("a")], [user("a"), answer("b", train=False)]]
    prepared = data(write(tmp_path, [*silent, *pairs(2)]), tmp_path)
    assert len(prepared.train) == 2
    assert prepared.stores["training"].counts == {"conversations without an answer to train on, left out": 2}
    with pytest.raises(DataError, match="no documents: 2 conversations without an answer to train on"):
        data(write(tmp_path, silent, "silent.jsonl"), tmp_path).prepare()


def test_answers_that_are_rendered_otherwise_have_rows_of_their_own(tmp_path: Path) -> None:
    prepared = data(write(tmp_path, [TWO]), tmp_path, chat_template=QWEN3)
    assert [shown(row)[1] for row in prepared.train] == [
        "<think>\n\n</think>\n\nHello!<|im_end|>",
        "<think>\n\n</think>\n\nSee you.<|im_end|>",
    ]
    assert sum(prepared.stores["training"].counts.values()) == 1
    last = data(write(tmp_path, [TWO]), tmp_path, chat_template=QWEN3, train_on="last", chat_template_arguments={"enable_thinking": False})
    assert [shown(row)[1] for row in last.train] == ["See you.<|im_end|>"]


def test_conversations_that_cannot_be_rendered_are_named(tmp_path: Path) -> None:
    template = "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}{{ m.content }}|{% endfor %}"
    source = write(tmp_path, [TWO, [system("s"), *TWO], TWO, [system("t"), *TWO]])
    with pytest.raises(DataError) as refused:
        data(source, tmp_path, chat_template=template).prepare()
    assert str(refused.value).startswith("2 of the first 4 conversations cannot be used:")
    assert all(f"chats.jsonl:{line}: the chat template does not take" in str(refused.value) for line in (2, 4))
    assert not list((tmp_path / "tokens").glob("*"))


def test_the_cache_is_found_by_everything_that_makes_a_difference(tmp_path: Path) -> None:
    source = write(tmp_path, [TWO, *pairs(2)])

    def folder(**options: Any) -> Path:
        return data(source, tmp_path / "cache", **options).stores["training"].folder

    first = folder()
    assert folder() == first
    others = [
        folder(chat_template="plain"),
        folder(chat_template_arguments={"x": 1}),
        folder(train_on="last"),
        folder(too_long="left"),
        folder(seq_length=70),
        folder(tokenizer_type="bbpe", vocab_size=270),
    ]
    assert len({first, *others}) == 7
    write(tmp_path, [TWO, *pairs(3)])
    assert folder() not in {first, *others}


def test_splits_are_of_rows_and_sets_may_have_their_own(tmp_path: Path) -> None:
    source, other = write(tmp_path, pairs(10)), write(tmp_path, [TWO, *pairs(1)], "other.jsonl")
    prepared = data(source, tmp_path, splits=(0.7, 0.2, 0.1))
    parts = [[shown(row)[1][:2] for row in part] for part in (prepared.train, prepared.eval, prepared.test)]  # type: ignore[union-attr]
    assert parts == [[f"A{number}" for number in numbers] for numbers in (range(7), (7, 8), (9,))]
    prepared = data(source, tmp_path, splits=(0.8, 0.2, 0.0), eval_datasets=[other], eval_samples=1)
    assert (len(prepared.train), len(prepared.eval), prepared.test) == (10, 1, None)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="evaluation data: none of the 2 samples falls to it"):
        _ = data(other, tmp_path, splits=(0.9, 0.1, 0.0)).eval


def test_what_only_another_task_reads_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"train_datasets\.0\.text_column: has no effect on sft"):
        data([{"source": "a.jsonl", "text_column": "body"}], tmp_path)


def test_a_run_has_one_template(tmp_path: Path) -> None:
    source = write(tmp_path, [TWO])
    entries = [{"dataset_path": source, "task_type": "sft", "chat_template": name} for name in ("plain", "raw")]
    with pytest.raises(ConfigError, match="one run has one template"):
        data(entries, tmp_path, chat_template=None)
    one = data(entries[:1], tmp_path, chat_template=None)
    assert shown(one.train[0])[0].startswith("User:\nHi there")
    assert "Assistant:" in one.tokenizer.chat_templates["default"]
    with pytest.raises(ConfigError, match="the tokenizer has none"):
        data(source, tmp_path, chat_template=None).prepare()


RUN = """
model: {{num_layers: 1, d_model: 16, d_ffn: 32, num_attention_heads: 2, head_dim: 8, max_seq_len: 128, tokenizer_type: byte}}
data: {{task_type: sft, train_datasets: ['{source}'], chat_template: plain, splits: [0.8, 0.2, 0]}}
trainer: {{model_path: out, micro_batch_size: 4, train_batch_size: 4, do_eval: true}}
operation: {{train_steps: 2, eval_interval: 2}}
optim: {{warmup_steps: 0}}
"""


def run(*words: str) -> int:
    with pytest.raises(SystemExit) as end:
        main(list(words))
    return int(end.value.code or 0)


def test_the_command_line_trains_on_conversations(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("IRONLOOM_CACHE", str(tmp_path / "cache"))
    (tmp_path / "run.yaml").write_text(RUN.format(source=write(tmp_path, pairs(20))))
    assert run("check", "run.yaml") == 0
    assert run("data", "prepare", "run.yaml") == 0
    assert "training: 20 documents" in capfd.readouterr().out
    assert run("train", "run.yaml") == 0
    shown = capfd.readouterr()
    assert re.search(r"step 2/2 +eval_loss", shown.out + shown.err)
    # The template is saved with the model, where every program of transformers finds it.
    assert "Assistant:" in Tokenizer.load(tmp_path / "out").chat_templates["default"]
    # Going on from the trained model's folder is one line.
    assert (
        run("train", "run.yaml", "model={name_or_path: out, max_seq_len: 128}", "trainer.model_path=more", "data.chat_template=null") == 0
    )
    capfd.readouterr()
    (tmp_path / "chats.jsonl").write_text('{"messages": [{"role": "assistant", "content": "x"}]}\n')
    assert run("train", "run.yaml", "trainer.model_path=other") == 3
    assert "chats.jsonl:1: a conversation without a user turn" in capfd.readouterr().err
