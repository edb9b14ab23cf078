"""Slow proofs of fine-tuning: what is learnt by heart ends where it should, and the loss is that of TRL."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from chat_cases import tokenizer
from chat_templates import TAGGED
from chats import answer, system, user
from ironloom.data import SFTData, collate_rows
from ironloom.data.chat import ChatTemplate
from ironloom.data.tokenizer import Tokenizer

pytestmark = pytest.mark.slow

WORDS = [
    *("amber", "basalt", "cedar", "dune", "ember", "fjord", "grove", "heath", "islet", "jetty"),
    *("kelp", "lagoon", "marsh", "nook", "orchard", "prairie", "quarry", "reef", "savanna", "tundra"),
]


def dialogues() -> list[list[dict[str, Any]]]:
    """Twenty, of one to three turns and with answers of very different lengths; every third with a system message."""
    found = []
    for number, word in enumerate(WORDS):
        turns = [system(f"Talk of {word}.")] if number % 3 == 0 else []
        for turn in range(1 + number % 3):
            words = [WORDS[(number * 7 + turn * 3 + place * (number + 1)) % 20] for place in range(1 + (number * 5 + turn * 2) % 9)]
            turns += [user(f"{word} {turn}?"), answer(" ".join(words) + ".")]
        found.append(turns)
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Conversations, and a tokenizer with a template."""
    (tmp_path / "chats.jsonl").write_text("".join(json.dumps({"messages": messages}) + "\n" for messages in dialogues()))
    tokenizer("special").with_chat_template(TAGGED).save_pretrained(tmp_path / "words")
    return tmp_path


RUN = """
model: {num_layers: 2, d_model: 96, d_ffn: 256, num_attention_heads: 4, head_dim: 24, max_seq_len: 512, dropout_embd: 0, dropout_attn: 0,
  dropout_mlp: 0, positional_embedding: {type: rope}, ln_type: rmsnorm, tokenizer_type: bbpe, vocab_name_or_path: words}
data: {task_type: sft, train_datasets: [chats.jsonl], splits: [1, 0, 0]}
trainer: {model_path: out, micro_batch_size: 10, train_batch_size: 10, log_interval: 50, num_workers: 0}
operation: {train_steps: 400}
optim: {max_lr: 3e-3, warmup_steps: 20, weight_decay: 0}
init: {init_std: 0.02}
"""


def test_twenty_dialogues_learnt_by_heart_end_where_they_should(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ironloom.cli import main
    from ironloom.models.files import load_model
    from ironloom.models.generate import generate

    monkeypatch.chdir(folder)
    monkeypatch.setenv("IRONLOOM_CACHE", str(folder / "cache"))
    (folder / "run.yaml").write_text(RUN)
    with pytest.raises(SystemExit) as end:
        main(["train", "run.yaml"])
    assert end.value.code == 0
    model, words = load_model(folder / "out"), Tokenizer.load(folder / "out")
    template, (stop,) = ChatTemplate.of(words), words.encode("<|im_end|>")
    right = total = 0
    for messages in dialogues():
        for place, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            prompt = words.encode(template.render(messages[:place], add_generation_prompt=True))
            expected = [*words.encode(message["content"]), stop]
            # Room for twice the answer: a model that does not stop is seen.
            written = generate(model, torch.tensor([prompt]), max_new_tokens=2 * len(expected), temperature=0, eos_token_id=stop)
            right += written[0, len(prompt) :].tolist() == expected
            total += 1
    assert total == 39
    assert right / total >= 0.95, f"{right} of {total} answers end where they should"


@pytest.mark.filterwarnings("ignore")  # of TRL and transformers, about each other
def test_loss_and_gradient_are_those_of_trl(folder: Path) -> None:
    trl = pytest.importorskip("trl")
    from datasets import Dataset
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    from ironloom.objectives.cross_entropy import CrossEntropy

    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=tokenizer("special").vocab_size, max_position_embeddings=512, **sizes))
    data = SFTData(
        [str(folder / "chats.jsonl")],
        tokenizer_type="bbpe",
        vocab_name_or_path=str(folder / "words"),
        vocab_size=None,
        seq_length=500,
        splits=(1.0, 0.0, 0.0),
        cache_dir=str(folder / "cache"),
    )
    ours = collate_rows(list(data.train))
    options = trl.SFTConfig(
        str(folder / "theirs"), assistant_only_loss=True, per_device_train_batch_size=20, report_to="none", use_cpu=True
    )
    theirs = trl.SFTTrainer(
        model,
        args=options,
        train_dataset=Dataset.from_list([{"messages": messages} for messages in dialogues()]),
        processing_class=PreTrainedTokenizerFast.from_pretrained(folder / "words"),
    )
    batch = theirs.data_collator([theirs.train_dataset[number] for number in range(20)])
    assert batch["input_ids"].shape[1] in (ours["input_ids"].shape[1], ours["input_ids"].shape[1] + 1)
    assert torch.equal(batch["labels"][:, 1:][batch["labels"][:, 1:] >= 0], ours["shift_labels"][ours["shift_labels"] >= 0])
    expected = theirs.compute_loss(model, dict(batch))
    objective = CrossEntropy()
    loss = objective(model, ours, 1)[0] / objective.weight(ours)
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=1e-6)
    wanted, found = (torch.autograd.grad(each, list(model.parameters()), retain_graph=True) for each in (expected, loss))
    for theirs_, ours_ in zip(wanted, found, strict=True):
        torch.testing.assert_close(ours_, theirs_, rtol=1e-4, atol=1e-7)
