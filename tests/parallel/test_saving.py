"""What several processes save is one checkpoint and one model, and any number of processes goes on from it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.pipelining  # seconds of imports, once before the processes are forked
import transformers
from safetensors import safe_open

from ironloom.checkpoint import shared_folder
from ironloom.checkpoint.folder import CheckpointFolder
from ironloom.parallel import DistributedEnvironment
from ironloom.trainer.pipeline_trainer import PipelineTrainer
from ironloom.weights import load_weights
from spawned import run
from spread import MODELS, decoder, spread_over, whole
from tiny import losses, tiny_trainer, uneven_samples

MODES: dict[str, tuple[int, dict[str, Any] | None, int]] = {
    "one": (1, None, 1),
    "dp": (2, {"dp_replicate": 2}, 2),
    "dp4": (4, {"dp_replicate": 4}, 4),
    "fsdp": (2, {"dp_shard": 2}, 2),
    "fsdp4": (4, {"dp_shard": 4}, 4),
    "hsdp": (4, {"dp_replicate": 2, "dp_shard": 2}, 4),
    "tp": (2, {"tensor_parallel_size": 2}, 1),
    "cp": (2, {"context_parallel_size": 2}, 1),
    "fsdp x tp": (4, {"dp_shard": 2, "tensor_parallel_size": 2}, 2),
    "pp": (2, {"pipeline_parallel_size": 2}, 1),
    "pp x dp": (4, {"pipeline_parallel_size": 2, "dp_replicate": 2}, 2),
}
LAST, MIDDLE = 8, 4


class Run:
    """What a run came to, gathered from all of its processes.

    Attributes:
        losses: Of every step.
        seen: Tokens and targets.
        weights: In full.
        moments: Of the optimizer, in full; both by the names of the parameters.
    """

    def __init__(self, parts: list[Any]):
        self.losses, self.seen = parts[0][:2]
        assert all(part[:2] == parts[0][:2] for part in parts), "every process tells the same"
        self.weights = {name: value for part in parts for name, value in part[2].items()}
        self.moments = {name: value for part in parts for name, value in part[3].items()}
        for _, _, weights, moments in parts:
            assert all(torch.equal(self.weights[name], value) for name, value in weights.items()), "copies are equal"
            assert all(torch.equal(self.moments[name], value) for name, value in moments.items())


def trained(
    folder: Path,
    mode: str,
    steps: int,
    resume: bool = False,
    publish: Path | None = None,
    make: Callable[[], Any] = decoder,
    **args: Any,
) -> Run:
    nproc, sizes, data_size = MODES[mode]

    def work() -> Any:
        options: dict[str, Any] = {"device_parameters": spread_over(**sizes) if sizes else None}
        of_stages: dict[str, Any] = {}
        if mode.startswith("pp"):
            options["distributed_env"] = DistributedEnvironment(use_cpu=True)
            of_stages = {"cls": PipelineTrainer, "schedule_class": "Schedule1F1B", "pipeline_chunks": 2}
        values = {
            "per_device_train_batch_size": 4 // data_size,
            "max_steps": LAST,
            "exit_steps": steps,
            "lr_scheduler_type": "constant",
            "resume_from_checkpoint": resume,
            "save_steps": 100,
            # Where a gradient is zero but for rounding (the bias of keys), Adam would make steps of it.
            "adam_epsilon": 1e-4,
            **args,
        }
        trainer = tiny_trainer(folder, make(), uneven_samples(40), options=options, **of_stages, **values)
        trainer.train()
        if publish is not None:
            trainer.save_model(publish)
        state = trainer.optimizer.state
        named = dict(trainer.model.named_parameters())
        moments = {
            f"{name} {key}": whole(state[parameter][key])
            for name, parameter in named.items()
            if parameter.requires_grad
            for key in ("exp_avg", "exp_avg_sq")
        }
        seen = (trainer.state.num_input_tokens_seen, trainer.state.num_target_tokens_seen)
        return losses(trainer.state.log_history), seen, {name: whole(value) for name, value in named.items()}, moments

    return Run([work()] if nproc == 1 else run(work, nproc))


def assert_goes_on(resumed: Run, undisturbed: Run) -> None:
    """The same samples, losses, weights and moments, but for rounding."""
    assert resumed.seen == undisturbed.seen
    assert [step for step, _ in resumed.losses] == list(range(1, LAST + 1))
    assert [loss for _, loss in resumed.losses] == pytest.approx([loss for _, loss in undisturbed.losses], rel=1e-5)
    for one, other in ((resumed.weights, undisturbed.weights), (resumed.moments, undisturbed.moments)):
        assert one.keys() == other.keys()
        for name in other:
            assert torch.allclose(one[name], other[name], rtol=1e-4, atol=1e-6), name


@pytest.fixture(scope="module")
def one_process(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return trained(tmp_path_factory.mktemp("one"), "one", LAST)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a run under a mode that stopped halfway; each is made once."""
    root = tmp_path_factory.mktemp("saved")

    def folder(mode: str) -> Path:
        if not (root / mode).exists():
            trained(root / mode, mode, MIDDLE)
        return root / mode

    return folder


PAIRS = [("one", "fsdp"), ("fsdp", "one"), ("dp", "tp"), ("tp", "pp")]
SLOW_PAIRS = [
    *[("dp", "one"), ("one", "dp"), ("fsdp", "tp"), ("pp", "one"), ("dp4", "dp"), ("fsdp x tp", "cp"), ("hsdp", "dp"), ("cp", "tp")],
    *[("pp x dp", "fsdp4"), ("tp", "fsdp x tp"), ("one", "tp"), ("tp", "one"), ("one", "pp"), ("fsdp4", "hsdp"), ("cp", "pp x dp")],
]


@pytest.mark.parametrize(("before", "after"), [*PAIRS, *(pytest.param(*pair, marks=pytest.mark.slow) for pair in SLOW_PAIRS)])
def test_another_topology_goes_on_with_the_same_numbers(
    before: str, after: str, one_process: Run, saved: Callable[[str], Path], tmp_path: Path
) -> None:
    shutil.copytree(saved(before), tmp_path / "run")
    assert_goes_on(trained(tmp_path / "run", after, LAST, resume=True), one_process)


QUICK_MODES = ["fsdp", "pp"]


@pytest.mark.parametrize(
    "mode", [*QUICK_MODES, *(pytest.param(mode, marks=pytest.mark.slow) for mode in MODES if mode not in [*QUICK_MODES, "one"])]
)
def test_the_same_topology_goes_on_bit_for_bit(mode: str, saved: Callable[[str], Path], tmp_path: Path) -> None:
    undisturbed = trained(tmp_path / "whole", mode, LAST)
    shutil.copytree(saved(mode), tmp_path / "run")
    resumed = trained(tmp_path / "run", mode, LAST, resume=True)
    assert (resumed.losses, resumed.seen) == (undisturbed.losses, undisturbed.seen)
    assert all(torch.equal(resumed.weights[name], value) for name, value in undisturbed.weights.items())
    assert all(torch.equal(resumed.moments[name], value) for name, value in undisturbed.moments.items())


@pytest.mark.parametrize("mode", ["fsdp x tp"])
def test_the_model_of_several_processes_is_a_model(mode: str, tmp_path: Path) -> None:
    result = trained(tmp_path / "run", mode, 2, publish=tmp_path / "model")
    model = decoder()
    load_weights(tmp_path / "model", model)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, result.weights[name]), name
    assert (tmp_path / "model" / "config.json").exists()


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.suffix == ".safetensors")


@pytest.mark.parametrize(
    ("args", "writers"),
    [
        ({}, 2),
        ({"save_dist_ckpt": False}, 1),
        ({"save_dist_ckpt": False, "fsdp_state_dict_type": "sharded"}, 2),
        ({"save_dist_ckpt": False, "async_save": True}, 1),
    ],
)
def test_who_writes_is_chosen_and_what_is_written_stays_the_same(args: dict[str, Any], writers: int, tmp_path: Path) -> None:
    result = trained(tmp_path, "fsdp", MIDDLE, **args)
    folder = tmp_path / "checkpoints" / f"checkpoint-{MIDDLE}"
    parts = ["optimizer-0000{}-of-00002.safetensors", "model-0000{}-of-00002.safetensors"]
    expected = ["model.safetensors", "optimizer.safetensors"] if writers == 1 else [name.format(rank) for name in parts for rank in (1, 2)]
    assert names_in(folder) == sorted(expected)
    model = decoder()
    load_weights(folder, model)
    assert all(torch.equal(parameter, result.weights[name]) for name, parameter in model.named_parameters())


def partly_frozen() -> Any:
    """A Llama of which only some projections and the norms are trained, as with adapters."""
    model = MODELS["llama"]()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("q_proj" in name or "norm" in name)
    return model


@pytest.mark.parametrize("after", ["one", pytest.param("tp", marks=pytest.mark.slow), pytest.param("fsdp x tp", marks=pytest.mark.slow)])
def test_partly_frozen_models_are_saved_whole_and_go_on(after: str, tmp_path: Path) -> None:
    """Frozen weights among trained ones: in the file with the bits they had, without moments, under every topology."""
    undisturbed = trained(tmp_path / "one", "one", LAST, make=partly_frozen)
    trained(tmp_path / "parts", "fsdp", MIDDLE, make=partly_frozen)
    folder = tmp_path / "parts" / "checkpoints" / f"checkpoint-{MIDDLE}"
    fresh = dict(partly_frozen().named_parameters())
    stored = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    assert stored.keys() == fresh.keys()
    for name, parameter in fresh.items():
        with safe_open(folder / stored[name], "pt") as file:
            assert torch.equal(file.get_tensor(name), parameter) == (not parameter.requires_grad), name
    moments = json.loads((folder / "optimizer.safetensors.index.json").read_text())["weight_map"]
    assert {name.removeprefix("state.").rpartition(".")[0] for name in moments} == {
        name for name, parameter in fresh.items() if parameter.requires_grad
    }
    resumed = trained(tmp_path / "parts", after, LAST, resume=True, make=partly_frozen)
    assert_goes_on(resumed, undisturbed)
    for name, parameter in fresh.items():
        assert parameter.requires_grad or torch.equal(resumed.weights[name], parameter), f"{name} was frozen"


@pytest.mark.parametrize("args", [{}, {"save_dist_ckpt": False}])
def test_others_load_a_checkpoint_of_four_processes_as_it_is(args: dict[str, Any], tmp_path: Path) -> None:
    result = trained(tmp_path, "fsdp x tp", 2, make=MODELS["llama"], **args)
    folder = tmp_path / "checkpoints" / "checkpoint-2"
    assert len([name for name in names_in(folder) if name.startswith("model")]) == (1 if args else 4)
    model, told = transformers.AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not told["missing_keys"] and not told["unexpected_keys"]
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, result.weights[name]), name


@pytest.mark.parametrize("victim", ["model", "optimizer.json", "optimizer-"])
def test_what_reads_back_as_something_else_is_no_checkpoint(
    victim: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A bit changes between writing and reading back, in a model that is partly frozen and sharded; the next save is good."""
    flipped = tmp_path / "flipped"
    sync = shared_folder.fsync_file

    def damage(path: Path) -> None:
        sync(path)
        if path.name.startswith(victim) and path.suffix in (".safetensors", ".json") and path.parent.name == ".checkpoint-2.saving":
            content = bytearray(path.read_bytes())
            content[-9] ^= 1
            path.write_bytes(content)
            flipped.touch()

    monkeypatch.setattr(shared_folder, "fsync_file", damage)
    trained(tmp_path / "run", "fsdp", LAST, make=partly_frozen, save_steps=2, save_total_limit=None)
    assert flipped.exists()
    found = [checkpoint.step for checkpoint in CheckpointFolder(tmp_path / "run" / "checkpoints").complete()]
    assert found == [4, 6, 8]
