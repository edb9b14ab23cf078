"""A decoder that starts in parts: the values of one process, and never more memory than a process's own part and a whole weight."""

from __future__ import annotations

import functools
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

from meter import Meter

from ironloom import Trainer
from ironloom.errors import ConfigError
from ironloom.models import Decoder, build_decoder
from ironloom.models.deferred import is_waiting
from ironloom.parallel.pipeline.outline import plan_anywhere
from ironloom.settings.dream.device import DeviceParameters
from ironloom.settings.model import ModelConfig
from ironloom.settings.pipeline import PipelineTrainingArguments
from ironloom.weights.sharded import local_part
from spawned import run
from spread import spread_over, whole
from tiny import VOCABULARY, uneven_samples

GATED = {"activation_type": "swiglu", "ln_type": "rmsnorm", "positional_embedding": {"type": "rope"}, "no_bias": True, "untie_embed": True}
KINDS: dict[str, dict[str, Any]] = {"plain, tied": {}, "gated, untied": GATED}


def maker(kind: str, **sizes: int) -> functools.partial[Decoder]:
    """What a configuration names: a partial of ``build_decoder``."""
    shape = {"d_model": 16, "num_layers": 4, "num_attention_heads": 4, "num_attention_groups": 2, "head_dim": 4, "d_ffn": 32}
    plain = {"dropout_embd": 0.0, "dropout_attn": 0.0, "dropout_mlp": 0.0, "max_seq_len": 16}
    config = ModelConfig.from_mapping({**shape, **sizes, **plain, **KINDS[kind]})
    return functools.partial(build_decoder, config, VOCABULARY, vocab_padding_unit=8, init_std=0.1)


def trainer_of(make: Any, parameters: DeviceParameters | None, folder: str, **args: Any) -> Trainer:
    values = {"output_dir": folder, "use_cpu": True, "disable_tqdm": True, "save_strategy": "no", "max_steps": 2, **args}
    data = uneven_samples(8)
    arguments = PipelineTrainingArguments(**values, per_device_train_batch_size=2)
    return Trainer(model_init=make, args=arguments, train_dataset=data, eval_dataset=data, device_parameters=parameters)


def prepared(make: Any, parameters: DeviceParameters | None) -> Trainer:
    """A trainer whose model is spread, before its first step."""
    with tempfile.TemporaryDirectory() as folder:
        trainer = trainer_of(make, parameters, folder)
        trainer._prepared_engine(trainer._loader(trainer.train_dataset, training=True))
        return trainer


def first_weights(make: Any, parameters: DeviceParameters) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """The whole weights and the buffers that a process starts with, and has a part of."""
    model = prepared(make, parameters).model
    return {name: whole(parameter) for name, parameter in model.named_parameters()}, {
        name: each.clone() for name, each in model.named_buffers()
    }


SPREAD = {
    "copies": (2, {"dp_replicate": 2}),
    "shards": (2, {"dp_shard": 2}),
    "layers": (2, {"tensor_parallel_size": 2}),
    "sequences": (2, {"dp_shard": 1, "dp_replicate": 1, "context_parallel_size": 2}),
    "stages": (2, {"pipeline_parallel_size": 2}),
    "host": (2, {"dp_shard": 2, "offload_parameters": True}),
    "shards of layers": (4, {"dp_shard": 2, "tensor_parallel_size": 2}),
    "shards of stages": (4, {"dp_shard": 2, "pipeline_parallel_size": 2}),
    "layers of stages": (4, {"tensor_parallel_size": 2, "pipeline_parallel_size": 2}),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", SPREAD)
def test_the_weights_of_all_processes_are_bit_for_bit_those_of_one(name, kind):
    nproc, sizes = SPREAD[name]
    make = maker(kind)
    expected = make()
    values, buffers = dict(expected.named_parameters()), dict(expected.named_buffers())
    results = run(lambda: first_weights(make, spread_over(**sizes)), nproc)
    assert {each for held, _ in results for each in held} == values.keys()
    for held, tables in results:
        assert ("stages" in name) == (held.keys() != values.keys())
        assert all(torch.equal(held[each], values[each]) for each in held)
        assert tables.keys() == buffers.keys()
        assert all(torch.equal(tables[each], buffers[each]) for each in tables)


class Held(Meter):
    """Counts what is alive in memory; tensors on the meta device have none."""

    def see(self, tensor: torch.Tensor) -> None:
        if not tensor.is_meta:
            super().see(tensor)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            return func(*args, **(kwargs or {}))  # tensors have a content here
        return super().__torch_dispatch__(func, types, args, kwargs)


def peak_of_start(make: Any, parameters: DeviceParameters) -> tuple[int, int]:
    """Most bytes that were alive at once until the model was spread, and bytes of this process's part of the weights."""
    meter = Held(lambda ranks: "all")
    with meter.counting():
        trainer = prepared(make, parameters)
    return meter.peak, sum(local_part(parameter).nbytes for parameter in trainer.model.parameters())


#: Batches, buffers and what is sent to agree.
SMALL = 64 * 1024


@pytest.mark.parametrize("name", ["shards", "stages", "layers", "host", "shards of layers", "shards of stages", "layers of stages"])
def test_no_process_ever_holds_more_than_its_part_and_one_whole_weight(name):
    nproc, sizes = SPREAD[name]
    make = maker("gated, untied", d_model=256, d_ffn=512, num_layers=6)
    weights = [parameter.nbytes for parameter in make().parameters()]
    for peak, part in run(lambda: peak_of_start(make, spread_over(**sizes)), nproc):
        assert part < 1.02 * sum(weights) / nproc
        assert peak < part + max(weights) + SMALL


def test_a_model_that_was_given_with_weights_is_held_whole_while_it_is_spread():
    make = maker("gated, untied", d_model=256, d_ffn=512, num_layers=6)
    size = sum(parameter.nbytes for parameter in make().parameters())
    assert all(peak >= size for peak, _ in run(lambda: peak_of_start(lambda: make(), spread_over(dp_shard=2)), 2))


def untouched(folder: str) -> str:
    trainer = trainer_of(maker("plain, tied"), spread_over(dp_shard=2), folder)
    assert is_waiting(trainer.model)
    with torch.no_grad():
        trainer.model.get_parameter("model.embed_tokens.weight").mul_(2)
    with pytest.raises(ConfigError) as error:
        trainer.train()
    return str(error.value)


def test_writing_into_weights_that_have_no_memory_is_refused(tmp_path):
    for message in run(lambda: untouched(str(tmp_path)), 2):
        assert "model.embed_tokens.weight was written to" in message
        assert "model=build_decoder" in message


def saved_before_training(folder: str) -> None:
    trainer = trainer_of(maker("plain, tied"), spread_over(dp_shard=2), folder)
    trainer.save_model()
    trainer.train()
    trainer.save_model(f"{folder}/trained")


def test_a_model_that_is_saved_before_training_has_its_weights(tmp_path):
    run(lambda: saved_before_training(str(tmp_path)), 2)
    expected, saved, trained = maker("plain, tied")(), Decoder.from_pretrained(tmp_path), Decoder.from_pretrained(tmp_path / "trained")
    for name, parameter in expected.named_parameters():
        assert torch.equal(saved.get_parameter(name), parameter)
    assert not torch.equal(trained.output_weight, expected.output_weight)


def test_a_model_on_the_meta_device_gets_its_weights_in_one_process_too(tmp_path):
    make = maker("gated, untied")
    trainer = trainer_of(functools.partial(make, on_meta=True), None, str(tmp_path))
    assert is_waiting(trainer.model)
    plain = trainer_of(make, None, str(tmp_path))
    assert not is_waiting(plain.model)
    assert trainer.train().training_loss == plain.train().training_loss


class Wrapped(torch.nn.Module):
    """A model of the user's own around a decoder."""

    def __init__(self, decoder: Decoder):
        super().__init__()
        self.decoder = decoder

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> Any:
        return self.decoder(input_ids, attention_mask)


def test_a_decoder_within_another_model_gets_its_weights_before_that_is_spread():
    make = maker("plain, tied")
    expected = Wrapped(make()).state_dict()
    for held, _ in run(lambda: first_weights(lambda: Wrapped(make(on_meta=True)), spread_over(dp_shard=2)), 2):
        assert all(torch.equal(held[name], expected[name]) for name in held)


CUTS: list[dict[str, str] | None] = [
    None,
    {"model.layers.2": "end"},
    {"model.layers.0.mlp": "beginning"},
    {"model.layers.0.mlp.down_proj": "beginning"},
    {"model.norm": "beginning"},
    {"model.layers.2.mlp": "end"},
    {"model.layers.9": "end"},
]


MASKED = {"attention_mask": torch.ones(2, 6, dtype=torch.int64)}
PACKED = {"position_ids": torch.tensor([[0, 1, 0, 1, 2, 3], [0, 1, 2, 3, 0, 1]])}


def cut(model: Decoder, split_spec: dict[str, str] | None, also: dict[str, torch.Tensor] = MASKED) -> Any:
    batch = {"input_ids": torch.arange(12).view(2, 6), **also}
    try:
        return plan_anywhere(model, batch, 2, torch.device("cpu"), split_spec)
    except ConfigError as error:
        return str(error)


@pytest.mark.parametrize("kind", KINDS)
def test_a_decoder_without_weights_is_cut_and_refused_as_one_with_weights(kind):
    make = maker(kind)
    found = [cut(make(on_meta=True), split_spec) for split_spec in CUTS]
    assert found == [cut(make(), split_spec) for split_spec in CUTS]
    assert [isinstance(each, str) for each in found] == [False] * 5 + [True] * 2
    assert cut(make(on_meta=True), None, PACKED) == cut(make(), None, PACKED) == found[0]
