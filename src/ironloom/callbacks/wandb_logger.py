"""Weights & Biases."""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ironloom.callbacks.records import log_folder
from ironloom.callbacks.state import TrainerControl, TrainerState
from ironloom.callbacks.tracker import Tracker, require
from ironloom.checkpoint.folder import CheckpointFolder
from ironloom.checkpoint.manifest import read_manifest
from ironloom.errors import ConfigError, ResourceError
from ironloom.settings.dream.tracking import LoggingParameters, WandBParameters
from ironloom.settings.training import TrainingArguments

_NOT_CODE = {"site-packages", "node_modules", "wandb", "__pycache__", "output", "output_models"}


class LoggerCallback(Tracker):
    """Records every number of the log records, and the training arguments, in a run of Weights & Biases.

    Without an account (no API key) the run is kept offline in the run's folder of logs, to be sent with
    ``wandb sync``; ``WANDB_MODE`` overrules. A run that is taken up from a checkpoint goes on in the same
    W&B run, which takes no step twice.

    Args:
        code_dir: Folder whose Python files are kept with the run.
        parameters: A ``WandBParameters``, or what it has by name: ``project``, ``entity``, ``tags``,
            ``notes``, ``log_model`` (every checkpoint), ``log_artifacts`` (run.yaml and the folder of
            logs, at the end), ``log_code`` (the code; of the current folder without ``code_dir``),
            ``enabled``.
        project: Project, if ``parameters`` has none.
        group: Group of runs.
        experiment: Name of the run; None: that of its output folder.

    Raises:
        ConfigError: If the package wandb is missing, or a parameter is unknown or of another type.
    """

    def __init__(
        self,
        code_dir: str | os.PathLike[str] | None = None,
        parameters: Any = None,
        project: str | None = None,
        group: str | None = None,
        experiment: str | None = None,
    ):
        super().__init__()
        require("wandb", "LoggerCallback")
        self._parameters = _parameters(parameters)
        self._code_dir = code_dir if code_dir is not None or not self._parameters.log_code else "."
        self._project, self._group, self._experiment = self._parameters.project or project, group, experiment
        self._run_id: str | None = None
        self._run: Any = None
        self._artifacts_from = Path()

    def state_dict(self) -> dict[str, Any]:
        """Which run goes on."""
        return {"run_id": self._run_id}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what :meth:`state_dict` returned."""
        self._run_id = state["run_id"]

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: dict[str, Any], **kwargs: Any) -> None:
        """Record the numbers of a log record."""
        if self._parameters.enabled:
            super().on_log(args, state, control, logs, **kwargs)

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Begin the W&B run, or go on with it."""
        if self._parameters.enabled:
            super().on_train_begin(args, state, control, **kwargs)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Keep the checkpoint, with ``log_model``."""
        if self._is_open and self._parameters.log_model:
            self._guarded("a checkpoint", lambda: self._keep_checkpoint(args, state, kwargs.get("step", state.global_step)))

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Keep the records, with ``log_artifacts``. The W&B run stays open for a test that may follow; at exit it is closed."""
        self._training = False
        if self._is_open and self._parameters.log_artifacts:
            self._guarded("its artifacts", self._keep_artifacts)

    def _open(self, args: TrainingArguments, state: TrainerState, begins: bool, **kwargs: Any) -> None:
        import wandb

        if begins and state.global_step == 0:
            self._run_id = None
        is_new = self._run_id is None
        self._run_id = self._run_id or uuid.uuid4().hex[:8]
        folder = log_folder(args)
        folder.mkdir(parents=True, exist_ok=True)
        try:
            self._run = wandb.init(
                id=self._run_id,
                resume="never" if is_new else "allow",
                mode=_mode(),
                dir=str(folder),
                project=self._project,
                entity=self._parameters.entity,
                group=self._group,
                name=self._experiment or Path(args.output_dir).absolute().name,
                tags=self._parameters.tags,
                notes=self._parameters.notes,
                config=_plain(args.to_dict()),
                reinit="create_new",  # a run of the user's own in this process is not touched
            )
        except wandb.errors.Error as error:
            raise ResourceError(f"W&B cannot begin a run: {error}; WANDB_MODE=offline keeps it on this machine") from error
        self._artifacts_from = folder
        if begins and self._code_dir is not None:
            self._run.log_code(str(self._code_dir), exclude_fn=_is_not_code)

    def _write(self, values: dict[str, float], state: TrainerState) -> None:
        # A step that is lower than what the run has already is refused by W&B itself: nothing is recorded twice.
        self._run.log(values, step=state.global_step)

    def _close(self, failed: bool) -> None:
        run, self._run = self._run, None
        run.finish(exit_code=int(failed))

    def _keep_checkpoint(self, args: TrainingArguments, state: TrainerState, step: int) -> None:
        import wandb

        path = CheckpointFolder(Path(args.output_dir, "checkpoints")).path(step)
        metadata = {"step": step, "epoch": read_manifest(path).info["epoch"]}
        artifact = wandb.Artifact(f"model-{self._run_id}", type="model", metadata=metadata)
        artifact.add_dir(str(path))
        best = ["best"] if state.best_global_step == step else []
        self._run.log_artifact(artifact, aliases=["latest", f"step-{step}", *best])

    def _keep_artifacts(self) -> None:
        import wandb

        artifact = wandb.Artifact(f"records-{self._run_id}", type="records")
        for path in sorted(self._artifacts_from.rglob("*")):
            inside = path.relative_to(self._artifacts_from)
            if path.is_file() and inside.parts[0] != "wandb":
                artifact.add_file(str(path), name=inside.as_posix())
        configuration = self._artifacts_from.parent / "run.yaml"
        if configuration.is_file():
            artifact.add_file(str(configuration))
        self._run.log_artifact(artifact)


def _mode() -> Any:
    """What the environment says; otherwise offline, if there is no account to send to."""
    import wandb

    if os.environ.get("WANDB_MODE") or wandb.login(prompt=False):
        return None
    return "offline"


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    return {key: os.fspath(value) if isinstance(value, os.PathLike) else value for key, value in values.items()}


def _is_not_code(path: str, root: str) -> bool:
    """Installed packages and results that lie in the folder, and what is hidden."""
    parts = Path(path).relative_to(root).parts
    return any(part.startswith(".") or part in _NOT_CODE for part in parts)


def _parameters(given: Any) -> Any:
    if given is None:
        return WandBParameters()
    if isinstance(given, Mapping):
        return WandBParameters(**given)
    if isinstance(given, LoggingParameters) and not isinstance(given, WandBParameters):
        return WandBParameters(enabled=given.enabled)
    if not isinstance(given, WandBParameters):
        raise ConfigError(f"parameters must be WandBParameters or a mapping, found {type(given).__name__}")
    return given
