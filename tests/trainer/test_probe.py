"""Before the first step with packed rows the trainer looks whether documents see each other, and refuses a model where they do."""

from __future__ import annotations

import random
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from dreams import configured
from ironloom import DreamTrainer
from ironloom.data.collate import default_collate
from ironloom.errors import ConfigError
from ironloom.trainer import loop
from spawned import run
from spread import MODELS, decoder, of_transformers, spread_over
from tiny import VOCABULARY, assert_same_weights, losses, tiny_trainer, weights

LENGTH = 12


def packed_samples(count: int = 16, seed: int = 0, start: int = 0) -> list[dict[str, torch.Tensor]]:
    """Rows of two or three documents; those before ``start`` have one."""
    draw = np.random.default_rng(seed)
    samples = []
    for index in range(count):
        ends = sorted({int(end) for end in draw.integers(2, LENGTH - 1, 2)}) if index >= start else []
        ids = torch.from_numpy(draw.integers(0, VOCABULARY, LENGTH))
        where = torch.cat([torch.arange(end - begin) for begin, end in zip([0, *ends], [*ends, LENGTH], strict=True)])
        samples.append({"input_ids": ids, "labels": ids.masked_fill(where == 0, -100), "position_ids": where})
    return samples


class Deaf(nn.Module):
    """Takes positions and does not look for documents in them."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor, position_ids: torch.Tensor | None = None, attention_mask: torch.Tensor | None = None) -> Any:
        return self.model(input_ids=input_ids, position_ids=position_ids, attention_mask=torch.ones_like(input_ids))


class Whispering(nn.Module):
    """Documents are apart in the logits as far as their rounding shows, but not in the gradient."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor, position_ids: torch.Tensor) -> Any:
        output = self.model(input_ids, position_ids=position_ids)
        output.logits = output.logits + 1e-9 * output.logits.mean(dim=1, keepdim=True)
        return output


def rope() -> nn.Module:
    return decoder(positional_embedding={"type": "rope"})


STOCK = [name for name in MODELS if name not in ("tiny", "llama, partly frozen")]


@pytest.mark.parametrize("name", STOCK)
def test_stock_models_train_on_packed_rows(name, tmp_path):
    trainer = tiny_trainer(tmp_path, MODELS[name](), packed_samples(), max_steps=2, save_strategy="no")
    trainer.train()
    assert trainer._engine.is_probed


@pytest.mark.parametrize("name", ["decoder, gated, untied", "llama, tied", "mistral"])
def test_half_precision_and_plain_products_keep_documents_apart(name, tmp_path):
    options = {"bf16": True, "attention_kernel": "math", "max_steps": 2, "save_strategy": "no"}
    tiny_trainer(tmp_path, MODELS[name](), packed_samples(), **options).train()
    with pytest.raises(ConfigError, match="in bfloat16"):
        tiny_trainer(tmp_path, Deaf(MODELS[name]()), packed_samples(), **options).train()


def mixture() -> nn.Module:
    """Experts are given the tokens of all documents together, in numbers that change with any of them."""
    return of_transformers("Mixtral", num_local_experts=4, num_experts_per_tok=2)


def adapted() -> nn.Module:
    peft = pytest.importorskip("peft")
    adapted: nn.Module = peft.get_peft_model(of_transformers("Llama"), peft.LoraConfig(target_modules=["q_proj", "v_proj"]))
    return adapted


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
@pytest.mark.parametrize("make", [mixture, adapted])
@pytest.mark.parametrize("bf16", [False, True])
def test_experts_and_adapters_train_on_packed_rows(make, bf16, tmp_path):
    tiny_trainer(tmp_path, make(), packed_samples(), max_steps=2, save_strategy="no", bf16=bf16).train()


@pytest.mark.parametrize("wrapper", [Deaf, Whispering])
def test_a_model_that_mixes_documents_is_refused(wrapper, tmp_path):
    model = wrapper(rope())
    before = weights(model)
    with pytest.raises(ConfigError, match=f"see each other in {wrapper.__name__} with its own attention in float32: .* up to "):
        tiny_trainer(tmp_path, model, packed_samples(), save_strategy="no").train()
    assert_same_weights(before, weights(model))
    assert all(parameter.grad is None for parameter in model.parameters())
    assert model.training


def test_a_recurrent_model_cannot_be_told_and_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="the forward of TinyLM does not take them"):
        tiny_trainer(tmp_path, train=packed_samples()).train()
    with pytest.raises(ConfigError, match="the forward of TinyLM does not take them"):
        tiny_trainer(tmp_path).evaluate(packed_samples())


def test_positions_that_only_count_are_left_out_for_a_model_that_takes_none(tmp_path):
    tiny_trainer(tmp_path, train=packed_samples(start=16), save_strategy="no", max_steps=1).train()


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")
@pytest.mark.parametrize("name", ["decoder, gated, untied", "llama"])
def test_a_compiled_model_is_probed_as_it_is(name, tmp_path):
    torch._dynamo.reset()
    options = {"torch_compile": True, "torch_compile_backend": "eager", "max_steps": 2, "save_strategy": "no"}
    tiny_trainer(tmp_path, MODELS[name](), packed_samples(), **options).train()
    with pytest.raises(ConfigError, match="its own attention in float32, compiled"):
        tiny_trainer(tmp_path, Deaf(MODELS[name]()), packed_samples(), **options).train()
    torch._dynamo.reset()


def test_the_probe_comes_with_the_first_packed_row_whenever_that_is(tmp_path):
    samples = packed_samples(16, start=8)
    trainer = tiny_trainer(tmp_path, Deaf(rope()), iter_of(samples), save_strategy="no", max_steps=8)
    with pytest.raises(ConfigError, match="see each other"):
        trainer.train()
    assert trainer.state.global_step == 4


def iter_of(samples: list[Any]) -> Any:
    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self) -> Any:
            return iter(samples)

    return Stream()


def test_rows_of_one_document_are_not_probed(tmp_path):
    trainer = tiny_trainer(tmp_path, Deaf(rope()), packed_samples(start=16), save_strategy="no", max_steps=2)
    trainer.train()
    assert not trainer._engine.is_probed


def test_positions_with_a_mask_say_that_documents_may_see_each_other(tmp_path):
    samples = [{**sample, "attention_mask": torch.ones(LENGTH, dtype=torch.long)} for sample in packed_samples()]
    tiny_trainer(tmp_path, Deaf(rope()), samples, save_strategy="no", max_steps=2).train()


def as_masks(features: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Documents apart, positions of the row."""
    batch = default_collate(features)
    numbers = (batch.pop("position_ids") == 0).cumsum(dim=-1)
    batch["attention_mask"] = (numbers[:, None, :, None] == numbers[:, None, None, :]).tril()
    return batch


def test_masks_of_four_dimensions_are_probed_too(tmp_path):
    tiny_trainer(tmp_path, rope(), packed_samples(), options={"data_collator": as_masks}, save_strategy="no", max_steps=2).train()
    with pytest.raises(ConfigError, match="see each other in Deaf"):
        tiny_trainer(tmp_path, Deaf(rope()), packed_samples(), options={"data_collator": as_masks}, save_strategy="no").train()


def test_a_sliding_window_is_not_given_up_for_a_mask(tmp_path):
    model = of_transformers("Mistral", sliding_window=4)
    with pytest.raises(ConfigError, match="MistralForCausalLM has a sliding window of 4 tokens"):
        tiny_trainer(tmp_path, model, packed_samples(), options={"data_collator": as_masks}, save_strategy="no").train()


def test_the_probe_changes_nothing(tmp_path, monkeypatch):
    def history(name: str) -> tuple[list[tuple[float, float]], dict[str, torch.Tensor]]:
        model = decoder(dropout_attn=0.2, dropout_embd=0.1, positional_embedding={"type": "rope"})
        trainer = tiny_trainer(tmp_path / name, model, packed_samples(), save_strategy="no")
        trainer.train()
        return losses(trainer.state.log_history), weights(model)

    drawn: list[Any] = []
    real = loop.probe

    def watched(*arguments: Any) -> None:
        random.seed(1), np.random.seed(1), torch.manual_seed(1)
        real(*arguments)
        drawn.append((random.random(), float(np.random.rand()), float(torch.rand(()))))

    monkeypatch.setattr(loop, "probe", watched)
    probed = history("probed")
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    assert drawn == [(random.random(), float(np.random.rand()), float(torch.rand(())))]

    def silent(engine: Any, *arguments: Any) -> None:
        engine.is_probed = True

    monkeypatch.setattr(loop, "probe", silent)
    unprobed = history("unprobed")
    assert probed[0] == unprobed[0]
    assert_same_weights(probed[1], unprobed[1])


class Own(DreamTrainer):
    """Steps of its own."""

    def configure_models(self) -> None:
        self.net = rope()

    def configure_dataloaders(self) -> Any:
        return packed_samples(), None

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        logits = self.net(batch["input_ids"], position_ids=batch["position_ids"]).logits
        return nn.functional.cross_entropy(logits.flatten(0, 1), batch["labels"].flatten())


def test_steps_of_ones_own_are_not_looked_at_which_is_said_once(tmp_path, caplog):
    Own(configured(tmp_path, n_epochs=1)).fit()
    assert caplog.text.count("whether documents see each other was not looked at") == 1


def refused(make: Any, parameters: Any, samples: Any, cls: Any = None, **args: Any) -> str:
    with tempfile.TemporaryDirectory() as folder:
        options = {} if cls is not None else {"device_parameters": parameters}
        trainer = tiny_trainer(Path(folder), make(), samples, cls=cls, options=options, save_strategy="no", **args)
        try:
            trainer.train()
        except ConfigError as error:
            return f"{trainer.state.global_step}: {error}"
        return f"trained {trainer.state.global_step}"


@pytest.mark.parametrize("sizes", [{"dp_replicate": 2}, {"dp_shard": 2}])
def test_processes_agree_although_one_alone_has_packed_rows(sizes):
    """Rows in order: in each step the first process has rows of one document; they refuse, or go on, together."""
    samples = [sample for pair in zip(packed_samples(16, start=16), packed_samples(16, seed=1), strict=True) for sample in pair]

    def one() -> tuple[str, str]:
        options = {"per_device_train_batch_size": 1, "max_steps": 3}
        return tuple(refused(make, spread_over(**sizes), iter_of(samples), **options) for make in (lambda: Deaf(rope()), rope))

    for deaf, sound in run(one, 2):
        assert deaf.startswith("0: ")
        assert "see each other" in deaf or "another process" in deaf
        assert sound == "trained 3"


@pytest.mark.parametrize(
    "sizes",
    [{"tensor_parallel_size": 2}, {"context_parallel_size": 2}, {"pipeline_parallel_size": 2}],
    ids=["tensor", "context", "pipeline"],
)
def test_processes_that_share_a_model_probe_it_together(sizes):
    """The built-in decoder passes; where it is deaf to positions, all are refused at step 0."""

    def deaf() -> nn.Module:
        model = rope()
        model.model.separate = lambda *arguments, **options: None
        return model

    def one() -> tuple[str, str]:
        makes = (rope,) if "context_parallel_size" in sizes else (rope, deaf)
        return tuple(refused(make, spread_over(**sizes), packed_samples(), max_steps=2) for make in makes)

    for sound, *others in run(one, 2):
        assert sound == "trained 2"
        assert all(other.startswith("0: documents that share a row see each other in Decoder") for other in others)
