"""TensorBoard, MLflow, Weights & Biases: what their own readers find afterwards. Offline, and only where they are installed.

What is sent to Weights & Biases is looked at through a stand-in for its package, which needs no installation.
"""

from __future__ import annotations

import importlib.machinery
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ironloom import ConfigError, TrainerCallback
from ironloom.callbacks import JsonLogger, LoggerCallback, MLflowLogger, TBLogger
from ironloom.configs import WandBParameters
from tiny import assert_same_weights, tiny_trainer, weights


def run(folder: Path, *callbacks: Any, **args: Any) -> Any:
    trainer = tiny_trainer(folder, options={"callbacks": list(callbacks)}, **{"lr_scheduler_type": "constant", **args})
    trainer.train()
    return trainer


def set_back(folder: Path, make: Any) -> None:
    """A run to step 5 whose newest good checkpoint is that of step 4, and the same run to step 8."""
    run(folder, make(), max_steps=5, save_steps=4, eval_strategy="steps", eval_steps=2)
    (folder / "checkpoints" / "checkpoint-5" / "manifest.json").unlink()
    run(folder, make(), max_steps=8, save_steps=4, eval_strategy="steps", eval_steps=2, resume_from_checkpoint=True)


def logged(trainer: Any, key: str) -> list[tuple[int, float]]:
    return [(int(record["step"]), record[key]) for record in trainer.state.log_history if key in record]


class Fail(TrainerCallback):
    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 3:
            raise KeyboardInterrupt


# TensorBoard


@pytest.fixture
def tensorboard() -> Any:
    return pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")


def curve(reader: Any, folder: Path, tag: str) -> list[tuple[int, float]]:
    events = reader.EventAccumulator(str(folder)).Reload()
    return [(event.step, event.value) for event in events.Scalars(tag)]


def same(found: list[tuple[int, float]], expected: list[tuple[int, float]]) -> bool:
    """TensorBoard keeps four bytes of a number."""
    return [step for step, _ in found] == [step for step, _ in expected] and [value for _, value in found] == pytest.approx(
        [value for _, value in expected], rel=1e-6
    )


def test_tensorboard_has_every_number_and_the_experiment(tensorboard: Any, tmp_path: Path) -> None:
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(tmp_path / "tb")
    logger = TBLogger(writer, experiment_info={"name": "one"}, date="today")
    trainer = run(tmp_path / "run", logger, eval_strategy="steps", eval_steps=3, save_strategy="no")
    trainer.evaluate(metric_key_prefix="test")
    for tag, key in (
        ("train/loss", "loss"),
        ("train/learning_rate", "learning_rate"),
        ("eval/loss", "eval_loss"),
        ("test/loss", "test_loss"),
    ):
        assert same(curve(tensorboard, tmp_path / "tb", tag), logged(trainer, key))
    assert [step for step, _ in curve(tensorboard, tmp_path / "tb", "train/epoch")] == [1, 2, 3, 4, 5, 6]
    events = tensorboard.EventAccumulator(str(tmp_path / "tb")).Reload()
    texts = {tag: events.Tensors(tag)[0].tensor_proto.string_val[0].decode() for tag in events.Tags()["tensors"]}
    assert texts == {"experiment/name/text_summary": "one", "experiment/date/text_summary": "today"}


@pytest.mark.parametrize("given", ["folder", "writer"])
def test_tensorboard_shows_each_step_once(given: str, tensorboard: Any, tmp_path: Path) -> None:
    from torch.utils.tensorboard import SummaryWriter

    folder = tmp_path / "tb"
    set_back(tmp_path / "run", lambda: TBLogger(SummaryWriter(folder) if given == "writer" else folder))
    whole = run(tmp_path / "whole", max_steps=8, eval_strategy="steps", eval_steps=2)
    assert same(curve(tensorboard, folder, "train/loss"), logged(whole, "loss"))
    assert [step for step, _ in curve(tensorboard, folder, "eval/loss")] == [2, 4, 6, 8]


def test_tensorboard_takes_a_fresh_run_in_an_old_folder(tensorboard: Any, tmp_path: Path) -> None:
    run(tmp_path / "one", TBLogger(tmp_path / "tb"), save_strategy="no")
    again = run(tmp_path / "two", TBLogger(tmp_path / "tb"), max_steps=2, learning_rate=0.3, save_strategy="no")
    assert same(curve(tensorboard, tmp_path / "tb", "train/loss"), logged(again, "loss"))


def test_tensorboard_has_what_was_logged_before_an_interruption(tensorboard: Any, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "run", TBLogger(tmp_path / "tb"), Fail(), save_strategy="no")
    assert [step for step, _ in curve(tensorboard, tmp_path / "tb", "train/loss")] == [1, 2]


def test_a_writer_must_be_one(tensorboard: Any) -> None:
    with pytest.raises(ConfigError, match="SummaryWriter or a folder, found int"):
        TBLogger(3)


# MLflow


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    return mlflow.MlflowClient(tracking_uri=(tmp_path / "store").as_uri())


def only_run(client: Any, experiment: str) -> Any:
    found = client.search_runs([client.get_experiment_by_name(experiment).experiment_id])
    assert len(found) == 1
    return found[0]


def test_mlflow_has_every_number_once_in_one_run(client: Any, tmp_path: Path) -> None:
    set_back(tmp_path / "run", lambda: MLflowLogger(tmp_path / "store", "mine"))
    whole = run(tmp_path / "whole", max_steps=8)
    found = only_run(client, "mine")
    history = client.get_metric_history(found.info.run_id, "train/loss")
    assert [(metric.step, metric.value) for metric in history] == logged(whole, "loss")
    assert found.info.status == "FINISHED" and found.info.run_name == "run"
    assert (found.data.params["learning_rate"], found.data.params["max_steps"]) == ("0.01", "5")


def test_mlflow_knows_an_interrupted_run(client: Any, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "run", MLflowLogger(tmp_path / "store", "mine", "name"), Fail(), save_strategy="no")
    found = only_run(client, "mine")
    assert (found.info.status, found.info.run_name) == ("FAILED", "name")


def test_a_tracker_that_fails_costs_its_records_not_the_run(
    client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*args: Any, metrics: Any = (), **kwargs: Any) -> None:
        if metrics:
            raise ConnectionError("gone")

    monkeypatch.setattr(type(client), "log_batch", refuse)
    assert run(tmp_path / "run", MLflowLogger(tmp_path / "store"), save_strategy="no").state.global_step == 6
    assert sum("MLflowLogger could not record a record (gone)" in message for message in caplog.messages) == 1


# Weights & Biases


class Stand(types.ModuleType):
    """As much of the package wandb as is called, noting the calls."""

    def __init__(self) -> None:
        super().__init__("wandb")
        self.__spec__ = importlib.machinery.ModuleSpec("wandb", None)
        self.errors = types.SimpleNamespace(Error=type("Error", (Exception,), {}))
        self.runs: list[StandRun] = []
        self.refuses = False

    def login(self, prompt: bool) -> bool:
        return prompt

    def init(self, **options: Any) -> StandRun:
        if self.refuses:
            raise self.errors.Error("no network")
        self.runs.append(StandRun(options))
        return self.runs[-1]

    class Artifact:
        def __init__(self, name: str, type: str, metadata: Any = None) -> None:
            self.name, self.type, self.files = name, type, list[str]()

        def add_dir(self, path: str) -> None:
            self.files.append(Path(path).name)

        def add_file(self, path: str, name: str | None = None) -> None:
            self.files.append(name or Path(path).name)


class StandRun:
    def __init__(self, options: dict[str, Any]) -> None:
        self.options = options
        self.records: list[tuple[int, dict[str, float]]] = []
        self.artifacts: list[tuple[Any, Any]] = []
        self.code: list[str] = []
        self.exit_code: int | None = None

    def log(self, values: dict[str, float], step: int) -> None:
        self.records.append((step, values))

    def log_code(self, root: str, exclude_fn: Any) -> None:
        self.code = [path for path in ("a.py", ".venv/b.py", "lib/site-packages/c.py") if not exclude_fn(f"{root}/{path}", root)]

    def log_artifact(self, artifact: Any, aliases: Any = None) -> None:
        self.artifacts.append((artifact, aliases))

    def finish(self, exit_code: int) -> None:
        self.exit_code = exit_code


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stand]:
    stand = Stand()
    monkeypatch.setitem(sys.modules, "wandb", stand)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    return stand


def test_wandb_gets_parameters_records_and_names(wandb: Stand, tmp_path: Path) -> None:
    parameters = WandBParameters(project="p", entity="e", tags=["a", "b"], notes="n")
    trainer = run(tmp_path, LoggerCallback(parameters=parameters, group="g", experiment="x"), save_strategy="no")
    options = wandb.runs[0].options
    named = {
        "project": "p",
        "entity": "e",
        "tags": ["a", "b"],
        "notes": "n",
        "group": "g",
        "name": "x",
        "mode": "offline",
        "resume": "never",
    }
    assert named.items() <= options.items()
    assert options["config"]["learning_rate"] == 0.01 and options["dir"] == str(tmp_path / "logs")
    assert [(step, values["train/loss"]) for step, values in wandb.runs[0].records if "train/loss" in values] == logged(trainer, "loss")
    assert wandb.runs[0].artifacts == [] and wandb.runs[0].code == []
    trainer.evaluate(metric_key_prefix="test")
    assert "test/loss" in wandb.runs[0].records[-1][1] and wandb.runs[0].exit_code == 0 and len(wandb.runs) == 1


def test_wandb_goes_on_with_the_same_run(wandb: Stand, tmp_path: Path) -> None:
    set_back(tmp_path, lambda: LoggerCallback(project="p"))
    first, second = wandb.runs
    assert first.options["id"] == second.options["id"] and second.options["resume"] == "allow"
    assert first.options["project"] == "p" and first.options["name"] == tmp_path.name
    run(tmp_path / "other", LoggerCallback(), save_strategy="no")
    assert wandb.runs[-1].options["id"] != first.options["id"]


def test_a_second_training_is_a_second_run(wandb: Stand, tmp_path: Path) -> None:
    trainer = run(tmp_path, LoggerCallback(), save_strategy="no")
    trainer.train()
    assert [one.exit_code for one in wandb.runs] == [0, None] and wandb.runs[0].options["id"] != wandb.runs[1].options["id"]
    assert wandb.runs[0].records[0][0] == wandb.runs[1].records[0][0] == 1


def test_wandb_keeps_model_artifacts_and_code(wandb: Stand, tmp_path: Path) -> None:
    parameters = {"log_model": True, "log_artifacts": True, "log_code": True}
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.yaml").write_text("x", encoding="utf-8")
    run(tmp_path / "run", JsonLogger(), LoggerCallback(parameters=parameters), save_steps=3)
    found = wandb.runs[0]
    *models, (records, _) = found.artifacts
    assert [(artifact.type, artifact.files, aliases) for artifact, aliases in models] == [
        ("model", ["checkpoint-3"], ["latest", "step-3"]),
        ("model", ["checkpoint-6"], ["latest", "step-6"]),
    ]
    assert records.files == ["metrics.jsonl", "trainer_logs.jsonl", "run.yaml"]
    assert found.code == ["a.py"]
    run(tmp_path / "two", LoggerCallback(code_dir="../"), save_strategy="no")
    assert wandb.runs[1].code == ["a.py"]


def test_wandb_is_off_when_it_is_not_enabled(wandb: Stand, tmp_path: Path) -> None:
    run(tmp_path, LoggerCallback(parameters=WandBParameters(enabled=False)))
    assert wandb.runs == []


def test_wandb_knows_a_failed_run(wandb: Stand, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, LoggerCallback(), Fail(), save_strategy="no")
    assert wandb.runs[0].exit_code == 1


def test_the_environment_chooses_the_mode(wandb: Stand, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    run(tmp_path / "one", LoggerCallback(), save_strategy="no")
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.setattr(wandb, "login", lambda prompt: True)
    run(tmp_path / "two", LoggerCallback(), save_strategy="no")
    assert [one.options["mode"] for one in wandb.runs] == [None, None]


def test_a_run_that_cannot_begin_says_what_to_do(wandb: Stand, tmp_path: Path) -> None:
    wandb.refuses = True
    with pytest.raises(RuntimeError, match="no network; WANDB_MODE=offline"):
        run(tmp_path, LoggerCallback(), save_strategy="no")


def test_unknown_parameters_are_named(wandb: Stand) -> None:
    with pytest.raises(ConfigError, match="did you mean 'log_model'"):
        LoggerCallback(parameters={"log_modell": True})
    with pytest.raises(ConfigError, match="WandBParameters or a mapping, found str"):
        LoggerCallback(parameters="mine")


def test_the_package_itself_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two parts of one run, without an account: the files that ``wandb sync`` sends bear one id."""
    pytest.importorskip("wandb")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    for steps in (2, 4):
        logger = LoggerCallback(parameters=WandBParameters(tags=["a"], log_model=True, log_artifacts=True))
        trainer = run(tmp_path / "run", logger, max_steps=steps, resume_from_checkpoint=True)
        trainer.evaluate(metric_key_prefix="test")
    found = sorted((tmp_path / "run" / "logs" / "wandb").glob("offline-run-*/run-*.wandb"))
    assert [path.stem for path in found] == [f"run-{logger.state_dict()['run_id']}"] * 2


# All of them


def test_tracking_everything_changes_no_bit(wandb: Stand, tmp_path: Path) -> None:
    import importlib.util

    trackers: list[Any] = [JsonLogger(a=1), LoggerCallback(parameters={"log_model": True, "log_artifacts": True})]
    if importlib.util.find_spec("tensorboard"):
        trackers.append(TBLogger(tmp_path / "tb"))
    if importlib.util.find_spec("mlflow"):
        trackers.append(MLflowLogger(tmp_path / "store"))
    args = {"eval_strategy": "steps", "eval_steps": 2, "logging_steps": 1}
    quiet = run(tmp_path / "quiet", logging_strategy="no", save_strategy="no")
    assert_same_weights(weights(quiet.model), weights(run(tmp_path / "tracked", *trackers, **args).model))
