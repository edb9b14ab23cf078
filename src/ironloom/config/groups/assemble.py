"""The graph of a grouped configuration: which key becomes which argument. The one place that knows it."""

from __future__ import annotations

from typing import Any

from ironloom.config.graph import Graph, Node
from ironloom.config.groups.devices import devices_of, precision_of
from ironloom.config.groups.gathered import DEFAULT, Gathered
from ironloom.config.groups.keys import Keys
from ironloom.config.groups.optimization import optimizer_of, schedule_of
from ironloom.config.groups.rules import Groups
from ironloom.config.sourced import Sourced, settle
from ironloom.settings.model import DOCUMENTS, shape_names

ATTRIBUTE = "ironloom.config.targets:attribute"


def assemble(groups: Groups, found: Gathered) -> Graph:
    """The graph of valid groups; ``main`` is the trainer."""
    key = Keys(groups, found)
    data = _data(groups, found, key)
    tokenizer = _node(ATTRIBUTE, data, "tokenizer", name="tokenizer")
    precision = precision_of(groups, key)
    arguments = _arguments(groups, key, precision)
    model = _model(groups, key, tokenizer, precision)
    optimizer = optimizer_of(groups, key)
    schedule = schedule_of(groups, key)
    devices = devices_of(groups, key)
    spread: dict[str, Any] = {} if devices is None else {"device_parameters": devices}
    test = _node(ATTRIBUTE, data, "test")
    trainer, preference = _trainer(groups, key, test)
    main = _node(
        trainer,
        model_init=model,
        args=arguments,
        data_collator=_collator(groups, key, data, tokenizer),
        train_dataset=_node(ATTRIBUTE, data, "train"),
        eval_dataset=_node(ATTRIBUTE, data, "eval") if groups.trainer.do_eval else key.derived(None, "trainer.do_eval"),
        processing_class=tokenizer,
        optimizer_factory=optimizer,
        lr_scheduler_factory=schedule,
        callbacks=_callbacks(groups, key),
        **preference,
        **spread,
    )
    return settle(
        {
            "log_level": key("utils.log_level"),
            "trainer_args": arguments,
            "data": data,
            "model": model,
            "optimizer": optimizer,
            "lr_scheduler": schedule,
            **spread,
            "main": main,
            "test_dataset": test,
        }
    )


def _node(target: str, *args: Any, mode: Any = "call", name: str | None = None, **kwargs: Any) -> Node:
    fixed = tuple(arg if isinstance(arg, Node) else Sourced(arg, DEFAULT) for arg in args)
    return Node(target, mode, fixed, kwargs, name)


def _trainer(groups: Groups, key: Keys, test: Node) -> tuple[str, dict[str, Any]]:
    """The trainer of a task, and what it takes besides."""
    if groups.data.task != "dpo":
        return "ironloom.trainer:Trainer", {}
    options = {name: key(f"data.dpo_{name}") for name in ("loss", "beta", "label_smoothing")}
    return "ironloom.trainer:PreferenceTrainer", {**options, "test_dataset": test, "reference_cache": key("data_file.preprocessed_dir")}


def _data(groups: Groups, found: Gathered, key: Keys) -> Node:
    # The size of a vocabulary that is loaded is its own: only one that somebody wrote is held against it.
    is_trained = groups.model.tokenizer_type == "bbpe" and groups.model.vocab_name_or_path is None
    is_given = found.origin(("data", "vocab_size")).route != "default"
    target, options = "ironloom.data:PretrainData", {"packing": key("data.packing"), **_documents(key, *DOCUMENTS)}
    if groups.data.task != "pretrain":
        names = ["chat_template", "chat_template_arguments", "too_long", *(["train_on", "packing"] if groups.data.task == "sft" else [])]
        target = "ironloom.data:SFTData" if groups.data.task == "sft" else "ironloom.data:DPOData"
        options = {name: key(f"data.{name}") for name in names}
    return _node(
        target,
        **options,
        train_datasets=key("data.train_datasets"),
        eval_datasets=key("data.eval_datasets"),
        test_datasets=key("data.test_datasets"),
        splits=key("data.splits"),
        eval_samples=key("operation.eval_samples"),
        test_samples=key("operation.test_samples"),
        seq_length=key("data_file.seq_length") if groups.data_file.seq_length else key("model.max_seq_len"),
        tokenizer_type=key("model.tokenizer_type"),
        vocab_name_or_path=_vocabulary(groups, found, key),
        vocab_size=key("data.vocab_size") if is_trained or is_given else key.derived(None, "data.vocab_size"),
        cache_dir=key("data_file.preprocessed_dir"),
        num_workers=key("data_file.num_workers"),
        special_tokens=key("data_file.special_tokens_config_path"),
        name="data",
    )


def _collator(groups: Groups, key: Keys, data: Node, tokenizer: Node) -> Node:
    # Conversations that share a row are kept apart in any case; of texts that are not, samples hold nothing that could be used.
    is_apart = groups.data.task == "pretrain" and (groups.model.reset_position_ids or groups.model.reset_attention_mask)
    apart = _documents(key, "reset_position_ids", "reset_attention_mask") if is_apart else {}
    is_packed = groups.data.packing == "best_fit"
    if groups.data.task == "pretrain" and not is_packed:
        return _node("ironloom.data:collate_blocks", mode="partial", **apart)
    # Slices of sequences and pipelines want rows of one length.
    fixed = groups.data.pad_to_max_length or groups.trainer.pipeline_model_parallel_size > 1 or is_packed
    length = _node(ATTRIBUTE, data, "seq_length")
    padding = _node(ATTRIBUTE, tokenizer, "pad_token_id") if groups.data.pad_token_id < 0 else key("data.pad_token_id")
    return _node(
        "ironloom.data:collate_pairs" if groups.data.task == "dpo" else "ironloom.data:collate_rows",
        mode="partial",
        pad_token_id=padding,
        length=length if fixed else key.derived(None, "data.pad_to_max_length"),
        **apart,
    )


def _documents(key: Keys, *names: str) -> dict[str, Any]:
    """What becomes of documents that share a row."""
    return {name: key(f"model.{name}") for name in names}


def _vocabulary(groups: Groups, found: Gathered, key: Keys) -> Sourced:
    """Where the tokenizer is loaded from: with a loaded model it is that model's, if no key says another."""
    if groups.model.name_or_path is None or found.given("model", "vocab_name_or_path"):
        return key("model.vocab_name_or_path")
    return key.derived(groups.model.name_or_path, "model.name_or_path")


def _model(groups: Groups, key: Keys, tokenizer: Node, precision: Sourced) -> Node:
    if groups.model.name_or_path is not None:
        return _loaded_model(groups, key, tokenizer)
    shape: dict[str, Any] = {name: key(f"model.{name}") for name in shape_names()}
    shape["precision"] = precision
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


def _loaded_model(groups: Groups, key: Keys, tokenizer: Node) -> Node:
    return _node(
        "ironloom.models:load_pretrained",
        mode="partial",
        name_or_path=key("model.name_or_path"),
        from_scratch=key("model.from_scratch"),
        vocab_size=_node(ATTRIBUTE, tokenizer, "vocab_size"),
        max_seq_len=key("model.max_seq_len"),
        lora=key("model.lora") if groups.model.lora.r else key.derived(None, "model.lora"),
    )


def _callbacks(groups: Groups, key: Keys) -> list[Node]:
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


def _arguments(groups: Groups, key: Keys, precision: Sourced) -> Node:
    trainer, operation, sizes = groups.trainer, groups.operation, groups.batch
    folder = trainer.model_path or f"output/{trainer.model_name}"
    micro, total, accumulation = (
        "trainer.micro_batch_size",
        "trainer.train_batch_size",
        "trainer.gradient_accumulation_steps",
    )
    kernel = "flex" if trainer.use_flash_attn == "flex" else "auto" if trainer.use_flash_attn else "math"
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
        bf16=key.derived(precision.value == "bfloat16", *precision.keys),
        fp16=key.derived(precision.value == "float16", *precision.keys),
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
        save_dist_ckpt=key("operation.save_dist_ckpt"),
        fsdp_state_dict_type=key("parallel.fsdp_state_dict_type"),
        exit_steps=key("operation.exit_interval"),
    )
