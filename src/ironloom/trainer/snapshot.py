"""What a checkpoint holds of a run, and how a run takes it up again.

    model.safetensors, config.json      weights and shape, readable by others
    optimizer.json, .safetensors        optimizer state by parameter name   (save_optimizer_state)
    scheduler.json                      schedule state                      (save_scheduler_state)
    trainer_state.json                  state, progress, control, callbacks, loss scaler
    callbacks-rank-00001.json           callbacks of a further process, where they differ
    tokenizer files, run.yaml           so that the folder stands alone

No generator state is kept: every unit of work seeds itself (see ``ironloom.device``).
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ironloom.callbacks.handler import CallbackHandler
from ironloom.callbacks.state import TrainerControl, TrainerState
from ironloom.checkpoint.manifest import FileEntry
from ironloom.checkpoint.shared_folder import written
from ironloom.checkpoint.shared_tree import differing_parts, load_differing, tree_parts
from ironloom.checkpoint.tree import load_tree, opened_tree, pack
from ironloom.errors import CheckpointError, ConfigError
from ironloom.models.adapters import STEM, AdapterWeights, adapter_weights, has_adapters, save_config
from ironloom.settings.training import TrainingArguments
from ironloom.trainer.engine import NativeEngine
from ironloom.trainer.optimizer_state import by_name, fits, follow, load_by_name, load_schedule, merged_groups
from ironloom.trainer.progress import Progress
from ironloom.weights import load_weights
from ironloom.weights.names import raw_name
from ironloom.weights.parts import Part, weight_parts
from ironloom.weights.peers import ALONE, Peers
from ironloom.weights.sharded import local_part
from ironloom.weights.tensors import NATIVE, not_storable


@dataclasses.dataclass
class Snapshot:
    """The parts of a run that a checkpoint holds. Live objects; nothing is copied."""

    model: nn.Module
    engine: NativeEngine
    state: TrainerState
    control: TrainerControl
    progress: Progress
    callbacks: CallbackHandler
    args: TrainingArguments
    processing_class: Any = None

    def write(self, folder: Path) -> dict[str, FileEntry]:
        """Write every file of the checkpoint into a staging folder; for a process that is alone."""
        self.extras(folder)
        return {part.name: written(part, folder) for part in self.parts(ALONE)}

    def extras(self, folder: Path) -> None:
        """Write the files that are the same in every process and do not change with a step; one process does it."""
        write_companions(self.model, self.processing_class, folder)
        configuration = Path(self.args.output_dir, "run.yaml")
        if configuration.exists():
            shutil.copyfile(configuration, folder / "run.yaml")

    def parts(self, peers: Peers, *, hold: bool = False) -> Iterator[Part]:
        """The other files that this process writes. Every process of ``peers`` iterates over all of its own.

        Args:
            peers: Those that save together. Each writes a like share of the tensors, or the first all, as the arguments say.
            hold: Copy what the next step would change: the parts are written later.

        Raises:
            TypeError: In every process, if the state of one cannot be stored.
        """
        writers = None if self.args.all_write else (0,)
        yield from weight_parts(weights_of(self.model), peers, writers=writers, hold=hold, stem=stem_of(self.model))
        optimizer = self.engine.optimizer
        if self.args.save_optimizer_state and optimizer is not None:
            tree = merged_groups({**by_name(optimizer, self.model), "configured": self.engine.configured}, peers)
            yield from tree_parts(tree, "optimizer", peers, split="state", writers=writers, hold=hold)
        callbacks = peers.together(self.callbacks.state_dict)  # asked once: it is the user's code, and may count or cost
        yield from peers.together(lambda: self._common_trees(callbacks, hold) if peers.rank == 0 else [])
        yield from differing_parts(callbacks, "callbacks", peers)

    def _common_trees(self, callbacks: dict[str, Any], hold: bool) -> list[Part]:
        """What is the same in every process, and small."""
        rest = {
            "state": self.state.to_dict(),
            "progress": self.progress.to_dict(),
            "control": dataclasses.asdict(self.control),
            "callbacks": callbacks,
            "scaler": None if self.engine.scaler is None else self.engine.scaler.state_dict(),
        }
        parts = list(tree_parts(rest, "trainer_state", ALONE, hold=hold))
        if self.args.save_scheduler_state and self.engine.scheduler is not None:
            parts += tree_parts(self.engine.scheduler.state_dict(), "scheduler", ALONE, hold=hold)
        return parts

    def read(self, folder: Path, warn: Callable[[str], None], peers: Peers = ALONE) -> None:
        """Take up what a checkpoint holds, in place; what it lacks is said through ``warn``.

        Every process of ``peers`` calls this, and takes up its part of whatever processes have saved.

        Raises:
            CheckpointError: If the weights or the optimizer's parameters are not this model's.
        """
        read_weights(folder, self.model, peers)
        if not (folder / "trainer_state.json").exists():
            raise CheckpointError(f"{folder} holds weights but no trainer_state.json: it is a model, not a checkpoint to go on from")
        rest = load_tree(folder, "trainer_state")
        _assign(self.state, rest["state"])
        _assign(self.progress, rest["progress"])
        _assign(self.control, rest["control"])
        self._find_best(folder)
        for name in self.callbacks.load_state_dict(load_differing(folder, "callbacks", peers, rest["callbacks"])):
            warn(f"{folder} holds the state of a callback {name.split(':')[0]} that this run does not have")
        if self.engine.scaler is not None and rest["scaler"]:
            self.engine.scaler.load_state_dict(rest["scaler"])
        self._read_optimizer(folder, warn, peers)
        self._read_scheduler(folder, warn)

    def _find_best(self, folder: Path) -> None:
        """The best checkpoint lies beside this one, wherever the run's folder was moved since."""
        if self.state.best_model_checkpoint is not None:
            beside = folder.parent / Path(self.state.best_model_checkpoint).name
            if beside.is_dir():
                self.state.best_model_checkpoint = str(beside)

    def _read_optimizer(self, folder: Path, warn: Callable[[str], None], peers: Peers) -> None:
        optimizer = self.engine.optimizer
        if optimizer is None or not self.args.restore_optimizer_state:
            return
        if (folder / "optimizer.json").exists():
            configured = self.engine.configured
            with opened_tree(folder, "optimizer") as saved:
                groups = load_by_name(optimizer, self.model, saved, peers)
                then = [saved["configured"][index] for index in groups] if "configured" in saved else configured
            for change in follow(optimizer, configured, then):
                warn(f"{change}: the run goes on with the new value")
            return
        warn(
            f"{folder} has no optimizer state (it was saved with save_optimizer_state=False): the optimizer's moments "
            "start from zero, so this run does not repeat what an uninterrupted one would have done"
        )

    def _read_scheduler(self, folder: Path, warn: Callable[[str], None]) -> None:
        scheduler = self.engine.scheduler
        if scheduler is None:
            return
        if self.args.restore_scheduler_state:
            missing = "it was saved with save_scheduler_state=False"
            if (folder / "scheduler.json").exists():
                saved = load_tree(folder, "scheduler")
                if fits(scheduler, saved):
                    load_schedule(scheduler, saved)
                    return
                missing = "that of the process that saved it is one of other parameter groups"
            warn(f"{folder} has no scheduler state ({missing}): the schedule is moved to step {self.state.global_step} instead")
            with warnings.catch_warnings():
                # PyTorch warns of a schedule that moves before the optimizer does; here it is meant.
                warnings.simplefilter("ignore", UserWarning)
                for _ in range(self.state.global_step):
                    self.engine.schedule()


def check_storable(model: nn.Module, callbacks: CallbackHandler) -> None:
    """Refuse before training what the first save would refuse.

    Raises:
        ConfigError: If the model's ``state_dict`` holds something else than plain tensors.
        TypeError: If the state of a callback is not plain data, naming the place.
    """
    for name, value in model.state_dict().items():
        if not isinstance(value, torch.Tensor) or name.endswith("_extra_state"):
            raise ConfigError(
                f"the model cannot be saved: {name} (of get_extra_state) is no weight; keep it in a buffer, or set save_strategy to 'no'"
            )
        fault = not_storable(local_part(value)) or ("" if value.dtype in NATIVE else f"{value.dtype} has no place in safetensors")
        if fault and not value.is_meta:
            raise ConfigError(f"the model cannot be saved: {name}: {fault}; change it, or set save_strategy to 'no'")
    pack({"callbacks": callbacks.state_dict()})


def write_model(model: nn.Module, processing_class: Any, folder: Path) -> None:
    """Weights, the model's configuration if it has one, and the tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    for part in weight_parts(weights_of(model), ALONE, stem=stem_of(model)):
        part.write(folder)
        part.check(folder)
    write_companions(model, processing_class, folder)


def weights_of(model: nn.Module) -> dict[str, torch.Tensor]:
    """What is kept of a model, by raw names: its weights, or those of its adapters.

    The very tensors, so that tied ones are known even where a process has a part of each.
    """
    if has_adapters(model):
        return adapter_weights(model)
    return {raw_name(name): value for name, value in model.state_dict(keep_vars=True).items()}


def stem_of(model: nn.Module) -> str:
    """What the names of the files of :func:`weights_of` begin with."""
    return STEM if has_adapters(model) else "model"


def read_weights(folder: Path, model: nn.Module, peers: Peers) -> None:
    """Take up what was kept of a model; every process of ``peers`` calls this.

    Raises:
        CheckpointError: If it is not this model's.
    """
    kept = AdapterWeights(model) if has_adapters(model) else model
    load_weights(folder, kept, peers, stem=stem_of(model))


def write_companions(model: nn.Module, processing_class: Any, folder: Path) -> None:
    """The model's configuration if it has one, and the tokenizer; of adapters their own configuration."""
    if has_adapters(model):
        save_config(model, folder)
        model = nn.Module()
    for part in (getattr(model, "config", None), processing_class):
        save = getattr(part, "save_pretrained", None)
        if save is not None:
            save(folder)
    # Its own save_pretrained refuses combinations of settings that loading it only warns of; no reason to lose a run.
    write_generation = getattr(getattr(model, "generation_config", None), "to_json_file", None)
    if write_generation is not None:
        write_generation(folder / "generation_config.json")


def _assign(target: Any, values: dict[str, Any]) -> None:
    """Set the fields of a dataclass; fields that only one side has keep their value."""
    for field in dataclasses.fields(target):
        if field.name in values:
            setattr(target, field.name, values[field.name])


def is_model_folder(folder: str | os.PathLike[str]) -> bool:
    """Whether a folder holds model weights, in safetensors or in older formats."""
    names = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
    return any(Path(folder, name).is_file() for name in names)
