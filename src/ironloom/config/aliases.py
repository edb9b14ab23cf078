"""The dotted paths of the specification's systems, and what is ours for each. The one table; knows nothing of graphs.

Configurations may name ``forgather.ml.trainer:Trainer`` or ``dream_trainer.configs:DeviceParameters``: the readers
replace such targets by ours. Names are kept; only where they stand differs.
"""

from __future__ import annotations

# By module; the longest one that a path begins with decides, and what follows it is kept.
MODULES = {
    "forgather": "ironloom",
    "forgather.config": "ironloom.config",
    "forgather.project": "ironloom.config.projects",
    "forgather.ml": "ironloom",
    "forgather.ml.base_trainer": "ironloom.trainer.base_trainer",
    "forgather.ml.trainer_types": "ironloom.trainer_types",
    "forgather.ml.accel_trainer": "ironloom.trainer",
    "forgather.ml.pipeline_trainer": "ironloom.trainer",
    "forgather.ml.training_arguments": "ironloom.settings",
    "forgather.ml.trainer": "ironloom.trainer",
    "forgather.ml.trainer.trainer": "ironloom.trainer",
    "forgather.ml.trainer.base_trainer": "ironloom.trainer.base_trainer",
    "forgather.ml.trainer.trainer_types": "ironloom.trainer_types",
    "forgather.ml.trainer.accelerate": "ironloom.trainer",
    "forgather.ml.trainer.pipeline": "ironloom.trainer",
    "forgather.ml.trainer.callbacks": "ironloom.callbacks",
    "forgather.ml.callbacks": "ironloom.callbacks",
    "forgather.ml.default_callbacks": "ironloom.callbacks",
    "forgather.ml.tb_logger": "ironloom.callbacks",
    "forgather.ml.json_logger": "ironloom.callbacks",
    "forgather.ml.textgen_callback": "ironloom.callbacks",
    "forgather.ml.distributed": "ironloom.parallel",
    "forgather.ml.optim": "ironloom.optim",
    "forgather.ml.optim.infinite_lr_scheduler": "ironloom.optim",
    "forgather.ml.optim.adamw": "ironloom.optim",
    "dream_trainer": "ironloom",
    "dream_trainer.configs": "ironloom.configs",
    "dream_trainer.callbacks": "ironloom.callbacks",
    "dream_trainer.trainer": "ironloom.trainer",
    "dream_trainer.trainer.mixins": "ironloom.trainer",
}

# Names that a module of ours only hands on, and the module that defines them: what is plain data is named there,
# so that it can be looked at without importing a trainer.
HOMES = {
    "ironloom.settings": (
        "TrainingArguments",
        "AccelTrainingArguments",
        "PipelineTrainingArguments",
        "ModelConfig",
        "DeviceParameters",
        "Comm",
    ),
    "ironloom.trainer": (
        "AbstractBaseTrainer",
        "AccelTrainer",
        "BaseTrainer",
        "EvalPrediction",
        "ExtensibleTrainer",
        "PipelineTrainer",
        "PredictionOutput",
        "TrainOutput",
        "Trainer",
    ),
    "ironloom.trainer.dream": ("DreamTrainer",),
    "ironloom.callbacks": (
        "CallbackCollection",
        "CheckpointCallback",
        "JsonLogger",
        "LoggerCallback",
        "ProfileCallback",
        "ProgressCallback",
        "TBLogger",
        "TextgenCallback",
        "TrainerCallback",
        "TrainerControl",
        "TrainerState",
    ),
    "ironloom.models": ("Decoder", "build_decoder"),
    "ironloom.config.projects": ("from_project",),
    "ironloom.parallel": ("DistributedEnvironment", "main_process_first"),
}
_HOME = {name: module for module, names in HOMES.items() for name in names}
# Modules that only gather names.
_GATHERING = (
    "ironloom",
    "ironloom.configs",
    "ironloom.trainer",
    "ironloom.trainer.base_trainer",
    "ironloom.trainer_types",
    "ironloom.base_trainer",
)


def resolve(module: str) -> str:
    """The module of ours for a module of another system; any other module is given back."""
    for end in range(len(module), 0, -1):
        head = module[:end]
        if head in MODULES and module[end : end + 1] in ("", "."):
            return MODULES[head] + module[end:]
    return module


def canonical(target: str) -> str:
    """The target of ours for ``module:attribute``; one that is ours already has its defining module.

    A target in a Python file (``/folder/file.py:attribute``) is given back.
    """
    module, colon, attribute = target.partition(":")
    if not colon or module.startswith("/"):
        return target
    module = resolve(module)
    if module in _GATHERING:
        module = _HOME.get(attribute.partition(".")[0], module)
    return f"{module}:{attribute}"
