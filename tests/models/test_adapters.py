"""Adapters: trained alone, saved alone, taken up again bit for bit, merged, and the same over two processes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from ironloom.cli import main
from ironloom.errors import CheckpointError, ConfigError
from ironloom.models import Decoder, load_pretrained
from ironloom.models.adapters import add_adapters, has_adapters, load_adapter, merge
from ironloom.models.files import load_model
from ironloom.settings.lora import Lora
from ironloom.trainer import AccelTrainer
from models.foreign import VOCABULARY, make
from models.twins import llama_shape, randomize
from spawned import run
from spread import spread_over
from tiny import assert_same_weights, losses, tiny_trainer, weights

peft = pytest.importorskip("peft")
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")  # what PEFT asks for

LORA = {"r": 4, "alpha": 8.0, "dropout": 0.2}


@pytest.fixture
def base(tmp_path: Path, request: pytest.FixtureRequest) -> str:
    """A model: ours, or the one of transformers that the test names."""
    folder, variant = tmp_path / "base", getattr(request, "param", "llama")
    if variant == "ours":
        model = Decoder(llama_shape(), VOCABULARY)
        randomize(model)
        model.save_pretrained(folder)
    else:
        make(variant, folder, with_tokenizer=False)
    return str(folder)


def adapted(base: str, seed: int = 0, **changes: Any) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return load_pretrained(base, lora=LORA | changes)


def trained(folder: Path, base: str, **args: Any) -> Any:
    trainer = tiny_trainer(folder, adapted(base), **args)
    trainer.train()
    return trainer


def ids() -> torch.Tensor:
    return torch.randint(VOCABULARY, (2, 12), generator=torch.Generator().manual_seed(3))


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model.eval()(ids()).logits
        return found


@pytest.mark.parametrize("base", ["ours", "llama", "gpt2"], indirect=True)
def test_only_the_adapters_are_trained_and_saved(base: str, tmp_path: Path) -> None:
    """At first the model computes what it did; what is saved is what PEFT reads, with the same logits."""
    before = weights(load_pretrained(base))
    assert logits(adapted(base)).equal(logits(load_pretrained(base)))
    trainer = trained(tmp_path / "run", base)
    assert has_adapters(trainer.model)
    now = {name.replace(".base_layer", ""): value for name, value in trainer.model.state_dict().items() if "lora_" not in name}
    assert_same_weights(before, now)
    trainer.save_model()
    stored = load_file(tmp_path / "run" / "adapter_model.safetensors")
    assert not (tmp_path / "run" / "model.safetensors").exists()
    assert sum(tensor.numel() for tensor in stored.values()) == sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)
    assert all(name.startswith("base_model.model.") and name.endswith((".lora_A.weight", ".lora_B.weight")) for name in stored)
    assert any(tensor.abs().max() > 0 for name, tensor in stored.items() if "lora_B" in name)
    expected = logits(trainer.model)
    assert not torch.allclose(expected, logits(load_pretrained(base)), atol=1e-3)
    assert logits(load_model(tmp_path / "run")).equal(expected)
    if Path(base, "generation_config.json").exists():
        theirs = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), str(tmp_path / "run"))
        torch.testing.assert_close(logits(theirs), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("base", ["ours", "qwen3"], indirect=True)
def test_a_run_with_adapters_goes_on_bit_for_bit(base: str, tmp_path: Path) -> None:
    """With dropout; a checkpoint holds the adapters alone."""
    whole = trained(tmp_path / "whole", base)
    trained(tmp_path / "parts", base, max_steps=6, exit_steps=4)
    saved = tmp_path / "parts" / "checkpoints" / "checkpoint-4"
    assert {path.name for path in saved.glob("*.safetensors")} == {"adapter_model.safetensors", "optimizer.safetensors"}
    assert not (saved / "config.json").exists()
    again = tiny_trainer(tmp_path / "parts", adapted(base, seed=9))  # what is drawn for new adapters is replaced
    again.train(resume_from_checkpoint=True)
    assert losses(again.state.log_history) == losses(whole.state.log_history)
    assert_same_weights(weights(whole.model), weights(again.model))


def test_merging_and_the_command(base: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The merged model computes what model and adapter did, without PEFT."""
    trainer = trained(tmp_path / "run", base)
    trainer.save_model()
    expected = logits(trainer.model)
    with pytest.raises(SystemExit) as end:
        main(["model", "merge", str(tmp_path / "run"), "-o", str(tmp_path / "merged")])
    assert end.value.code == 0
    assert "merged: the whole model, logits equal" in capsys.readouterr().out
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    torch.testing.assert_close(logits(plain), expected, atol=1e-4, rtol=1e-4)
    assert load_file(tmp_path / "merged" / "model.safetensors").keys() == load_file(Path(base) / "model.safetensors").keys()
    for words, message in (
        (["merge", str(tmp_path / "merged")], "holds a whole model, no adapter"),
        (["export", str(tmp_path / "run"), "-o", str(tmp_path / "x")], "holds an adapter, not a model: `ironloom model merge"),
        (["merge", str(tmp_path / "run"), "-o", str(tmp_path / "y"), "--base", "./moved"], "there is no folder moved"),
    ):
        with pytest.raises(SystemExit) as end:
            main(["model", *words])
        assert end.value.code == 2
        assert message in capsys.readouterr().err
    with pytest.raises(ConfigError, match="no adapters to merge"):
        merge(plain)


@pytest.mark.parametrize("base", ["ours", "gpt2"], indirect=True)
def test_merging_of_ours_and_of_transposed_layers(base: str, tmp_path: Path) -> None:
    model = adapted(base, target_modules="all-linear")
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    expected = logits(model)
    merged = merge(model)
    torch.testing.assert_close(logits(merged), expected, atol=1e-4, rtol=1e-4)
    assert weights(merged).keys() == weights(load_pretrained(base)).keys()
    assert all(parameter.requires_grad for parameter in merged.parameters())


@pytest.mark.parametrize("base", ["ours", "llama"], indirect=True)
@pytest.mark.parametrize("sizes", [{"dp_shard": 2}, {"dp_replicate": 2}, None])
def test_two_processes_train_adapters_as_one_does(base: str, sizes: dict[str, int] | None, tmp_path: Path) -> None:
    """Losses and adapters are equal, and what the two save is what one loads. Without sizes it is Accelerate that spreads."""
    plain = {"per_device_train_batch_size": 4, "save_steps": 3, "adam_epsilon": 1e-4}

    def train(size: int, folder: str) -> Any:
        args = plain | {"per_device_train_batch_size": 4 // size}
        options = {"device_parameters": spread_over(**sizes)} if size > 1 and sizes else {}
        cls = AccelTrainer if size > 1 and sizes is None else None
        trainer = tiny_trainer(tmp_path / folder, adapted(base, dropout=0.0), cls=cls, options=options, **args)
        trainer.train()
        trainer.save_model()
        return losses(trainer.state.log_history)

    alone = train(1, "one")
    for history in run(train, 2, 2, "two"):
        assert [loss for _, loss in history] == pytest.approx([loss for _, loss in alone], rel=1e-5)
    one, two = (load_file(tmp_path / folder / "adapter_model.safetensors") for folder in ("one", "two"))
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, atol=1e-5, rtol=1e-3)
    again = tiny_trainer(tmp_path / "two", adapted(base, dropout=0.0), max_steps=7, **plain)
    again.train(resume_from_checkpoint=True)
    assert again.state.global_step == 7


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"target_modules": ["q_projj"]}, "target_modules: the model has no layer 'q_projj' (its layers: down_proj, gate_proj"),
        ({"target_modules": "model"}, "lora.target_modules: "),
    ],
)
def test_layers_that_are_not_there_are_named(base: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        adapted(base, **settings)
    assert message in str(caught.value)


def test_targets(base: str) -> None:
    def found(**settings: Any) -> set[str]:
        return {
            name.partition(".lora_A")[0].rpartition(".")[2] for name, _ in adapted(base, **settings).named_parameters() if "lora_A" in name
        }

    assert found() == {"q_proj", "v_proj"}
    assert found(target_modules="o_proj") == {"o_proj"}
    assert found(target_modules="all-linear") == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


def test_a_damaged_adapter_is_refused(base: str, tmp_path: Path) -> None:
    trainer = trained(tmp_path / "run", base)
    trainer.save_model()
    path, config = tmp_path / "run" / "adapter_model.safetensors", tmp_path / "run" / "adapter_config.json"
    tensors = load_file(path)
    lost = sorted(tensors)[0]
    save_file({name: value for name, value in tensors.items() if name != lost}, path)
    with pytest.raises(CheckpointError, match=f"missing: {lost}"):
        load_adapter(tmp_path / "run")
    config.write_text(json.dumps(json.loads(config.read_text()) | {"peft_type": "IA3"}))
    with pytest.raises(ConfigError, match="an adapter of type 'IA3'"):
        load_adapter(tmp_path / "run")


def test_without_the_package_the_extra_is_named(base: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "peft", None)
    with pytest.raises(ConfigError, match=r"lora: adapters need the package peft \(pip install 'ironloom\[peft\]'\)"):
        add_adapters(load_pretrained(base), Lora(r=2), base)
