"""``transformers.TrainingArguments`` in the words of groups: what each key means there, or why it is not taken."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from ironloom.config.migrate import Migrated
from ironloom.settings.base import field_names, mapping_problems
from ironloom.settings.groups import GROUPS
from ironloom.settings.training import TrainingArguments

#: What the keys that are taken are in transformers when nobody sets them.
DEFAULTS: dict[str, Any] = {
    "per_device_train_batch_size": 8,
    "gradient_accumulation_steps": 1,
    "learning_rate": 5e-5,
    "weight_decay": 0.0,
    "adam_beta1": 0.9,
    "adam_beta2": 0.999,
    "adam_epsilon": 1e-8,
    "max_grad_norm": 1.0,
    "max_steps": -1,
    "lr_scheduler_type": "linear",
    "logging_steps": 500,
    "save_steps": 500,
    "seed": 42,
    "dataloader_num_workers": 0,
    "bf16": False,
    "fp16": False,
}
#: Defaults of transformers that say nothing about a run; with any other value they are listed.
SILENT: dict[str, tuple[Any, ...]] = {
    "average_tokens_across_devices": (True,),
    "dataloader_in_order": (True,),
    "dataloader_pin_memory": (True,),
    "ddp_timeout": (1800,),
    "do_eval": (True,),
    "do_train": (True,),
    "eval_do_concat_batches": (True,),
    "hub_strategy": ("every_save",),
    "hub_token": ("<HUB_TOKEN>",),
    "length_column_name": ("length",),
    "local_rank": (0, -1),
    "log_level": ("passive",),
    "log_level_replica": ("warning",),
    "log_on_each_node": (True,),
    "logging_nan_inf_filter": (True,),
    "logging_strategy": ("steps",),
    "past_index": (-1,),
    "project": ("huggingface",),
    "push_to_hub_token": ("<PUSH_TO_HUB_TOKEN>",),
    "remove_unused_columns": (True,),
    "report_to": ("none", ["none"]),
    "save_safetensors": (True,),
    "skip_memory_metrics": (True,),
    "trackio_space_id": ("trackio",),
    "train_sampling_strategy": ("random",),
}
#: Why some keys are not taken.
REASONS = {
    "accelerator_config": "there is one engine for groups, which has nothing of the kind",
    "logging_dir": "the records are in the logs folder of the run",
    "report_to": "trackers are keys of utils, such as tensorboard_dir",
    "run_name": "a run is named by its folder",
}
#: Keys that are taken as they are.
RENAMED = {
    "output_dir": "trainer.model_path",
    "per_device_train_batch_size": "trainer.micro_batch_size",
    "per_device_eval_batch_size": "trainer.eval_batch_size",
    "gradient_accumulation_steps": "trainer.gradient_accumulation_steps",
    "dataloader_num_workers": "trainer.num_workers",
    "learning_rate": "optim.max_lr",
    "weight_decay": "optim.weight_decay",
    "adam_beta1": "optim.adam_beta1",
    "adam_beta2": "optim.adam_beta2",
    "adam_epsilon": "optim.adam_eps",
    "max_grad_norm": "optim.clip_grad",
    "seed": "init.seed",
}
#: Keys that count steps, or are a share of all steps if less than 1.
INTERVALS = {
    "logging_steps": "trainer.log_interval",
    "save_steps": "trainer.save_checkpoint_steps",
    "eval_steps": "operation.eval_interval",
    "warmup_steps": "optim.warmup_steps",
    "warmup_ratio": "optim.warmup_steps",
}
SCHEDULES = {
    "linear": "linear",
    "cosine": "cosine",
    "constant": "constant",
    "constant_with_warmup": "constant",
    "inverse_sqrt": "inverse_sqrt",
}
OPTIMIZERS = {
    "adamw_torch": "adamw",
    "adamw_torch_fused": "adamw",
    "adamw_hf": "adamw",
    "adamw_8bit": "adamw_8bit",
    "adamw_bnb_8bit": "adamw_8bit",
}
KNOWN = {*RENAMED, *INTERVALS, *DEFAULTS, "eval_strategy", "evaluation_strategy", "save_strategy", "optim", "num_train_epochs"}
_NOTHING: tuple[Any, ...] = (None, False, "", "no", [], {})


def training_arguments(given: Mapping[str, Any]) -> Migrated:
    """The groups that mean what ``transformers.TrainingArguments`` mean."""
    found = _Arguments(given)
    found.run()
    return found.made


class _Arguments:
    """One migration of ``TrainingArguments``: its values, and what they become."""

    def __init__(self, given: Mapping[str, Any]):
        self._given = given
        self._values = {**DEFAULTS, **given}
        self.made = Migrated()

    def run(self) -> None:
        """Take every key that has a counterpart, list the others."""
        for key, place in RENAMED.items():
            if key in self._values:
                self._set(key, place, self._values[key])
        self._steps()
        for key, place in INTERVALS.items():
            is_said_twice = key == "warmup_ratio" and self._values.get("warmup_steps")
            if self._values.get(key) not in (*_NOTHING, 0) and not is_said_twice:
                self._interval(key, place)
        for key, rule in self._rules().items():
            if key in self._values:
                rule(key, self._values[key])
        self._set("weight_decay", "optim.no_decay_on_embedding", False)
        handled = {*RENAMED, *INTERVALS, *self._rules(), "max_steps", "bf16", "fp16"}
        for key, value in self._given.items():
            if key not in handled and value not in _NOTHING and value not in SILENT.get(key, ()):
                self._leave(key, value, _reason(key))
        self.made.notes.append("Say what to train on: data.train_datasets; and describe the model: model.")

    def _rules(self) -> dict[str, Callable[[str, Any], None]]:
        return {
            "lr_scheduler_type": self._schedule,
            "optim": self._optimizer,
            "eval_strategy": self._evaluation,
            "evaluation_strategy": self._evaluation,
            "save_strategy": self._saving,
            "num_train_epochs": self._epochs,
        }

    def _steps(self) -> None:
        steps = self._values["max_steps"]
        if isinstance(steps, int) and steps > 0:
            self._set("max_steps", "operation.train_steps", steps)
        else:
            self.made.notes.append("Say how long to train: operation.train_steps counts optimizer steps, not epochs.")
        if self._values["bf16"] and self._values["fp16"]:
            self._leave("fp16", True, "bf16 is set too")
        precision = "bfloat16" if self._values["bf16"] else "float16" if self._values["fp16"] else "float32"
        self._set("bf16", "model.precision", precision)

    def _interval(self, key: str, place: str) -> None:
        value, steps = self._values[key], self._values["max_steps"]
        if isinstance(value, float) and value < 1:
            if not (isinstance(steps, int) and steps > 0):
                self._leave(key, value, f"a share of an unknown number of steps; set {place}")
                return
            value = math.ceil(value * steps)
        elif isinstance(value, float) and value.is_integer():
            value = int(value)
        if key == "eval_steps" and self._values.get("eval_strategy", self._values.get("evaluation_strategy", "no")) != "steps":
            return
        self._set(key, place, value)

    def _schedule(self, key: str, value: Any) -> None:
        if value in SCHEDULES:
            self._set(key, "optim.lr_scheduler", SCHEDULES[value])
        else:
            self._leave(
                key,
                value,
                "groups have of these " + ", ".join(dict.fromkeys(SCHEDULES.values())),
            )

    def _optimizer(self, key: str, value: Any) -> None:
        if value in OPTIMIZERS:
            self._set(key, "optim.optimizer", OPTIMIZERS[value])
        else:
            self._leave(key, value, "groups have of these adamw, adamw_8bit")

    def _evaluation(self, key: str, value: Any) -> None:
        if value in ("steps", "no"):
            self._set(key, "trainer.do_eval", value == "steps")
        else:
            self._leave(key, value, "groups evaluate every operation.eval_interval steps")

    def _saving(self, key: str, value: Any) -> None:
        if value in ("steps", "no"):
            self._set(key, "operation.no_save", value == "no")
        else:
            self._leave(key, value, "groups save every trainer.save_checkpoint_steps steps")

    def _epochs(self, key: str, value: Any) -> None:
        if key in self._given and self._values["max_steps"] in (-1, 0, None):
            self._leave(key, value, "groups count optimizer steps")

    def _set(self, key: str, place: str, value: Any) -> None:
        """Take a value, unless the group refuses it."""
        group, _, name = place.partition(".")
        if value is None:
            return
        problems = mapping_problems(GROUPS[group], {name: value})
        refused = [problem for problem in problems if problem.path == name]
        if refused:
            self._leave(key, value, f"{place}: {refused[0].message}")
        else:
            self.made.groups.setdefault(group, {})[name] = value

    def _leave(self, key: str, value: Any, why: str) -> None:
        self.made.left_out.append((key, value, why))


def _reason(key: str) -> str:
    if key in REASONS:
        return REASONS[key]
    if key in field_names(TrainingArguments):
        return f"groups have no such key; trainer_args.{key} of a run.yaml does it"
    return "there is no key of this meaning"
