"""Texts of a model in training: the right ones, at the right steps, and training is not disturbed by them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import nn

from ironloom import ConfigError
from ironloom.callbacks import TextgenCallback
from ironloom.data.tokenizer import Tokenizer
from ironloom.models import Decoder
from ironloom.models.generate import generate
from models.twins import randomize, small
from tiny import assert_same_weights, tiny_lm, tiny_trainer, weights

PROMPTS = ["one two", "three"]


def our_model() -> Decoder:
    model = Decoder(small(dropout_mlp=0.2, max_seq_len=64), 257)
    randomize(model)
    return model


def their_model() -> Any:
    torch.manual_seed(0)
    config = transformers.GPT2Config(vocab_size=257, n_embd=16, n_layer=1, n_head=2, n_positions=32, bos_token_id=256, eos_token_id=256)
    return transformers.GPT2LMHeadModel(config)


class Texts:
    def __init__(self) -> None:
        self.texts: list[tuple[str, int]] = []

    def add_text(self, tag: str, text: str, step: int) -> None:
        self.texts.append((tag, step))

    def flush(self) -> None: ...


def run(folder: Path, model: nn.Module, *callbacks: Any, **args: Any) -> Any:
    ids = torch.tensor(Tokenizer.bytes().encode("one two three four five six"))
    samples = [{"input_ids": ids, "labels": ids}] * 16
    options = {"callbacks": list(callbacks), "processing_class": Tokenizer.bytes()}
    trainer = tiny_trainer(folder, model, train=samples, evaluation=samples[:4], options=options, **{"save_strategy": "no", **args})
    trainer.train()
    return trainer


def records(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "logs" / "textgen.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("make", [our_model, their_model])
@pytest.mark.parametrize("cadence", [{"generation_steps": 2}, {}])
def test_training_is_not_disturbed(make: Any, cadence: dict[str, Any], tmp_path: Path) -> None:
    evaluation = {} if cadence else {"eval_strategy": "steps", "eval_steps": 2}
    quiet = run(tmp_path / "quiet", make(), **evaluation)
    texts = Texts()
    talkative = run(tmp_path / "talkative", make(), TextgenCallback(texts, PROMPTS, max_new_tokens=8, **cadence), **evaluation)
    assert_same_weights(weights(quiet.model), weights(talkative.model))
    assert (
        quiet.state.log_history[-2]["loss" if cadence else "eval_loss"]
        == talkative.state.log_history[-2]["loss" if cadence else "eval_loss"]
    )
    found = [(record["step"], record["prompt"]) for record in records(tmp_path / "talkative")]
    assert found == [(step, prompt) for step in (2, 4, 6) for prompt in PROMPTS]
    assert texts.texts == [(f"textgen/{number}", step) for step in (2, 4, 6) for number in (0, 1)]
    assert len({record["text"] for record in records(tmp_path / "talkative")}) > 1
    assert any(module.training for module in talkative.model.modules())


def test_greedy_text_is_what_the_model_says(tmp_path: Path) -> None:
    tokenizer = Tokenizer.bytes()
    trainer = run(tmp_path, our_model(), TextgenCallback(None, PROMPTS, {"do_sample": False}, 6, 10), learning_rate=0.0)
    for record in records(tmp_path):
        ids = torch.tensor([tokenizer.encode(record["prompt"])])
        expected = generate(trainer.model, ids, max_new_tokens=10, eos_token_id=tokenizer.eos_token_id)[0].tolist()
        assert record["prompt"] + record["text"] == tokenizer.decode(expected, skip_special_tokens=True)


def test_settings_reach_generation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, Any]] = []

    def spy(model: Any, ids: torch.Tensor, **settings: Any) -> torch.Tensor:
        seen.append(settings)
        return ids

    monkeypatch.setattr("ironloom.models.generate.generate", spy)
    config = {"temperature": 0.5, "top_k": 7, "top_p": 0.8, "repetition_penalty": 1.1, "eos_token_id": 5}
    run(tmp_path, our_model(), TextgenCallback(None, "one", config, 6, 11))
    assert [{key: value for key, value in one.items() if key != "seed"} for one in seen[-1:]] == [{**config, "max_new_tokens": 11}]


def test_a_generation_config_of_transformers(tmp_path: Path) -> None:
    config = transformers.GenerationConfig(do_sample=True, top_k=5, repetition_penalty=1.3, max_new_tokens=4)
    seen: list[Any] = []
    model = their_model()
    original = model.generate
    model.generate = lambda *args, **kwargs: seen.append(kwargs["generation_config"]) or original(*args, **kwargs)
    run(tmp_path, model, TextgenCallback(None, ["one"], config, 6))
    assert (seen[-1].do_sample, seen[-1].top_k, seen[-1].repetition_penalty, seen[-1].max_new_tokens) == (True, 5, 1.3, 4)
    config = transformers.GenerationConfig(do_sample=True, no_repeat_ngram_size=2)
    with pytest.raises(ValueError, match=r"generation_config\.no_repeat_ngram_size"):
        run(tmp_path, our_model(), TextgenCallback(None, ["one"], config, 6))


def test_a_prompt_as_long_as_the_model_looks(tmp_path: Path) -> None:
    """Positions end at 32: what does not fit is not asked for."""
    run(tmp_path, their_model(), TextgenCallback(None, ["x" * 32, "x" * 30, "x" * 40], None, 6, 50))
    assert [len(record["text"]) <= 2 for record in records(tmp_path)] == [True, True, True]


def test_a_run_that_goes_on_records_each_text_once(tmp_path: Path) -> None:
    args = {"save_strategy": "steps", "save_steps": 3, "lr_scheduler_type": "constant"}
    run(tmp_path / "parts", our_model(), TextgenCallback(None, PROMPTS, None, 2, 8), **{**args, "max_steps": 4})
    (tmp_path / "parts" / "checkpoints" / "checkpoint-4" / "manifest.json").unlink()
    run(tmp_path / "parts", our_model(), TextgenCallback(None, PROMPTS, None, 2, 8), resume_from_checkpoint=True, **args)
    run(tmp_path / "whole", our_model(), TextgenCallback(None, PROMPTS, None, 2, 8), **args)
    assert records(tmp_path / "parts") == records(tmp_path / "whole")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"prompts": []}, "prompts"),
        ({"prompts": ["a", ""]}, "prompts"),
        ({"prompts": ["a"], "generation_steps": 0}, "generation_steps"),
        ({"prompts": ["a"], "max_new_tokens": 0}, "max_new_tokens"),
        ({"prompts": ["a"], "generation_config": "greedy"}, "generation_config"),
        ({"prompts": ["a"], "max_new_tokens": 5, "generation_config": {"max_new_tokens": 6}}, "give one"),
    ],
)
def test_arguments_that_cannot_be(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        TextgenCallback(**arguments)


def test_what_cannot_generate_is_refused_before_training(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"temperatur.*did you mean 'temperature'"):
        run(tmp_path, our_model(), TextgenCallback(None, ["one"], {"temperatur": 1.0}, 1))
    with pytest.raises(ValueError, match=r"temperatur.*did you mean 'temperature'"):
        run(tmp_path, their_model(), TextgenCallback(None, ["one"], {"temperatur": 1.0}, 1))
    for model in (our_model(), their_model()):
        with pytest.raises(ConfigError, match="top_k"):
            run(tmp_path, model, TextgenCallback(None, ["one"], {"top_k": -3}, 1))
    with pytest.raises(ValueError, match="TinyLM"):
        run(tmp_path, tiny_lm(), TextgenCallback(None, ["one"], None, 1))
    with pytest.raises(ValueError, match="generation_steps or eval_strategy"):
        run(tmp_path, our_model(), TextgenCallback(None, ["one"]))
    with pytest.raises(ValueError, match="processing_class"):
        tiny_trainer(tmp_path, our_model(), options={"callbacks": [TextgenCallback(None, ["one"], None, 1)]}).train()
