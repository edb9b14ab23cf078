"""Runs of several processes from configurations: equal graphs in three styles, and the losses of one process."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys

import pytest

from ironloom import config
from ironloom.config import tagged
from ironloom.config.compare import differences
from ironloom.parallel import fits
from library.texts import small_template

ROOT = pathlib.Path(__file__).parents[2]
EXAMPLE = ROOT / "examples/trainers/pipeline/templates/configs"
SEED = pathlib.Path(__file__).parent / "seed/pipeline_trainer.yaml"

GROUPS = """
model: {num_layers: 2, d_model: 32, d_ffn: 64, num_attention_heads: 2, head_dim: 16, max_seq_len: 32, precision: float32,
        dropout_embd: 0.0, dropout_attn: 0.0, dropout_mlp: 0.0, tokenizer_type: byte, vocab_name_or_path: null}
data: {train_datasets: [text.txt], splits: [0.9, 0.1, 0.0]}
init: {init_std: 0.02}
optim: {max_lr: 1e-2, warmup_steps: 3, weight_decay: 0.1}
trainer: {model_name: run, micro_batch_size: 2, train_batch_size: 8, save_checkpoint_steps: 5, log_interval: 1, num_workers: 0}
operation: {train_steps: 10, eval_samples: 32}
"""
NO_DROPOUT = "dropout_embd: 0.0, dropout_attn: 0.0, dropout_mlp: 0.0"
TEMPLATE = (
    small_template(2, 32, 1337, NO_DROPOUT)
    + """\
-- block eval_dataset
    null
-- endblock eval_dataset
-- block optimizer
    !partial:ironloom.optim:adamw {lr: 1e-2, betas: [0.9, 0.95], weight_decay: 0.1}
-- endblock optimizer
-- block lr_scheduler
    !partial:ironloom.optim:warmup_anneal {kind: cosine, warmup_steps: 3, total_steps: !var max_steps}
-- endblock lr_scheduler
-- block device_parameters
    !singleton:ironloom.configs:DeviceParameters
        dp_replicate: 1
        dp_shard: auto
        tensor_parallel_size: 2
        param_dtype: float32
        checkpoint_activations: true
        offload_parameters: true
        comm: {init_timeout_seconds: 120, train_timeout_seconds: 120}
-- endblock device_parameters
-- block trainer_args
    output_dir: output/run
    max_steps: 10
    per_device_train_batch_size: 2
    per_device_eval_batch_size: 2
    gradient_accumulation_steps: 2
    seed: 1337
    logging_steps: 1
    eval_steps: 100
    save_steps: 5
    save_optimizer_state: true
    save_scheduler_state: true
    save_dist_ckpt: false
    resume_from_checkpoint: true
    report_memory: true
-- endblock trainer_args
"""
)
CODE = """
from ironloom import DreamTrainerConfig
from ironloom.configs import CheckpointParameters, Comm, DataParameters, DeviceParameters, ModelConfig, TrainingParameters

config = DreamTrainerConfig(
    experiment="run",
    seed=1337,
    model=ModelConfig(num_layers=2, d_model=32, d_ffn=64, num_attention_heads=2, head_dim=16, max_seq_len=32, precision="float32",
                      dropout_embd=0.0, dropout_attn=0.0, dropout_mlp=0.0, tokenizer_type="byte", vocab_name_or_path=None),
    data=DataParameters(train_datasets=["text.txt"], splits=[0.9, 0.1, 0.0]),
    training_parameters=TrainingParameters(
        n_epochs=1, train_steps_per_epoch=10, train_batch_size=4, gradient_accumulation_steps=2, val_frequency=0,
        learning_rate=1e-2, min_lr=0.0, warmup_steps=3, log_every_n_steps=1,
    ),
    checkpoint_parameters=CheckpointParameters(checkpoint_every_n_steps=5),
    device_parameters=DeviceParameters.FSDP(
        tensor_parallel=2, checkpoint_activations=True, offload_parameters=True,
        comm=Comm(init_timeout_seconds=120, train_timeout_seconds=120),
    ),
)
"""
PARALLEL = [
    "trainer.tensor_model_parallel_size=2",
    "parallel.use_fsdp=true",
    "parallel.fsdp_offload_params=true",
    "parallel.timeout_minute=2",
    "operation.activation_recompute=true",
]


@pytest.fixture
def folder(small_text: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """A folder with one run in three styles."""
    for name, text in {"groups.yaml": GROUPS, "template.yaml": TEMPLATE, "code.py": CODE}.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "text.txt").write_text((small_text / "text.txt").read_text())
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def losses(folder: pathlib.Path, output: str, cache: pathlib.Path, *words: str) -> list[tuple[float, float]]:
    """Loss and gradient norm of every step of ``ironloom train``."""
    environment = {**os.environ, "IRONLOOM_CACHE": str(cache), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", "from ironloom.cli import main; main()", "train", "--fresh", *words]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in (folder / output / "logs/metrics.jsonl").read_text().splitlines()]
    return [(line["loss"], line["grad_norm"]) for line in lines if "loss" in line]


def test_a_run_of_several_processes_is_the_same_graph_in_every_style(folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    groups = config.load(folder / "groups.yaml", PARALLEL)
    assert groups.root["trainer_args"].kwargs["gradient_accumulation_steps"] == 2, "of two data-parallel processes"
    for name in ("groups.yaml", "template.yaml", "code.py"):
        graph = config.load(folder / name, PARALLEL if name == "groups.yaml" else [])
        assert (config.check(graph), fits.problems(graph, 4)) == ([], [])
        assert differences(graph, groups, list(groups.root)) == []
        assert tagged.dump(tagged.load(tagged.dump(graph), "run.yaml")) == tagged.dump(graph)
        assert graph.root["main"].kwargs["device_parameters"] is graph.root["device_parameters"]


def test_one_copy_for_each_process_is_not_worth_a_word_in_any_style(folder: pathlib.Path) -> None:
    (folder / "plain.py").write_text(CODE[: CODE.index("    device_parameters=")] + "    device_parameters=DeviceParameters(),\n)\n")
    for path in (folder / "groups.yaml", folder / "plain.py"):
        assert "device_parameters" not in tagged.dump(config.load(path))


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(["parallel.use_fsdp=true", "operation.activation_recompute=true"], id="fsdp"),
        pytest.param(["trainer.tensor_model_parallel_size=2"], id="tensor", marks=pytest.mark.slow),
    ],
)
def test_groups_train_on_two_processes_as_on_one(words: list[str], folder: pathlib.Path, small_text: pathlib.Path) -> None:
    cache = small_text / "cache"
    more = "trainer.grad_norm_log_interval=log"
    alone = losses(folder, "output/run", cache, "groups.yaml", more)
    together = losses(folder, "output/run", cache, "groups.yaml", more, *words, "--nproc", "2")
    assert len(alone) == 10
    for one, other in zip(together, alone, strict=True):
        assert one == pytest.approx(other, rel=1e-5)


SMALL = [
    "model.config.d_model=16",
    "model.config.d_ffn=32",
    "model.config.num_attention_heads=2",
    "model.config.head_dim=8",
    "data.vocab_size=300",
    "data.train_datasets=[text.txt]",
    "data.eval_samples=4",
    "trainer_args.max_steps=4",
    "trainer_args.logging_steps=1",
    "trainer_args.warmup_steps=2",
    "trainer_args.eval_steps=2",
    "seq_length=16",
    "trainer_args.grad_norm_log_interval=log",
]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["minimal", "blocks"])
def test_the_pipeline_example_trains_on_two_processes_as_on_one(name: str, folder: pathlib.Path, small_text: pathlib.Path) -> None:
    output, cache, file = f"output/pipeline{'_blocks' * (name == 'blocks')}", small_text / "cache", str(EXAMPLE / f"{name}.yaml")
    alone = losses(folder, output, cache, file, *SMALL)
    together = losses(folder, output, cache, file, *SMALL, "--nproc", "2")
    assert len(alone) == 4
    for one, other in zip(together, alone, strict=True):
        assert one == pytest.approx(other, rel=1e-5)


LAYERS = """
from torch import nn

class Layer(nn.Sequential):
    def forward(self, hidden):
        return hidden + super().forward(hidden)

class Model(nn.Module):
    def __init__(self, width=16, vocabulary=384):
        super().__init__()
        self.embed = nn.Embedding(vocabulary, width)
        self.layer = nn.ModuleList(Layer(nn.Linear(width, width), nn.GELU()) for _ in range(16))
        self.head = nn.Linear(width, vocabulary)

    def forward(self, input_ids, **kwargs):
        hidden = self.embed(input_ids)
        for layer in self.layer:
            hidden = layer(hidden)
        return {"logits": self.head(hidden)}
"""


@pytest.mark.slow
def test_the_complete_pipeline_of_the_specification_trains_on_four_processes(folder: pathlib.Path, small_text: pathlib.Path) -> None:
    (folder / "layers.py").write_text(LAYERS)
    model = f"-- block model_definition\n    !partial:{folder / 'layers.py'}:Model []\n-- endblock model_definition\n"
    (folder / "pipeline.yaml").write_text(SEED.read_text() + "\n" + model)
    words = ["pipeline.yaml", *(word for word in SMALL if not word.startswith("model.")), "trainer_args.save_strategy=no"]
    alone = losses(folder, "output", small_text / "cache", *words)
    together = losses(folder, "output", small_text / "cache", *words, "--nproc", "4")
    assert len(alone) == 4
    for one, other in zip(together, alone, strict=True):
        assert one == pytest.approx(other, rel=1e-5)
