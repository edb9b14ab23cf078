"""A model in stages that also share weights, layers and sequences, and read different samples, trains as in one process."""

from __future__ import annotations

import functools
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed.pipelining  # seconds of imports, once before the tests fork

from ironloom import Trainer, TrainerCallback
from ironloom.errors import ConfigError
from ironloom.settings.pipeline import pipeline_arguments
from ironloom.settings.training import TrainingArguments
from parallel.equality import check
from parallel.modes import FACTORS, STAGES
from parallel.pipelines import with_pipeline
from spawned import run
from spread import MODELS, Result, largest_error, spread_over, together, train
from tiny import tiny_trainer, uneven_samples

NEAR = 1e-5

#: Processes, sizes beside a pipeline of two, processes that read different samples.
PRODUCTS: dict[str, tuple[int, dict[str, Any], int]] = {
    "alone": (2, {}, 1),
    **{name: (nproc, sizes, sizes.get("dp_replicate", 1) * sizes.get("dp_shard", 1)) for name, (nproc, sizes) in FACTORS.items()},
}


@pytest.mark.parametrize("name", [name for name, mode in STAGES.items() if mode.quick])
def test_a_mode(name: str, record_property: pytest.RecordProperty) -> None:
    check(name, STAGES[name].quick, record_property)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # that the compiler looks at
@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, mode in STAGES.items() if mode.slow])
def test_a_mode_on_every_other_model(name: str, record_property: pytest.RecordProperty) -> None:
    check(name, STAGES[name].slow, record_property)


@functools.cache
def one_process(model: str, **args: Any) -> Result:
    return train(MODELS[model], None, 1, **args)


def whole_model(results: list[Result]) -> list[Result]:
    """Each process's result with the weights of all stages; what several processes have is the same bits."""
    weights: dict[str, torch.Tensor] = {}
    for result in results:
        for name, weight in result.weights.items():
            assert torch.equal(weights.setdefault(name, weight), weight), name
    for result in results:
        result.weights = weights
    return results


def _adapter() -> Any:
    """A model of which little is trained, and nothing outside of the blocks."""
    model = MODELS["llama"]()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("q_proj" in name or "input_layernorm" in name)
    return model


@pytest.mark.parametrize("product", ["sharded", pytest.param("tensor parallel", marks=pytest.mark.slow)])
def test_partly_frozen_models(product: str) -> None:
    nproc, sizes, data_size = PRODUCTS[product]
    alone = train(_adapter, None, 1)
    for result in whole_model(together(_adapter, nproc, spread_over(pipeline_parallel_size=2, **sizes), data_size)):
        assert largest_error(alone, result) < NEAR


SAVING: dict[str, Any] = {"save_strategy": "steps", "save_steps": 10}


@pytest.mark.parametrize("product", ["sharded", *(pytest.param(name, marks=pytest.mark.slow) for name in PRODUCTS if name != "sharded")])
def test_a_checkpoint_goes_on_under_one_process_and_back(product: str, tmp_path: Path) -> None:
    nproc, sizes, data_size = PRODUCTS[product]
    parameters = spread_over(pipeline_parallel_size=2, **sizes)
    make = MODELS["decoder"]
    saved = whole_model(together(make, nproc, parameters, data_size, timeout=120, output_dir=tmp_path / "product", **SAVING))
    half = tmp_path / "product/checkpoints/checkpoint-10"
    assert largest_error(one_process("decoder"), train(make, None, 1, resume_from_checkpoint=half)) < NEAR
    train(make, None, 1, output_dir=tmp_path / "one", **SAVING)
    for source in (half, tmp_path / "one/checkpoints/checkpoint-10"):
        for result in whole_model(together(make, nproc, parameters, data_size, timeout=120, resume_from_checkpoint=source)):
            assert largest_error(one_process("decoder"), result) < NEAR
            if source == half:  # the same topology: the same bits
                assert all(torch.equal(saved[0].weights[name], weight) for name, weight in result.weights.items())
                assert result.losses == saved[0].losses


def _in_stages(folder: Path, sizes: dict[str, Any], **args: Any) -> Any:
    """A trainer of two stages whose model is spread already, so that hooks can be put on the blocks of this process."""
    parameters = spread_over(pipeline_parallel_size=2, **sizes)
    trainer = tiny_trainer(folder, MODELS["decoder"](), save_strategy="no", options={"device_parameters": parameters}, **args)
    trainer._prepared_engine(trainer._loader(trainer.train_dataset, training=True))
    return trainer


def _calls_of_blocks(folder: Path) -> int:
    """How often the blocks of this process's stage compute in a step."""
    trainer = _in_stages(folder, {"checkpoint_activations": True}, max_steps=1, per_device_train_batch_size=1)
    calls = []
    for block in trainer.model.model.layers:
        block.mlp.register_forward_pre_hook(lambda *args: calls.append(1))
    trainer.train()
    return len(calls)


def test_activations_are_computed_again_in_the_backward_pass(tmp_path: Path) -> None:
    assert run(_calls_of_blocks, 2, tmp_path) == [2, 2], "one chunk, one block in each stage, forward and again"


def _seeds(folder: Path, sizes: dict[str, Any]) -> tuple[int, int, int, list[int]]:
    """The place of this process, and what the generator stood at whenever one of its blocks began."""
    trainer = _in_stages(folder, sizes, max_steps=2, per_device_train_batch_size=2, gradient_accumulation_steps=2)
    seen: list[int] = []
    for block in trainer.model.model.layers:
        block.register_forward_pre_hook(lambda *args: seen.append(torch.initial_seed()))
    trainer.train()
    place = trainer.team.place
    return place.pp_rank, place.data_rank, place.cp_rank, list(dict.fromkeys(seen))


@pytest.mark.parametrize("axis", ["dp_replicate", "dp_shard", "tensor_parallel_size", "context_parallel_size"])
def test_random_numbers_differ_over_samples_and_pieces_and_agree_over_split_layers(axis: str, tmp_path: Path) -> None:
    found = run(_seeds, 4, tmp_path, {axis: 2})
    streams = {(stage, data, piece): seeds for stage, data, piece, seeds in found}
    assert all(streams[stage, data, piece] == seeds and len(seeds) == 4 for stage, data, piece, seeds in found)
    assert len(streams) == (2 if axis == "tensor_parallel_size" else 4)
    assert len({seed for seeds in streams.values() for seed in seeds}) == 4 * len(streams), "no two micro-batches draw alike"


class _Counted(TrainerCallback):
    """Counts events."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def on_substep_end(self, *args: Any, **kwargs: Any) -> None:
        self.counts["substep"] += 1

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self.counts["step"] += 1

    def on_prediction_step(self, *args: Any, **kwargs: Any) -> None:
        self.counts["prediction"] += 1


def _squares(outputs: Any, labels: torch.Tensor, num_items_in_batch: Any = None) -> torch.Tensor:
    """A user's loss that is no cross entropy."""
    return outputs["logits"][:, :-1][labels[:, 1:] != -100].square().mean(-1).sum() / num_items_in_batch


def _with_user_parts(folder: Path, sizes: dict[str, Any] | None) -> Any:
    counted = _Counted()
    metrics = {"compute_metrics": lambda result: {"mean": float(np.abs(result.predictions[result.predictions != -100]).mean())}}
    trainer = tiny_trainer(
        folder,
        MODELS["llama"](),
        max_steps=4,
        save_strategy="no",
        gradient_accumulation_steps=2,
        eval_strategy="steps",
        eval_steps=2,
        options={
            "device_parameters": sizes and spread_over(**sizes),
            "compute_loss_func": _squares,
            "callbacks": [counted],
            **metrics,
        },
    )
    trainer.train()
    predicted = trainer.predict([{"input_ids": sample["input_ids"]} for sample in uneven_samples(3, seed=2)])
    history = [value for record in trainer.state.log_history for key, value in record.items() if key in ("loss", "eval_loss", "eval_mean")]
    return history, dict(counted.counts), predicted.predictions


def test_loss_metrics_callbacks_and_prediction_of_a_plain_trainer(tmp_path: Path) -> None:
    history, counts, predictions = _with_user_parts(tmp_path / "one", None)
    for found, events, logits in run(_with_user_parts, 2, tmp_path / "two", {"pipeline_parallel_size": 2}):
        assert found == pytest.approx(history, rel=1e-5) and events == counts
        np.testing.assert_allclose(logits, predictions, rtol=1e-4, atol=1e-5)


def test_chunks_and_schedule_that_nobody_named() -> None:
    def chosen(ranks: int, batch: int) -> tuple[int, str]:
        args = pipeline_arguments(TrainingArguments(per_device_train_batch_size=batch), ranks)
        return args.pipeline_chunks, args.schedule_class

    assert [chosen(2, batch) for batch in (1, 4, 8, 11, 16, 64)] == [
        (1, "ScheduleGPipe"),
        (4, "Schedule1F1B"),
        (8, "Schedule1F1B"),
        (6, "Schedule1F1B"),  # five pairs and one sample: a row is wasted, not a process
        (8, "Schedule1F1B"),
        (8, "Schedule1F1B"),
    ]
    assert chosen(8, 4) == (4, "ScheduleGPipe")


class _OwnLoss(Trainer):
    """Computes its loss with the whole model."""

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None) -> Any:
        loss = model(input_ids=inputs["input_ids"])["logits"].square().mean()
        return (loss, {}) if return_outputs else loss


def _refusal(folder: Path, sizes: dict[str, Any], options: dict[str, Any], cls: Any, args: dict[str, Any]) -> str:
    parameters = spread_over(**{"pipeline_parallel_size": 2, **sizes})
    make = MODELS["gpt2"]()
    try:
        tiny_trainer(folder, make, cls=cls, options={"device_parameters": parameters, **options}, **args).train()
    except ConfigError as error:
        return str(error)
    return "nothing was refused"


@pytest.mark.parametrize(
    ("nproc", "sizes", "options", "cls", "args", "message"),
    [
        (2, {"force_fsdp": True}, {}, None, {}, "a pipeline does not go together with force_fsdp"),
        (2, {}, {}, None, {"fp16": True}, "use bf16"),
        (2, {}, {}, _OwnLoss, {}, "computes the loss from the logits of its last stage"),
        (2, {}, {"optimizers": (torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.1), None)}, None, {}, "optimizer_factory"),
        (4, {"context_parallel_size": 2}, {"compute_loss_func": _squares}, None, {}, "context parallelism cuts sequences"),
        (4, {"tensor_parallel_size": 2}, {}, with_pipeline, {"split_spec": {"transformer.h.0.attn": "end"}}, "between whole blocks"),
        (4, {"tensor_parallel_size": 2, "compile_model": True, "checkpoint_activations": True}, {}, None, {}, "leave out compile_model"),
        (4, {"pipeline_parallel_size": 4}, {}, None, {}, "4 stages are more than the 2 layers"),
    ],
)
def test_what_does_not_go_with_stages_is_refused_in_every_process(
    nproc: int, sizes: dict[str, Any], options: dict[str, Any], cls: Any, args: dict[str, Any], message: str, tmp_path: Path
) -> None:
    for told in run(_refusal, nproc, tmp_path, sizes, options, cls, args):
        assert message in told
