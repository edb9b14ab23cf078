"""Every preset of the package trains, saves and is read again: models made small, data with a local stand-in for what it names."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from ironloom import config
from ironloom.checkpoint.discovery import findings
from ironloom.config.groups import presets
from ironloom.models.files import load_decoder
from tiny import assert_same_weights, weights

MODELS = sorted(path.stem for path in (presets.LIBRARY / "model").glob("*.yaml"))
DATA = sorted(path.stem for path in (presets.LIBRARY / "data").glob("*.yaml"))
#: What makes any of the models small, and leaves its kind as it is.
SMALL = {"d_model": 16, "d_ffn": 32, "num_layers": 2, "num_attention_heads": 4, "head_dim": 4, "tokenizer_type": "byte"}
QUESTION = "How many looms stand in hall number {}?"
TURNS = "\n\nHuman: " + QUESTION + "\n\nAssistant: {}"


def openwebtext(number: int) -> dict[str, Any]:
    return {"text": f"Document {number} is about looms of iron. " * 40}


def dialogue(number: int) -> dict[str, Any]:
    asked, said = QUESTION.format(number), f"There are {number}."
    return {"prompt": asked, "messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": said}]}


#: A record as each of the named datasets has it.
RECORDS: dict[str, Callable[[int], dict[str, Any]]] = {
    "Skylion007/openwebtext": openwebtext,
    "Rowan/hellaswag": lambda number: {
        "ctx": f"A man walks to loom {number} and then " * 40,
        "endings": ["weaves", "sleeps"],
        "label": "0",
    },
    "HuggingFaceH4/ultrachat_200k": dialogue,
    "OpenAssistant/oasst1": dialogue,
    "openai/gsm8k": lambda number: {"question": QUESTION.format(number), "answer": f"{number} + 1 = {number + 1} #### {number + 1}"},
    "tatsu-lab/alpaca": lambda number: {"instruction": "Count the looms.", "input": f"hall {number}", "output": str(number), "text": ""},
    "Open-Orca/OpenOrca": lambda number: {
        "id": str(number),
        "system_prompt": "You count.",
        "question": QUESTION.format(number),
        "response": str(number),
    },
    "Anthropic/hh-rlhf": lambda number: {
        "chosen": TURNS.format(number, f"There are {number}."),
        "rejected": TURNS.format(number, "I do not care."),
    },
}


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Write a configuration into a folder where every named dataset has a stand-in."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("IRONLOOM_CACHE", str(tmp_path / "cache"))
    for name, record in RECORDS.items():
        folder = tmp_path / name
        folder.mkdir(parents=True)
        (folder / "train.jsonl").write_text("".join(json.dumps(record(number)) + "\n" for number in range(120)))

    def written(**groups: Any) -> Path:
        file = tmp_path / "run.yaml"
        trainer = {"micro_batch_size": 2, "train_batch_size": 2, "save_checkpoint_steps": 2, "log_interval": 1, "num_workers": 0}
        content = {"operation": {"train_steps": 3}, **groups, "trainer": {**trainer, "model_path": str(tmp_path / "output")}}
        file.write_text(json.dumps(content))
        return file

    return written


def train(file: Path, *overrides: str) -> Any:
    graph = config.load(file, list(overrides))
    assert config.check(graph) == []
    (trainer,) = config.build([graph.root["main"]])
    trainer.args.disable_tqdm = True
    trainer.train()
    return trainer


@pytest.mark.parametrize("name", MODELS)
def test_a_model_preset_trains_saves_and_goes_on(name: str, write: Any, tmp_path: Path) -> None:
    content = yaml.safe_load((presets.LIBRARY / "model" / f"{name}.yaml").read_text())
    groups = {"num_attention_groups": 2} if "num_attention_groups" in content else {}
    model = {"preset": name, **SMALL, **groups, "max_seq_len": 32, "vocab_name_or_path": None}
    file = write(model=model, data={"train_datasets": ["Skylion007/openwebtext"], "splits": [0.9, 0.1, 0.0]})
    trainer = train(file)
    losses = [record["loss"] for record in trainer.state.log_history if "loss" in record]
    assert len(losses) == 3
    saved = [found.path for found in findings(trainer.checkpoints.root)]
    assert sorted(path.name for path in saved) == ["checkpoint-2", "checkpoint-3"]
    assert_same_weights(weights(load_decoder(max(saved, key=lambda path: path.name))), weights(trainer.model))
    longer = train(file, "operation.train_steps=4")
    assert [record["step"] for record in longer.state.log_history if "loss" in record] == [1, 2, 3, 4]
    assert [record["loss"] for record in longer.state.log_history if "loss" in record][:3] == losses


def test_the_models_are_of_their_kinds() -> None:
    """What the names promise: rotation, root mean squares and gates for Llama; learned positions and biases for GPT."""
    kinds = {}
    for name in MODELS:
        content = yaml.safe_load((presets.LIBRARY / "model" / f"{name}.yaml").read_text())
        kinds[name] = (
            content["positional_embedding"]["type"],
            content["ln_type"],
            content["activation_type"],
            content.get("no_bias", False),
        )
    assert kinds.pop("llama") == ("rope", "rmsnorm", "swiglu", True)
    assert set(kinds.values()) == {("absolute", "layernorm", "gelu_tanh", False)}
    assert len(kinds) == 7


@pytest.mark.parametrize("name", DATA)
def test_a_data_preset_trains_with_a_local_stand_in(name: str, write: Any) -> None:
    content = yaml.safe_load((presets.LIBRARY / "data" / f"{name}.yaml").read_text())
    length = content["seq_length"]
    model = {"preset": "gpt2-small", **SMALL, "max_seq_len": length, "vocab_name_or_path": None}
    # The stand-in of a tokenizer has no template of its own.
    data = {"preset": name, "chat_template": "plain"} if content.get("task_type") == "sft" else name
    trainer = train(write(model=model, data=data))
    assert trainer.state.global_step == 3
    entries = content["train_datasets"]
    (record,) = (record for record in trainer.state.log_history if record["step"] == 3 and "loss" in record)
    mixed = {entry["dataset_path"].split("/")[1] for entry in entries if len(entries) > 1}
    assert {key.removeprefix("samples_") for key in record if key.startswith("samples_")} == mixed
    assert all(torch.isfinite(parameter).all() for parameter in trainer.model.parameters())


def test_every_dataset_that_a_preset_names_has_a_stand_in() -> None:
    named = set()
    for name in DATA:
        content = yaml.safe_load((presets.LIBRARY / "data" / f"{name}.yaml").read_text())
        named |= {entry["dataset_path"] for key in ("train_datasets", "eval_datasets") for entry in content.get(key, ())}
    assert named == set(RECORDS)
    assert len(DATA) == 6


def test_the_example_of_the_specification_is_right() -> None:
    """Inline model and references in one file, a rate without a dot, a decay of zero: each stopped the original."""
    file = Path(__file__).parents[1] / "config/groups/example.yaml"
    graph = config.load(file, ["optim.weight_decay=0", "optim.max_lr=6e-4", "trainer.gradient_accumulation_steps=120"])
    assert config.check(graph) == []
    assert graph.root["optimizer"].kwargs["lr"] == 6e-4
