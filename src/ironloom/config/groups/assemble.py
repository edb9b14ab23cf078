"""The graph of a grouped configuration: which key becomes which argument. The one place that knows it."""

from __future__ import annotations

import dataclasses
from typing import Any

from ironloom.config import secrets
from ironloom.config.graph import Graph, Node, Path, Step, dotted
from ironloom.config.groups.gathered import DATA_FILE, DEFAULT, Gathered
from ironloom.config.groups.rules import Groups
from ironloom.config.sourced import Sourced, settle
from ironloom.settings.base import Settings, field_names
from ironloom.settings.model import ModelConfig

ATTRIBUTE = "ironloom.config.targets:attribute"


class _Keys:
    """Values of the groups with their origins, by ``group.key``."""

    def __init__(self, groups: Groups, found: Gathered):
        self._groups = groups
        self._found = found

    def __call__(self, path: str) -> Sourced:
        """The value of ``group.key``."""
        value = self._value(path)
        return self._deep(value.to_dict() if isinstance(value, Settings) else value, tuple(path.split(".")))

    def _deep(self, value: Any, path: Path) -> Sourced:
        """A value with its origin, and likewise everything inside it."""
        origin = self._found.origin(path)
        if path in self._found.secrets:
            text, typed = self._found.secrets[path]
            inside: Any = secrets.reference(text, typed=typed, origin=origin)
        elif isinstance(value, dict):
            inside = {name: self._deep(child, (*path, name)) for name, child in value.items()}
        elif isinstance(value, list):
            inside = [self._deep(child, (*path, index)) for index, child in enumerate(value)]
        else:
            inside = value
        return Sourced(inside, origin, self._found.steps(path), (_shown(path),))

    def derived(self, value: Any, *paths: str) -> Sourced:
        """A value that follows from keys; its origin is that of the first that was given.

        What each of the keys says is what "stood there before".
        """
        places: list[Path] = [tuple(path.split(".")) for path in paths]
        origins = [self._found.origin(place) for place in places]
        origin = next((origin for origin in origins if origin != DEFAULT), DEFAULT)
        said = [Step(f"{path} = {self._value(path)!r}", origin) for path, origin in zip(paths, origins, strict=True)]
        route = "default" if origin == DEFAULT else "derived"
        return Sourced(value, dataclasses.replace(origin, route=route), said, tuple(map(_shown, places)))

    def settled(self, value: Any, path: str, *others: str) -> Sourced:
        """The value of a key that was given, or else one that is derived from it and others."""
        is_own = self._found.given(*path.split(".")) and self._value(path) == value
        return self(path) if is_own else self.derived(value, path, *others)

    def _value(self, path: str) -> Any:
        group, _, key = path.partition(".")
        return getattr(getattr(self._groups, group), key)


def _shown(path: Path) -> str:
    """A key as the user writes it."""
    return dotted(("data", *path[1:]) if path[0] == DATA_FILE else path)


def assemble(groups: Groups, found: Gathered) -> Graph:
    """The graph of valid groups; ``main`` is the trainer."""
    key = _Keys(groups, found)
    data = _data(groups, found, key)
    tokenizer = _node(ATTRIBUTE, data, "tokenizer", name="tokenizer")
    arguments = _arguments(groups, key)
    model = _model(key, tokenizer)
    optimizer = _optimizer(groups, key)
    schedule = _schedule(key)
    main = _node(
        "ironloom.trainer:Trainer",
        model_init=model,
        args=arguments,
        data_collator=_node("ironloom.data:collate_blocks", mode="partial"),
        train_dataset=_node(ATTRIBUTE, data, "train"),
        eval_dataset=_node(ATTRIBUTE, data, "eval") if groups.trainer.do_eval else key.derived(None, "trainer.do_eval"),
        processing_class=tokenizer,
        optimizer_factory=optimizer,
        lr_scheduler_factory=schedule,
        callbacks=_callbacks(groups, key),
    )
    return settle(
        {
            "log_level": key("utils.log_level"),
            "trainer_args": arguments,
            "data": data,
            "model": model,
            "optimizer": optimizer,
            "lr_scheduler": schedule,
            "main": main,
            "test_dataset": _node(ATTRIBUTE, data, "test"),
        }
    )


def _node(target: str, *args: Any, mode: Any = "call", name: str | None = None, **kwargs: Any) -> Node:
    fixed = tuple(arg if isinstance(arg, Node) else Sourced(arg, DEFAULT) for arg in args)
    return Node(target, mode, fixed, kwargs, name)


def _data(groups: Groups, found: Gathered, key: _Keys) -> Node:
    # The size of a vocabulary that is loaded is its own: only one that somebody wrote is held against it.
    is_trained = groups.model.tokenizer_type == "bbpe" and groups.model.vocab_name_or_path is None
    is_given = found.origin(("data", "vocab_size")).route != "default"
    return _node(
        "ironloom.data:PretrainData",
        train_datasets=key("data.train_datasets"),
        eval_datasets=key("data.eval_datasets"),
        test_datasets=key("data.test_datasets"),
        splits=key("data.splits"),
        eval_samples=key("operation.eval_samples"),
        test_samples=key("operation.test_samples"),
        seq_length=key("data_file.seq_length") if groups.data_file.seq_length else key("model.max_seq_len"),
        tokenizer_type=key("model.tokenizer_type"),
        vocab_name_or_path=key("model.vocab_name_or_path"),
        vocab_size=key("data.vocab_size") if is_trained or is_given else key.derived(None, "data.vocab_size"),
        cache_dir=key("data_file.preprocessed_dir"),
        name="data",
    )


def _model(key: _Keys, tokenizer: Node) -> Node:
    shape: dict[str, Any] = {name: key(f"model.{name}") for name in field_names(ModelConfig)}
    return _node(
        "ironloom.models:build_decoder",
        mode="partial",
        config=_node("ironloom.settings:ModelConfig", **shape),
        vocab_size=_node(ATTRIBUTE, tokenizer, "vocab_size"),
        eos_token_id=_node(ATTRIBUTE, tokenizer, "eos_token_id"),
        vocab_padding_unit=key("trainer.vocab_padding_unit"),
        seed=key("init.seed"),
        init_std=key("init.init_std"),
        xavier_init=key("init.xavier_init"),
    )


def _optimizer(groups: Groups, key: _Keys) -> Node:
    targets = {"adam": "ironloom.optim:adamw", "adamw": "ironloom.optim:adamw"}
    return _node(
        targets[groups.optim.optimizer],
        mode="partial",
        lr=key("optim.max_lr"),
        betas=[key("optim.adam_beta1"), key("optim.adam_beta2")],
        eps=key("optim.adam_eps"),
        weight_decay=key("optim.weight_decay"),
        no_decay_on_embedding=key("optim.no_decay_on_embedding"),
    )


def _schedule(key: _Keys) -> Node:
    return _node(
        "ironloom.optim:warmup_anneal",
        mode="partial",
        kind=key("optim.lr_scheduler"),
        warmup_steps=key("optim.warmup_steps"),
        annealing_steps=key("optim.annealing_steps"),
        min_lr=key("optim.min_lr"),
        total_steps=key("operation.train_steps"),
    )


def _callbacks(groups: Groups, key: _Keys) -> list[Node]:
    utils, callbacks = groups.utils, []
    if utils.tensorboard_dir is not None:
        folder = f"{utils.tensorboard_dir}/{groups.trainer.model_name}"  # a run of its own in TensorBoard
        writer = key.derived(folder, "utils.tensorboard_dir", "trainer.model_name")
        callbacks.append(_node("ironloom.callbacks:TBLogger", summary_writer=writer))
    if utils.mlflow_tracking_uri is not None or utils.mlflow_experiment_name is not None:
        places: dict[str, Any] = {"tracking_uri": key("utils.mlflow_tracking_uri"), "experiment_name": key("utils.mlflow_experiment_name")}
        callbacks.append(_node("ironloom.callbacks:MLflowLogger", **places, run_name=key("trainer.model_name")))
    for is_wanted, name in ((utils.profile_torch, "ProfileCallback"), (utils.profile_nsys, "NsightCallback")):
        if is_wanted:
            steps: dict[str, Any] = {"step_start": key("utils.profile_step_start"), "step_end": key("utils.profile_step_end")}
            callbacks.append(_node(f"ironloom.callbacks:{name}", **steps, ranks=key("utils.profile_ranks")))
    return callbacks


def _arguments(groups: Groups, key: _Keys) -> Node:
    trainer, operation, sizes = groups.trainer, groups.operation, groups.batch
    folder = trainer.model_path or f"output/{trainer.model_name}"
    micro, total, accumulation = (
        "trainer.micro_batch_size",
        "trainer.train_batch_size",
        "trainer.gradient_accumulation_steps",
    )
    kernel = "auto" if trainer.use_flash_attn else "math"
    return _node(
        "ironloom.settings:TrainingArguments",
        output_dir=key.settled(folder, "trainer.model_path", "trainer.model_name"),
        max_steps=key("operation.train_steps"),
        per_device_train_batch_size=key.settled(sizes.micro, micro, total, accumulation),
        per_device_eval_batch_size=key.settled(
            trainer.eval_batch_size or sizes.micro, "trainer.eval_batch_size", micro, total, accumulation
        ),
        gradient_accumulation_steps=key.settled(sizes.accumulation, accumulation, total, micro),
        seed=key("init.seed"),
        bf16=key.derived(groups.model.precision == "bfloat16", "model.precision"),
        fp16=key.derived(groups.model.precision == "float16", "model.precision"),
        max_grad_norm=key("optim.clip_grad"),
        attention_kernel=key.derived(kernel, "trainer.use_flash_attn"),
        deterministic=key("utils.deterministic"),
        dataloader_num_workers=key("trainer.num_workers"),
        logging_steps=key("trainer.log_interval"),
        grad_norm_log_interval=key("trainer.grad_norm_log_interval"),
        param_norm_log_interval=key("trainer.param_norm_log_interval"),
        report_memory=key("utils.report_memory_usage"),
        eval_strategy=key.derived("steps" if trainer.do_eval else "no", "trainer.do_eval"),
        eval_steps=key("operation.eval_interval"),
        eval_on_start=key("trainer.do_eval"),
        save_strategy=key.derived("no" if operation.no_save else "steps", "operation.no_save"),
        save_steps=key("trainer.save_checkpoint_steps"),
        remove_unused_columns=Sourced(False, DEFAULT),
        save_optimizer_state=Sourced(True, DEFAULT),
        save_scheduler_state=Sourced(True, DEFAULT),
        resume_from_checkpoint=Sourced(True, DEFAULT),
        restore_optimizer_state=key("optim.load_checkpoint_optim_state"),
        restore_scheduler_state=key("optim.load_checkpoint_lr_scheduler"),
        exit_steps=key("operation.exit_interval"),
    )
