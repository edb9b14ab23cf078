"""MLflow."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from ironloom.callbacks.records import log_folder
from ironloom.callbacks.state import TrainerState
from ironloom.callbacks.tracker import Tracker, require
from ironloom.settings.training import TrainingArguments

#: What a server takes of a parameter, and how many in one call.
_VALUE_LENGTH, _BATCH = 500, 100


class MLflowLogger(Tracker):
    """Records every number of the log records, and the training arguments as parameters, in an MLflow run.

    A run that is taken up from a checkpoint goes on in the same MLflow run; steps that are there already
    are not recorded again.

    Args:
        tracking_uri: Address of a server, or a folder; None: ``MLFLOW_TRACKING_URI`` of the environment, or
            else the folder ``mlruns`` in the run's folder of logs.
        experiment_name: Experiment; made if it does not exist.
        run_name: What the run is called; None: the name of its output folder.

    Raises:
        ConfigError: If the package mlflow is missing.
    """

    def __init__(self, tracking_uri: str | os.PathLike[str] | None = None, experiment_name: str | None = None, run_name: str | None = None):
        super().__init__()
        require("mlflow", "MLflowLogger")
        self._uri, self._experiment, self._name = tracking_uri, experiment_name or "Default", run_name
        self._run_id: str | None = None
        self._client: Any = None

    def state_dict(self) -> dict[str, Any]:
        """Which run goes on."""
        return {"run_id": self._run_id}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what :meth:`state_dict` returned."""
        self._run_id = state["run_id"]

    def _open(self, args: TrainingArguments, state: TrainerState, begins: bool, **kwargs: Any) -> None:
        from mlflow import MlflowClient

        self._client = MlflowClient(tracking_uri=self._address(args))
        if begins and state.global_step == 0:
            self._run_id = None
        if self._run_id is None:
            self._begin(args)
            return
        self._client.update_run(self._run_id, status="RUNNING")
        for tag in self._client.get_run(self._run_id).data.metrics:
            history = self._client.get_metric_history(self._run_id, tag)
            self._recorded_to[tag] = max(metric.step for metric in history)

    def _address(self, args: TrainingArguments) -> str:
        uri = self._uri or os.environ.get("MLFLOW_TRACKING_URI") or log_folder(args) / "mlruns"
        if "://" in str(uri) or uri == "databricks":
            return str(uri)
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # who gives a folder means it
        return Path(uri).absolute().as_uri()

    def _begin(self, args: TrainingArguments) -> None:
        from mlflow.entities import Param

        found = self._client.get_experiment_by_name(self._experiment)
        experiment = found.experiment_id if found else self._client.create_experiment(self._experiment)
        name = self._name or Path(args.output_dir).absolute().name
        self._run_id = self._client.create_run(experiment, run_name=name).info.run_id
        params = [Param(key, str(value)[:_VALUE_LENGTH]) for key, value in args.to_dict().items()]
        for start in range(0, len(params), _BATCH):
            self._client.log_batch(self._run_id, params=params[start : start + _BATCH])

    def _write(self, values: dict[str, float], state: TrainerState) -> None:
        from mlflow.entities import Metric

        step, now = state.global_step, int(time.time() * 1000)
        self._client.log_batch(self._run_id, metrics=[Metric(tag, value, now, step) for tag, value in values.items()])

    def _close(self, failed: bool) -> None:
        self._client.set_terminated(self._run_id, status="FAILED" if failed else "FINISHED")
