"""What all trainers share: construction, callbacks, logging, models and checkpoints on disk."""

from __future__ import annotations

import logging
import os
import warnings
from abc import abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ironloom.callbacks import CallbackHandler, MetricsWriter, ProgressCallback, TrainerControl, TrainerState
from ironloom.callbacks.report import trackers
from ironloom.checkpoint.folder import CheckpointFolder
from ironloom.checkpoint.manifest import FileEntry, verify
from ironloom.checkpoint.publish import publish_files
from ironloom.device import seed_everything
from ironloom.errors import CheckpointError, ConfigError, DataError, ResourceError
from ironloom.models.build import builds_decoder
from ironloom.models.deferred import give_weights
from ironloom.parallel.environment import DistributedEnvironment
from ironloom.parallel.team import Team, make_team
from ironloom.settings.dream.device import DeviceParameters
from ironloom.settings.training import TrainingArguments, arguments_of
from ironloom.trainer.publishing import publish_together
from ironloom.trainer.saving import Saving
from ironloom.trainer.snapshot import Snapshot, is_model_folder, write_model
from ironloom.trainer.types import ExtensibleTrainer

logger = logging.getLogger("ironloom")


class BaseTrainer(ExtensibleTrainer):
    """Common ground of the trainers.

    Args:
        model: The model; required unless ``model_init`` is given.
        args: Training arguments, or a dict of them.
        data_collator: Makes a batch of a list of samples; default: stacks, or pads with ``processing_class``.
        train_dataset: Map-style or iterable data to train on.
        eval_dataset: Data to evaluate on, or a dict of several.
        processing_class: Tokenizer or processor; saved with the model.
        model_init: Makes the model; called anew by each ``train()``.
        callbacks: Callback instances or classes.
        tokenizer: Deprecated name of ``processing_class``.

    Raises:
        AssertionError: If there is neither a model nor a ``model_init``.
        ConfigError: (a ``ValueError``) for arguments that are wrong or do not fit each other.
    """

    #: How several processes share the work; without it each holds a copy of the model.
    device_parameters: DeviceParameters | None = None

    #: Whether several processes may begin with a decoder without weights, of which each then draws its part.
    _draws_parts = True

    def __init__(
        self,
        model: nn.Module | None = None,
        args: dict[str, Any] | TrainingArguments | None = None,
        data_collator: Callable[[list[Any]], Any] | None = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: Any = None,
        model_init: Callable[..., nn.Module] | None = None,
        callbacks: list[Any] | None = None,
        tokenizer: Any = None,
    ):
        assert model is not None or model_init is not None, "a trainer needs a model or a model_init"
        if model is not None and model_init is not None:
            raise ConfigError("give either model or model_init: with both it is unclear which one is trained")
        if tokenizer is not None:
            warnings.warn("tokenizer= is deprecated, use processing_class=", DeprecationWarning, stacklevel=3)
            processing_class = processing_class if processing_class is not None else tokenizer
        if model is not None and not isinstance(model, nn.Module):
            raise ConfigError(f"model must be a torch.nn.Module, found {type(model).__name__}")
        self.args = arguments_of(TrainingArguments, args)
        self.data_collator = data_collator
        self.train_dataset = train_dataset
        self.eval_dataset = eval_dataset
        self.processing_class = processing_class
        self.model_init = model_init
        self.state = TrainerState()
        self.control = TrainerControl()
        self.environment = DistributedEnvironment(use_cpu=self.args.use_cpu)
        self.device = self.environment.device
        self._team: Team | None = None
        self._tell_place()
        self.model: nn.Module = model if model is not None else self._new_model()
        defaults = [MetricsWriter] if self.args.disable_tqdm else [MetricsWriter, ProgressCallback]
        self.callback_handler = CallbackHandler([*defaults, *trackers(self.args), *(callbacks or [])])
        self.optimizer: Any = None
        self.lr_scheduler: Any = None
        self.train_dataloader: Any = None
        self.eval_dataloader: Any = None
        self.saving = Saving(self)
        self.at_step = 0
        self.best_checkpoint_before: str | None = None

    # Processes

    @property
    def team(self) -> Team:
        """The processes of this run; they meet when it is first asked for.

        Raises:
            ConfigError: If ``device_parameters`` do not fit their number.
        """
        if self._team is None:
            self._team = make_team(self.environment, self.device_parameters)
        return self._team

    def phase(self, name: str, step: int) -> None:
        """What the loop begins to do, for those who watch over several processes; they put a method of theirs in its place.

        Args:
            name: ``data``, ``forward``, ``optimizer``, ``log``, ``evaluate`` or ``save``.
            step: Number of the optimizer step, from 1; never less than before.
        """

    def _tell_place(self) -> None:
        """Write into the state whether this process speaks for all."""
        self.state.is_world_process_zero = self.environment.is_main_process
        self.state.is_local_process_zero = self.environment.is_local_main_process

    # Callbacks

    def add_callback(self, callback: Any) -> None:
        """Add a callback; a class is instantiated."""
        self.callback_handler.add(callback)

    def pop_callback(self, callback: Any) -> Any | None:
        """Remove and return a callback, given itself or its class; None if there is none."""
        return self.callback_handler.pop(callback)

    def remove_callback(self, callback: Any) -> None:
        """Remove a callback, given itself or its class."""
        self.callback_handler.pop(callback)

    def emit(self, event: str, **kwargs: Any) -> None:
        """Fire an event of :data:`ironloom.callbacks.EVENTS`."""
        if not self.callback_handler.handles(event):
            return
        self.control = self.callback_handler.call(
            event,
            self.args,
            self.state,
            self.control,
            model=self.unwrapped_model(),
            processing_class=self.processing_class,
            optimizer=self.optimizer,
            lr_scheduler=self.lr_scheduler,
            train_dataloader=self.train_dataloader,
            eval_dataloader=self.eval_dataloader,
            **kwargs,
        )

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Complete a record with the epoch, keep it in ``state.log_history`` and give it to the callbacks.

        Args:
            logs: Names and values.
            start_time: Taken for compatibility with transformers; the progress display measures speed.
        """
        record = {**{name: _plain(value) for name, value in logs.items()}, "epoch": self.state.epoch}
        if self.args.include_num_input_tokens_seen not in (False, "no"):
            record["num_input_tokens_seen"] = self.state.num_input_tokens_seen
        self.state.log_history.append({**record, "step": self.state.global_step})
        self.emit("on_log", logs=record)

    def warn(self, message: str) -> None:
        """Tell the user, once for all processes, about something that went wrong but does not end the run."""
        if self.environment.is_main_process:
            logger.warning(message)

    # Models on disk

    def unwrapped_model(self) -> nn.Module:
        """The model without wrappers of distributed training or compilation."""
        return self.model

    def save_model(self, output_dir: os.PathLike[str] | str | None = None) -> None:
        """Write weights, configuration and tokenizer to a folder, by default the run's.

        The files replace older ones only when all of them are written.

        Raises:
            ResourceError: If the disk is full or the folder cannot be written.
        """

        folder = Path(output_dir or self.args.output_dir)
        give_weights(self.unwrapped_model(), self.device)
        if self.team.is_alone:
            publish_files(folder, lambda staging: write_model(self.unwrapped_model(), self.processing_class, staging))
        else:
            publish_together(self.unwrapped_model(), self.processing_class, folder, self.team.peers)

    def push_to_hub(self, repo_id: str, commit_message: str = "End of training", token: str | None = None) -> str:
        """Save the model and upload it to the Hugging Face hub; checkpoints and logs stay here.

        Args:
            repo_id: ``user/name``; made, private, if it does not exist.
            commit_message: What the hub shows of this upload.
            token: Access token; by default the one that is logged in.

        Returns:
            The address of the commit.

        Raises:
            ResourceError: If the hub cannot be reached or refuses.
        """
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

        self.save_model()
        self.emit("on_push_begin")
        hub = HfApi(token=token)
        try:
            hub.create_repo(repo_id, private=True, exist_ok=True)
            ignored = ["checkpoints/*", "logs/*", ".*"]
            commit = hub.upload_folder(
                repo_id=repo_id, folder_path=Path(self.args.output_dir), commit_message=commit_message, ignore_patterns=ignored
            )
        except (OSError, HfHubHTTPError, OfflineModeIsEnabled) as error:
            raise ResourceError(f"{repo_id} could not be uploaded: {error}; the model is in {self.args.output_dir}") from error
        return str(commit.commit_url)

    def model_exists(self, output_dir: os.PathLike[str] | str) -> bool:
        """Whether a folder holds the weights of a model."""
        return is_model_folder(output_dir)

    def _new_model(self) -> nn.Module:
        assert self.model_init is not None, "only called when there is a model_init"
        seed_everything(self.args.seed)
        if self._draws_parts and self.environment.world_size > 1 and builds_decoder(self.model_init):
            model = self.model_init(on_meta=True)
        else:
            model = self.model_init()
        if not isinstance(model, nn.Module):
            raise ConfigError(f"model_init must return a torch.nn.Module, it returned {type(model).__name__}")
        return model

    # Checkpoints

    @property
    def checkpoints(self) -> CheckpointFolder:
        """The checkpoints of this run."""
        return CheckpointFolder(Path(self.args.output_dir, "checkpoints"))

    def _resolve_checkpoint_path(self) -> str | None:
        """The checkpoint that ``resume_from_checkpoint`` stands for; None: start fresh.

        Raises:
            FileNotFoundError: For a path that does not exist.
            CheckpointError: For a path whose checkpoint is damaged.
        """
        wanted = self.args.resume_from_checkpoint
        if wanted is False:
            return None
        if wanted is True:
            latest = self._find_latest_checkpoint()
            if latest is None:
                logger.info("there is no checkpoint in %s to go on from: training starts fresh", self.checkpoints.root)
            return latest
        path = Path(wanted)
        if not path.exists():
            raise FileNotFoundError(f"resume_from_checkpoint: there is no {path}")
        if not (path / "manifest.json").exists():
            nested = path / "checkpoints" if (path / "checkpoints").is_dir() else path
            found = self._find_latest_checkpoint(str(nested))
            if found is None:
                raise CheckpointError(f"resume_from_checkpoint: there is no complete checkpoint in {path}")
            return found
        damages = verify(path, deep=True)
        if damages:
            raise CheckpointError(f"resume_from_checkpoint: {path} is damaged: {'; '.join(damages)}")
        return str(path)

    def _find_latest_checkpoint(self, checkpoints_dir: str | None = None) -> str | None:
        """The newest checkpoint whose every file is as its manifest says, by recorded time.

        Args:
            checkpoints_dir: Where to look; default: ``OUTPUT_DIR/checkpoints``.

        Returns:
            Its path, or None. Damaged ones are passed over with a warning.
        """
        folder = self.checkpoints if checkpoints_dir is None else CheckpointFolder(checkpoints_dir)
        latest = folder.latest(self.warn)
        return None if latest is None else str(latest.path)

    def _validate_checkpoint(self, checkpoint_path: str) -> bool:
        """Whether a checkpoint is complete and undamaged."""
        return not verify(Path(checkpoint_path), deep=True)

    def _save_checkpoint(self) -> str:
        """Save a checkpoint in the foreground and apply ``save_total_limit``.

        Returns:
            Its path.

        Raises:
            SaveFailed: If it cannot be written; nothing half-written stays.
        """
        self.saving.settle()
        step, info, retain = self.state.global_step, self.saving.info(), self.saving.retention()
        if self.team.is_alone:
            path = self.checkpoints.save(step, self._write_checkpoint, info)
        else:
            path = self._save_together(step, info)
        self.team.on_first(retain)
        return str(path)

    def save_in_training(self, at_once: bool = False) -> str | None:
        """Save a checkpoint, in the background with ``async_save``; a failure is a warning and costs only that checkpoint.

        Args:
            at_once: In the foreground in any case.

        Returns:
            Its path if it is complete.
        """
        return self.saving.save(at_once)

    @abstractmethod
    def _snapshot(self) -> Snapshot:
        """What a checkpoint holds of this run."""

    @abstractmethod
    def _save_together(self, step: int, info: dict[str, Any]) -> Path:
        """Save a checkpoint of several processes, each of which calls this; its path."""

    @abstractmethod
    def _write_checkpoint(self, folder: Path) -> dict[str, FileEntry]:
        """Put the files of a checkpoint into a staging folder; what is known of them."""


def _plain(value: Any) -> Any:
    """A number of NumPy or PyTorch as Python's own, so that every record can be written; anything else as it is."""
    single = isinstance(value, np.generic) or (isinstance(value, torch.Tensor) and value.numel() == 1)
    return value.item() if single else value


def check_not_empty(dataset: Any, what: str) -> None:
    """Refuse a data set without samples.

    Raises:
        DataError: If it is empty.
    """
    try:
        size = len(dataset)
    except TypeError:
        return
    if size == 0:
        raise DataError(f"{what} is empty")
