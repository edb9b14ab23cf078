"""One run in three styles: the same graph, and the same losses bit for bit."""

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
from library.texts import small_template

EXAMPLES = pathlib.Path(__file__).parents[2] / "examples"
QUICKSTART = {
    "groups": EXAMPLES / "quickstart.yaml",
    "template": EXAMPLES / "quickstart_template.yaml",
    "code": EXAMPLES / "quickstart.py",
}
# The same small changes to the graph, in the words of each style.
SHAPE = {"num_layers": 1, "d_model": 32, "d_ffn": 64, "num_attention_heads": 2, "head_dim": 16, "max_seq_len": 32}
SMALLER = {
    "groups": [
        *(f"model.{key}={value}" for key, value in SHAPE.items()),
        "data.vocab_size=300",
        "operation.train_steps=12",
        "operation.eval_interval=6",
        "trainer.save_checkpoint_steps=6",
        "trainer.log_interval=2",
        "optim.warmup_steps=3",
    ],
    "template": [
        *(f"model.config.{key}={value}" for key, value in SHAPE.items()),
        "data.seq_length=32",
        "data.vocab_size=300",
        "trainer_args.max_steps=12",
        "trainer_args.eval_steps=6",
        "trainer_args.save_steps=6",
        "trainer_args.logging_steps=2",
        "lr_scheduler.warmup_steps=3",
    ],
    "code": [
        *(f"model.{key}={value}" for key, value in SHAPE.items()),
        "data.vocab_size=300",
        "training_parameters.train_steps_per_epoch=12",
        "training_parameters.val_every_n_steps=6",
        "checkpoint_parameters.checkpoint_every_n_steps=6",
        "training_parameters.log_every_n_steps=2",
        "training_parameters.warmup_steps=3",
    ],
}

RICH = {
    "groups.yaml": """
model: {num_layers: 1, d_model: 32, d_ffn: 64, num_attention_heads: 2, head_dim: 16, max_seq_len: 32, precision: float32,
        tokenizer_type: byte, vocab_name_or_path: null}
data: {train_datasets: [text.txt], splits: [0.9, 0.1, 0.0]}
init: {seed: 7, init_std: 0.02}
optim: {max_lr: 1e-2, min_lr: 1e-3, warmup_steps: 3, weight_decay: 0.1, clip_grad: 0.5, lr_scheduler: linear}
trainer: {model_name: rich, model_path: runs/rich, micro_batch_size: 4, gradient_accumulation_steps: 2, eval_batch_size: 2,
          do_eval: true, save_checkpoint_steps: 5, log_interval: 2, num_workers: 0}
operation: {train_steps: 10, eval_interval: 5, eval_samples: 8}
utils: {tensorboard_dir: boards, profile_torch: true, profile_step_start: 3, profile_step_end: 4}
""",
    "template.yaml": small_template(1, 8, 7)
    + """\
-- block optimizer
    !partial:ironloom.optim:adamw {lr: 1e-2, betas: [0.9, 0.95], weight_decay: 0.1}
-- endblock optimizer
-- block lr_scheduler
    !partial:ironloom.optim:warmup_anneal {kind: linear, warmup_steps: 3, min_lr: 1e-3, total_steps: !var max_steps}
-- endblock lr_scheduler
-- block trainer_callbacks
    !list
        - !singleton:ironloom.callbacks:TBLogger {summary_writer: boards/rich}
        - !singleton:ironloom.callbacks:ProfileCallback {step_start: 3, step_end: 4, ranks: [0]}
-- endblock trainer_callbacks
-- block trainer_args
    output_dir: runs/rich
    max_steps: 10
    per_device_train_batch_size: 4
    gradient_accumulation_steps: 2
    per_device_eval_batch_size: 2
    max_grad_norm: 0.5
    seed: 7
    logging_steps: 2
    eval_strategy: steps
    eval_steps: 5
    eval_on_start: true
    save_steps: 5
    save_optimizer_state: true
    save_scheduler_state: true
    save_dist_ckpt: false
    resume_from_checkpoint: true
    report_memory: true
-- endblock trainer_args
""",
    "code.py": """
from ironloom import DreamTrainerConfig
from ironloom.callbacks import ProfileCallback, TBLogger
from ironloom.configs import CheckpointParameters, DataParameters, DeviceParameters, ModelConfig, TrainingParameters

config = DreamTrainerConfig(
    experiment="rich",
    seed=7,
    model=ModelConfig(num_layers=1, d_model=32, d_ffn=64, num_attention_heads=2, head_dim=16, max_seq_len=32, precision="float32",
                      tokenizer_type="byte", vocab_name_or_path=None),
    data=DataParameters(train_datasets=["text.txt"], splits=[0.9, 0.1, 0.0]),
    training_parameters=TrainingParameters(
        n_epochs=1, train_steps_per_epoch=10, train_batch_size=4, val_batch_size=2, gradient_accumulation_steps=2,
        gradient_clip_val=0.5, val_every_n_steps=5, val_steps_per_epoch=4, learning_rate=1e-2, min_lr=1e-3, warmup_steps=3,
        lr_scheduler="linear", log_every_n_steps=2,
    ),
    checkpoint_parameters=CheckpointParameters(root_dir="runs", checkpoint_every_n_steps=5),
    device_parameters=DeviceParameters(param_dtype="float32"),
    callbacks=[TBLogger("boards/rich"), ProfileCallback(step_start=3, step_end=4, ranks=[0])],
)
""",
}


def trained(folder: pathlib.Path, words: list[str], output: str, cache: pathlib.Path) -> list[dict[str, float]]:
    """The records of a run in a process of its own, without the times."""
    environment = {**os.environ, "IRONLOOM_CACHE": str(cache), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", "from ironloom.cli import main; main()", "train", *words]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = (folder / output / "logs" / "metrics.jsonl").read_text().splitlines()
    timed = ("runtime", "per_second", "memory")
    return [{key: value for key, value in json.loads(line).items() if not any(word in key for word in timed)} for line in lines]


def test_the_quickstart_is_the_same_graph_in_every_style() -> None:
    graphs = {style: config.load(path) for style, path in QUICKSTART.items()}
    assert {style: config.style(path) for style, path in QUICKSTART.items()} == {
        "groups": "groups",
        "template": "templates",
        "code": "code",
    }
    for graph in graphs.values():
        assert config.check(graph) == []
        assert tagged.dump(tagged.load(tagged.dump(graph), "run.yaml")) == tagged.dump(graph)
        assert differences(graph, graphs["groups"], list(graphs["groups"].root)) == []
    changed = config.load(QUICKSTART["template"], ["trainer_args.seed=1", "optimizer.lr=1e-3"])
    found = differences(changed, graphs["groups"], list(graphs["groups"].root))
    assert {difference.path for difference in found} == {"trainer_args.seed", "optimizer.lr"}


def test_the_quickstart_has_the_same_losses_in_every_style(small_text: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """Smaller, and on a small text; the difference between styles is where they are written, nothing else."""
    records = {}
    for style, path in QUICKSTART.items():
        folder = tmp_path / style
        folder.mkdir()
        words = [str(path), f"data.train_datasets=[{small_text / 'text.txt'}]", *SMALLER[style]]
        records[style] = trained(folder, words, "output/quickstart", small_text / "cache")
    assert sum("loss" in record for record in records["groups"]) == 6
    assert sum("eval_loss" in record for record in records["groups"]) == 3
    assert records["template"] == records["groups"]
    assert records["code"] == records["groups"]


@pytest.fixture
def rich(small_text: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """A folder with one run in three styles: a schedule, callbacks, and a tokenizer that data, model and trainer share."""
    for name, text in RICH.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "text.txt").write_text((small_text / "text.txt").read_text())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_schedule_callbacks_and_shared_objects_are_the_same_graph(rich: pathlib.Path) -> None:
    groups, *others = (config.load(rich / name) for name in RICH)
    names = list(groups.root)
    for graph in (groups, *others):
        assert config.check(graph) == []
        assert differences(graph, groups, names) == []
        main = graph.root["main"].kwargs
        assert main["processing_class"] is graph.root["model"].kwargs["vocab_size"].args[0]
        assert len(main["callbacks"]) == 2


def test_schedule_callbacks_and_shared_objects_train_the_same(rich: pathlib.Path, small_text: pathlib.Path) -> None:
    records = []
    for name in RICH:
        folder = rich / name.partition(".")[0]
        folder.mkdir()
        (folder / "text.txt").write_text((rich / "text.txt").read_text())
        records.append(trained(folder, [str(rich / name)], "runs/rich", small_text / "cache"))
        assert list((folder / "boards/rich").glob("events.*"))
    assert sum("loss" in record for record in records[0]) == 5
    assert records[1] == records[0]
    assert records[2] == records[0]
