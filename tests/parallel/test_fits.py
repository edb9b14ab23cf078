"""What ``check --nproc N`` refuses before a process starts, in three styles, each time with what would work."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

import pytest

from ironloom.cli import train
from ironloom.cli.configuration import as_processes, load_checked
from ironloom.config.processes import communication, data_parallel
from ironloom.errors import ConfigError
from ironloom.parallel.environment import DistributedEnvironment
from ironloom.settings import Comm

SHAPE = {
    "num_layers": 3,
    "d_model": 32,
    "d_ffn": 60,
    "num_attention_heads": 4,
    "head_dim": 8,
    "max_seq_len": 36,
    "precision": "float32",
    "tokenizer_type": "bbpe",
    "vocab_name_or_path": None,
}
DATA = {"train_datasets": ["python-docs"], "vocab_size": 300}
TEMPLATE = """
-- extends 'trainers/trainer.yaml'
-- block data_definition
    !singleton:ironloom.data:PretrainData@data {{train_datasets: [python-docs], tokenizer_type: bbpe, vocab_name_or_path: null,
        vocab_size: 300, seq_length: 36}}
-- endblock
-- block model_definition
    !partial:ironloom.models:build_decoder
        config: !singleton:ironloom.settings:ModelConfig {shape}
        vocab_size: !singleton:ironloom.config.targets:attribute [*tokenizer, vocab_size]
        vocab_padding_unit: {unit}
-- endblock
-- block device_parameters
    !singleton:ironloom.configs:DeviceParameters {sizes}
-- endblock
-- block trainer_args
    max_steps: 4
-- endblock
"""
KEYS = {"tensor_parallel_size": "tensor_model_parallel_size", "pipeline_parallel_size": "pipeline_model_parallel_size"}


def written(style: str, folder: pathlib.Path, unit: int = 128, **sizes: int) -> pathlib.Path:
    """The file of a run with some parallel sizes, in one of the styles."""
    shown = {name: "null" if value is None else value for name, value in SHAPE.items()}
    plain = "{" + ", ".join(f"{name}: {value}" for name, value in shown.items()) + "}"
    in_yaml = "{" + ", ".join(f"{name}: {value}" for name, value in {**sizes, "param_dtype": "float32"}.items()) + "}"
    if style == "groups":
        keys = "".join(f", {KEYS[name]}: {value}" for name, value in sizes.items())
        text = f"model: {plain}\ndata: {{train_datasets: [python-docs], vocab_size: 300}}\n"
        text += f"trainer: {{micro_batch_size: 2, vocab_padding_unit: {unit}{keys}}}\noperation: {{train_steps: 4}}\n"
        file = folder / "run.yaml"
    elif style == "templates":
        file, text = folder / "template.yaml", TEMPLATE.format(shape=plain, unit=unit, sizes=in_yaml)
    else:
        file = folder / "run.py"
        text = "from ironloom.configs import *\nconfig = DreamTrainerConfig("
        text += f"model=ModelConfig(**{SHAPE}), data=DataParameters(**{DATA}), device_parameters=DeviceParameters(**{sizes}))\n"
    file.write_text(text)
    return file


def refusals(file: pathlib.Path, world: int | None) -> str:
    """What is refused of a run of so many processes; empty if nothing is."""
    try:
        with as_processes(world):
            load_checked(str(file), [])
    except ConfigError as error:
        return str(error)
    return ""


STYLES = ["groups", "templates", "code"]


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    """No launcher's variables, and a folder of its own."""
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize(
    ("sizes", "world", "said"),
    [
        ({"tensor_parallel_size": 2}, 3, ["3 ", "1 or 3 would fit; or start 2 or 4 processes"]),
        ({"tensor_parallel_size": 2}, 1, ["1 would fit; or start 2 processes"]),
        ({"tensor_parallel_size": 2, "pipeline_parallel_size": 2}, 6, ["1 or 3 would fit; or start 4 or 8 processes"]),
        ({"tensor_parallel_size": 3}, 3, ["num_attention_heads", "4", "2 or 4 would fit"]),
        ({"tensor_parallel_size": 3}, None, ["num_attention_heads", "4", "2 or 4 would fit"]),
        ({"pipeline_parallel_size": 4}, 4, ["4 stages are more than the 3 layers of the model (at most 3)"]),
        ({"pipeline_parallel_size": 4}, None, ["4 stages are more than the 3 layers of the model (at most 3)"]),
    ],
)
def test_what_does_not_fit_is_said_with_what_would(
    style: str, sizes: dict[str, int], world: int | None, said: list[str], tmp_path: pathlib.Path
) -> None:
    file = written(style, tmp_path, **sizes)
    message = refusals(file, world)
    for part in said:
        assert part in message
    assert str(file.name) in message, "the place is named"
    if style == "groups":
        assert "device_parameters" not in message, "in the words of the user"


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize(("sizes", "world"), [({}, 5), ({"tensor_parallel_size": 2}, 4), ({"pipeline_parallel_size": 3}, 3)])
def test_what_fits_is_not_refused(style: str, sizes: dict[str, int], world: int, tmp_path: pathlib.Path) -> None:
    path = written(style, tmp_path, **sizes)
    if style == "code":
        path.write_text(path.read_text()[:-2] + f", training_parameters=TrainingParameters(train_batch_size={2 * world}))\n")
    assert refusals(path, world) == ""
    with as_processes(world):
        graph = load_checked(str(path), [])
    shared = {"tensor_parallel_size": 2, "pipeline_parallel_size": 3}
    assert data_parallel(graph, world) == world // max([1, *(shared[name] for name in sizes)])


@pytest.mark.parametrize("style", ["groups", "templates"])
def test_a_vocabulary_that_cannot_be_divided(style: str, tmp_path: pathlib.Path) -> None:
    message = refusals(written(style, tmp_path, unit=1, tensor_parallel_size=4), 4)
    assert message == ""
    file = written(style, tmp_path, unit=7, tensor_parallel_size=2)
    assert "2 processes cannot divide a vocabulary of 301 rows equally (vocab_padding_unit 2 pads it to 302)" in refusals(file, 2)


@pytest.mark.parametrize("style", ["templates", "code"])
def test_a_length_that_cannot_be_shared(style: str, tmp_path: pathlib.Path) -> None:
    file = written(style, tmp_path, context_parallel_size=4)
    assert "a sequence of 36 tokens cannot be shared by 4" in refusals(file, 4)
    assert "use 32 or 40 tokens, or pad to a multiple of 8" in refusals(file, None)
    assert refusals(written(style, tmp_path, context_parallel_size=2), 2) == ""


def test_models_of_transformers_as_far_as_their_text_tells(tmp_path: pathlib.Path) -> None:
    def said(config: str) -> str:
        text = TEMPLATE.format(shape="{}", unit=1, sizes="{tensor_parallel_size: 4}")
        front, rest = text.split("-- block model_definition\n")
        model = "    !partial:transformers:AutoModelForCausalLM.from_config\n"
        model += f"        config: !singleton:transformers:{config}\n"
        (tmp_path / "t.yaml").write_text(f"{front}-- block model_definition\n{model}-- endblock{rest.split('-- endblock', 1)[1]}")
        return refusals(tmp_path / "t.yaml", 4)

    assert said("LlamaConfig {num_attention_heads: 8, num_key_value_heads: 4, intermediate_size: 64}") == ""
    assert "num_attention_heads 6" in said("LlamaConfig {num_attention_heads: 6, intermediate_size: 64}")
    assert "there is no plan by which the layers of a OPTConfig" in said("OPTConfig {}")
    assert said("GPT2Config {n_head: 4}") == ""


def test_a_pipeline_trainer(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "p.yaml"
    text = (
        "-- extends 'trainers/pipeline_trainer.yaml'\n-- block trainer_args\n    max_steps: 2\n    per_device_train_batch_size: 4\n    {}\n"
    )
    for more, world, part in (
        ("pipeline_chunks: 4", 2, ""),
        ("pipeline_chunks: 4", 5, "5 stages (pipeline_parallel_size 5 x stages_per_rank 1) are more than the 4 layers"),
        ("pipeline_parallel_size: 3", 4, "4 processes cannot be pipelines of 3 (2 or 4 would fit; or start 3 or 6 processes)"),
        ("{pipeline_chunks: 2, schedule_class: Schedule1F1B}", 4, ""),
    ):
        if more.startswith("{"):
            more, part = (
                "pipeline_chunks: 2\n    schedule_class: Schedule1F1B",
                "Schedule1F1B needs at least 4 chunks, one for each stage, not 2",
            )
        file.write_text(text.format(more) + "-- endblock\n")
        found = refusals(file, world)
        assert part in found and bool(part) == bool(found)


def test_hybrid_sharding_is_within_a_machine(tmp_path: pathlib.Path) -> None:
    file = written("groups", tmp_path)
    words = ["parallel.use_fsdp=true", "parallel.fsdp_sharding_strategy=hybrid"]
    for world, local, more, expected in ((8, 4, [], 4), (8, 4, ["trainer.tensor_model_parallel_size=2"], 2), (4, None, [], 4)):
        with as_processes(world, local):
            assert load_checked(str(file), [*words, *more]).root["device_parameters"].kwargs["dp_shard"] == expected


def test_no_torch_is_imported(tmp_path: pathlib.Path) -> None:
    program = (
        "import sys\nfrom ironloom.cli import main\ntry:\n    main(sys.argv[1:])\n"
        "except SystemExit as end:\n    assert not end.code, end.code\n"
        "assert 'torch' not in sys.modules"
    )
    for style in STYLES:
        file = written(style, tmp_path, tensor_parallel_size=2)
        subprocess.run([sys.executable, "-c", program, "check", str(file), "--nproc", "4"], check=True, timeout=60)


def test_patience_and_backend_are_heeded(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = written("groups", tmp_path)
    comm = communication(load_checked(str(file), ["parallel.timeout_minute=0.5", "parallel.dist_backend=gloo"]))
    assert (comm.init_timeout_seconds, comm.train_timeout_seconds, comm.backend) == (30, 30, "gloo")
    environment = DistributedEnvironment()
    environment.heed(comm)
    assert (environment.timeout, environment.backend) == (30.0, "gloo")
    plain = DistributedEnvironment(timeout=5)
    plain.heed(communication(load_checked(str(file), [])))
    assert (plain.timeout, plain.backend) == (5, None)
    monkeypatch.delenv(train.RECORDER, raising=False)
    with train._recording(Comm(trace_buf_size=7)):
        assert os.environ[train.RECORDER] == "7"
    assert train.RECORDER not in os.environ


@pytest.mark.parametrize(
    ("model", "what"),
    [
        (f"{{{', '.join(f'{key}: {value}' for key, value in SHAPE.items() if value is not None)}, qk_norm: true}}", "decoder with qk_norm"),
        ("{name_or_path: somebody/model, lora: {r: 4}, tokenizer_type: byte}", "model with adapters"),
    ],
)
def test_layers_that_nobody_can_split_are_said_before_a_process_starts(model: str, what: str, tmp_path: pathlib.Path) -> None:
    text = f"model: {model}\ndata: {{train_datasets: [python-docs]}}\ntrainer: {{tensor_model_parallel_size: 2, micro_batch_size: 2}}\n"
    (tmp_path / "run.yaml").write_text(text)
    assert f"there is no plan by which the layers of a {what} could be split over 2 processes" in refusals(tmp_path / "run.yaml", 2)
