"""A run on packed conversations is the run on the same conversations alone; packed texts train, from the command line to the model."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from chats import answer, user
from ironloom import config
from ironloom.cli import main
from ironloom.data import SFTData, collate_rows
from ironloom.models import build_decoder
from ironloom.objectives.cross_entropy import CrossEntropy
from ironloom.settings.model import ModelConfig, PositionalEmbedding

SHAPE: dict[str, Any] = {"num_layers": 2, "d_model": 16, "d_ffn": 32, "num_attention_heads": 2, "head_dim": 8, "max_seq_len": 96}
DROPOUTS = {"dropout_embd": 0.0, "dropout_attn": 0.0, "dropout_mlp": 0.0}


def conversations(folder: Path, count: int = 24) -> str:
    """Some of one turn, some of two, of all lengths."""
    draw, lines = random.Random(0), []
    for number in range(count):
        turns = [part for _ in range(1 + number % 2) for part in (user("q" * draw.randint(1, 6)), answer("a" * draw.randint(1, 9)))]
        lines.append(json.dumps({"messages": turns}) + "\n")
    (folder / "chats.jsonl").write_text("".join(lines))
    return str(folder / "chats.jsonl")


def data(folder: Path, packing: str) -> SFTData:
    return SFTData(
        [conversations(folder)],
        tokenizer_type="byte",
        vocab_name_or_path=None,
        vocab_size=None,
        seq_length=SHAPE["max_seq_len"],
        splits=(1.0, 0.0, 0.0),
        chat_template="plain",
        packing=packing,
        cache_dir=str(folder / "cache"),
    )


@pytest.mark.parametrize("positions", ["absolute", "rope", "none"])
def test_packed_gradients_are_those_of_each_conversation_alone(tmp_path: Path, positions: Any) -> None:
    packed, alone = data(tmp_path, "best_fit"), data(tmp_path, "none")
    settings = ModelConfig(**SHAPE, **DROPOUTS, positional_embedding=PositionalEmbedding(type=positions))
    model = build_decoder(settings, vocab_size=alone.tokenizer.vocab_size, init_std=0.3).double()
    objective = CrossEntropy()
    whole = collate_rows(packed.train.__getitems__(list(range(len(packed.train)))), length=96)  # type: ignore[union-attr]
    assert len(packed.train) < 0.7 * len(alone.train)
    assert "position_ids" in whole
    found = objective(model, whole, 1)[0]
    expected = torch.stack([objective(model, collate_rows([sample]), 1)[0] for sample in alone.train]).sum()
    assert objective.weight(whole) == sum(objective.weight(collate_rows([sample])) for sample in alone.train)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    parameters = list(model.parameters())
    gradients, others = torch.autograd.grad(found, parameters), torch.autograd.grad(expected, parameters)
    total = torch.stack([other.norm() for other in others]).norm()
    for one, other in zip(gradients, others, strict=True):  # those of keys' biases are zero but for rounding
        assert (one - other).norm() <= 1e-6 * max(other.norm(), 1e-3 * total)
    # The test would see it if conversations saw each other.
    del whole["position_ids"]
    assert abs(float((objective(model, whole, 1)[0] / expected).detach()) - 1) > 1e-5 or positions == "none"


RUN = """
model: {{{shape}, dropout_embd: 0, dropout_attn: 0, dropout_mlp: 0, precision: float32, tokenizer_type: byte}}
data: {{task_type: {task}, train_datasets: ['{source}'], {options}splits: [0.8, 0.2, 0]}}
trainer: {{model_path: out, micro_batch_size: 4, do_eval: true}}
operation: {{train_steps: 2, eval_interval: 2, no_save: true}}
optim: {{optimizer: sgd, max_lr: 0.1, warmup_steps: 0}}
init: {{init_std: 0.2}}
"""
SHORT = ", ".join(f"{name}: {value}" for name, value in SHAPE.items())


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("IRONLOOM_CACHE", str(tmp_path / "cache"))
    return tmp_path


def run(*words: str) -> int:
    with pytest.raises(SystemExit) as end:
        main(list(words))
    return int(end.value.code or 0)


def test_an_optimizer_step_on_packed_rows_is_that_on_the_same_conversations(here: Path) -> None:
    """All of them in one step, in every arrangement: the same loss, the same weights."""
    file = here / "run.yaml"
    file.write_text(RUN.format(shape=SHORT, task="sft", source=conversations(here), options="chat_template: plain, "))
    outcomes = []
    for packing, micro, accumulation in (("none", 24, 1), ("none", 6, 4), ("best_fit", 0, 1), ("best_fit", 1, 0)):
        rows = len(data(here, packing).train)
        words = [f"data.packing={packing}", "data.splits=[1, 0, 0]", "trainer.do_eval=false", "operation.train_steps=1"]
        words += [f"trainer.micro_batch_size={micro or rows}", f"trainer.gradient_accumulation_steps={accumulation or rows}"]
        graph = config.load(file, [*words, f"trainer.model_path={packing}-{micro}"])
        assert config.check(graph) == []
        trainer = config.build(graph, "main")
        output = trainer.train()
        outcomes.append((output.training_loss, trainer.state.num_target_tokens_seen, trainer.unwrapped_model().state_dict()))
    loss, targets, weights = outcomes[0]
    for found, same, others in outcomes[1:]:
        assert same == targets
        assert found == pytest.approx(loss, rel=1e-6)
        for name, values in weights.items():
            torch.testing.assert_close(others[name], values, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("task", ["sft", "pretrain"])
def test_the_command_line_packs_and_trains(
    here: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture, task: str
) -> None:
    source, options = conversations(here), "chat_template: plain, "
    if task == "pretrain":
        texts = [json.dumps({"text": "word " * length}) + "\n" for length in (3, 9, 40, 2, 7, 11, 5, 1, 30, 4, 8, 6)]
        (here / "texts.jsonl").write_text("".join(texts))
        source, options = str(here / "texts.jsonl"), ""
    file = here / "run.yaml"
    file.write_text(RUN.format(shape=SHORT, task=task, source=source, options=options))
    assert run("check", "run.yaml", "data.packing=best_fit") == 0
    assert run("data", "prepare", "run.yaml", "data.packing=best_fit") == 0
    told = capfd.readouterr().out
    caplog.clear()
    (line,) = re.findall(r"training data: (\d+ documents in \d+ rows of 96 tokens, [\d.]+% filled, \d+ tokens of padding.*)", told)
    assert ("2 longer than a row and cut" in line) == (task == "pretrain")
    assert run("train", "run.yaml", "data.packing=best_fit") == 0
    shown = capfd.readouterr()
    assert f"training data: {line}" in caplog.text
    assert re.search(r"step 2/2 +eval_loss", shown.out + shown.err)


@pytest.mark.parametrize("packing", ["concat", "best_fit"])
def test_each_way_to_keep_texts_apart_does_what_it_says(here: Path, packing: str) -> None:
    """Rotary positions are relative: where attention is kept apart, it makes no difference whether they begin again."""
    words = ["".join(chr(97 + (number * at) % 26) for at in range(length)) for number, length in enumerate(range(5, 60, 3))]
    texts = [json.dumps({"text": text}) for text in words]
    (here / "texts.jsonl").write_text("\n".join(texts) + "\n")
    file = here / "run.yaml"
    file.write_text(RUN.format(shape=SHORT, task="pretrain", source=here / "texts.jsonl", options=""))
    losses = {}
    for positions in (False, True):
        for attention in (False, True):
            words = [f"data.packing={packing}", "data.splits=[1, 0, 0]", "trainer.do_eval=false", "model.positional_embedding.type=rope"]
            words += [f"model.reset_position_ids={positions}".lower(), f"model.reset_attention_mask={attention}".lower()]
            words += [f"trainer.model_path={positions}-{attention}", "operation.train_steps=3"]
            trainer = config.build(config.load(file, words), "main")
            losses[positions, attention] = (trainer.train().training_loss, trainer.state.num_target_tokens_seen)
    (apart, targets), (running, same) = losses[True, True], losses[False, True]
    assert (apart, targets) == (pytest.approx(running, rel=1e-6), same)
    together, restarted = losses[False, False], losses[True, False]
    assert together[1] == restarted[1]
    assert len({round(loss, 4) for loss in (apart, together[0], restarted[0])}) == 3
    if packing == "concat":
        assert together[1] > targets
