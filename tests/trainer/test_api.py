"""The Python API of the specification: names, signatures, defaults, return values, exceptions."""

from __future__ import annotations

import inspect
import subprocess
import sys
import warnings
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch

import ironloom
import ironloom.trainer
from ironloom import BaseTrainer, Trainer, TrainerControl, TrainerState, TrainingArguments, TrainOutput
from tiny import tiny_lm, uneven_samples, weights

NAMES = [
    "AbstractBaseTrainer",
    "ExtensibleTrainer",
    "BaseTrainer",
    "Trainer",
    "TrainingArguments",
    "TrainerState",
    "TrainerControl",
    "TrainOutput",
]

DEFAULTS: dict[str, Any] = {
    "output_dir": "tmp_trainer",
    "logging_dir": None,
    "num_train_epochs": 1,
    "max_steps": -1,
    "per_device_train_batch_size": 16,
    "per_device_eval_batch_size": 16,
    "logging_steps": 500,
    "logging_strategy": "steps",
    "eval_steps": 500,
    "eval_strategy": "no",
    "save_steps": 500,
    "save_strategy": "steps",
    "save_total_limit": 2,
    "resume_from_checkpoint": False,
    "save_optimizer_state": False,
    "save_scheduler_state": False,
    "restore_optimizer_state": True,
    "restore_scheduler_state": True,
    "torch_compile": False,
    "torch_compile_backend": "inductor",
    "torch_compile_mode": None,
    "dataloader_num_workers": 0,
    "dataloader_pin_memory": True,
    "dataloader_drop_last": False,
    "learning_rate": 5e-5,
    "weight_decay": 0.0,
    "adam_beta1": 0.9,
    "adam_beta2": 0.999,
    "adam_epsilon": 1e-8,
    "warmup_steps": 0,
    "lr_scheduler_type": "linear",
}


@pytest.mark.parametrize("name", NAMES)
def test_importable_from_the_top_and_from_the_module(name: str) -> None:
    assert getattr(ironloom, name) is getattr(ironloom.trainer, name)


def test_modules_that_the_specification_names() -> None:
    from ironloom.base_trainer import BaseTrainer as base
    from ironloom.trainer_types import AbstractBaseTrainer, ExtensibleTrainer

    assert issubclass(Trainer, base) and issubclass(base, ExtensibleTrainer) and issubclass(ExtensibleTrainer, AbstractBaseTrainer)


@pytest.mark.parametrize("cls", ["AbstractBaseTrainer", "ExtensibleTrainer", "BaseTrainer"])
def test_abstract_classes_stay_abstract(cls: str) -> None:
    with pytest.raises(TypeError, match="abstract"):
        getattr(ironloom, cls)(tiny_lm()) if cls == "BaseTrainer" else getattr(ironloom, cls)()


@pytest.mark.parametrize(("name", "default"), DEFAULTS.items())
def test_default_of_every_argument(name: str, default: Any) -> None:
    value = getattr(TrainingArguments(), name)
    assert value == default
    assert type(value) is type(default) or name == "num_train_epochs"


def test_arguments_take_the_folder_first() -> None:
    assert TrainingArguments("somewhere").output_dir == "somewhere"


def test_names_that_users_of_transformers_reach_for() -> None:
    import transformers

    ours = {field.name for field in fields(TrainingArguments)}
    wanted = """
        gradient_accumulation_steps max_grad_norm seed data_seed bf16 fp16 eval_on_start load_best_model_at_end
        metric_for_best_model greater_is_better dataloader_prefetch_factor dataloader_persistent_workers logging_first_step
        include_num_input_tokens_seen warmup_ratio lr_scheduler_kwargs use_cpu remove_unused_columns label_names
    """.split()  # noqa: SIM905
    assert set(wanted) <= ours
    assert {"compute_metrics", "compute_loss_func"} <= set(inspect.signature(Trainer).parameters)
    theirs = transformers.TrainingArguments(output_dir="x", use_cpu=True, report_to="none")
    for name in set(wanted) - {"warmup_ratio", "use_cpu", "include_num_input_tokens_seen", "lr_scheduler_kwargs", "bf16", "fp16"}:
        assert getattr(TrainingArguments(), name) == getattr(theirs, name), name


def test_signature_of_the_base_constructor() -> None:
    parameters = inspect.signature(BaseTrainer).parameters
    assert list(parameters) == [
        "model", "args", "data_collator", "train_dataset", "eval_dataset", "processing_class", "model_init", "callbacks", "tokenizer",
    ]  # fmt: skip
    assert all(parameter.default is None for parameter in parameters.values())


def test_arguments_as_a_dict(tmp_path: Path) -> None:
    trainer = Trainer(tiny_lm(), {"output_dir": tmp_path, "max_steps": 1})
    assert trainer.args == TrainingArguments(tmp_path, max_steps=1)


def test_train_output(tmp_path: Path) -> None:
    trainer = Trainer(tiny_lm(), {"output_dir": tmp_path, "max_steps": 2, "disable_tqdm": True}, train_dataset=uneven_samples())
    output = trainer.train()
    step, loss, metrics = output
    assert isinstance(output, TrainOutput) and TrainOutput._fields == ("global_step", "training_loss", "metrics")
    assert step == 2 and 0 < loss < 10
    assert metrics["train_runtime"] > 0 and metrics["train_steps_per_second"] > 0
    assert metrics["train_loss"] == loss


def test_tokenizer_is_a_deprecated_processing_class(tmp_path: Path) -> None:
    class Words:
        def save_pretrained(self, folder: Path) -> None:
            Path(folder, "words.txt").write_text("a b c")

    words = Words()
    with pytest.warns(DeprecationWarning, match="processing_class"):
        trainer = Trainer(tiny_lm(), {"output_dir": tmp_path}, tokenizer=words)
    assert trainer.processing_class is words
    trainer.save_model()
    assert (tmp_path / "words.txt").read_text() == "a b c"


@pytest.mark.parametrize("style", ["called", "iterated"])
def test_optimizer_factory(style: str, tmp_path: Path) -> None:
    def factory(named_parameters: Any) -> torch.optim.Optimizer:
        found = named_parameters() if style == "called" else named_parameters
        names = [name for name, _ in found]
        assert names == [name for name, _ in tiny_lm().named_parameters()]
        return torch.optim.SGD([parameter for _, parameter in named_parameters], lr=1e-3)

    args = {"output_dir": tmp_path, "max_steps": 1, "disable_tqdm": True, "save_strategy": "no"}
    trainer = Trainer(tiny_lm(), args, train_dataset=uneven_samples(), optimizer_factory=factory)
    trainer.train()
    assert type(trainer.optimizer) is torch.optim.SGD


def test_factories_as_the_specification_prints_them(tmp_path: Path) -> None:
    def optimizer_factory(named_parameters: Any) -> torch.optim.Optimizer:
        return torch.optim.AdamW(named_parameters(), lr=1e-3, weight_decay=0.01)

    def lr_scheduler_factory(optimizer: torch.optim.Optimizer) -> Any:
        return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=1000)

    trainer = Trainer(
        model=tiny_lm(),
        args=TrainingArguments(tmp_path, max_steps=2, disable_tqdm=True, save_optimizer_state=True, save_scheduler_state=True),
        train_dataset=uneven_samples(),
        optimizer_factory=optimizer_factory,
        lr_scheduler_factory=lr_scheduler_factory,
    )
    trainer.train()
    assert trainer.lr_scheduler.last_epoch == 2
    assert trainer.optimizer.param_groups[0]["weight_decay"] == 0.01


def test_optimizer_cls_and_kwargs(tmp_path: Path) -> None:
    args = {"output_dir": tmp_path, "max_steps": 1, "disable_tqdm": True, "save_strategy": "no"}
    trainer = Trainer(
        tiny_lm(), args, train_dataset=uneven_samples(), optimizer_cls_and_kwargs=(torch.optim.RMSprop, {"lr": 0.5, "alpha": 0.9})
    )
    trainer.train()
    assert type(trainer.optimizer) is torch.optim.RMSprop
    assert trainer.optimizer.defaults["alpha"] == 0.9


def test_default_optimizer_and_schedule_equal_those_of_transformers(tmp_path: Path) -> None:
    """AdamW with the arguments' values, no decay on norms and biases, linear to zero: the same weights after five steps."""
    import transformers

    config = transformers.GPT2Config(vocab_size=31, n_embd=16, n_layer=1, n_head=2, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0)
    samples = uneven_samples(8)
    args = {
        "per_device_train_batch_size": 8,
        "max_steps": 5,
        "learning_rate": 0.01,
        "weight_decay": 0.1,
        "adam_beta2": 0.9,
        "adam_epsilon": 1e-6,
        "warmup_steps": 2,
        "disable_tqdm": True,
        "save_strategy": "no",
    }
    found = []
    for package in (transformers, ironloom):
        torch.manual_seed(0)
        model = transformers.GPT2LMHeadModel(config)
        options = {**args, "report_to": "none", "use_cpu": True}
        arguments = package.TrainingArguments(output_dir=str(tmp_path), **options)
        package.Trainer(model=model, args=arguments, train_dataset=samples).train()
        found.append(weights(model))
    for name in found[0]:
        torch.testing.assert_close(found[1][name], found[0][name], rtol=1e-4, atol=1e-5)


def test_state_and_control() -> None:
    state, control = TrainerState(), TrainerControl()
    assert (state.epoch, state.global_step, state.log_history) == (0.0, 0, [])
    assert state.is_local_process_zero and state.is_world_process_zero
    for name in ("max_steps", "logging_steps", "eval_steps", "save_steps", "train_batch_size", "num_train_epochs"):
        assert name in {field.name for field in fields(TrainerState)}
    assert vars(control) == dict.fromkeys(
        ("should_training_stop", "should_epoch_stop", "should_save", "should_evaluate", "should_log"), False
    )


def test_state_of_a_run(tmp_path: Path) -> None:
    args = {"output_dir": tmp_path, "num_train_epochs": 2, "per_device_train_batch_size": 4, "disable_tqdm": True, "save_strategy": "no"}
    trainer = Trainer(tiny_lm(), args, train_dataset=uneven_samples(20))
    trainer.train()
    state = trainer.state
    assert (state.max_steps, state.num_train_epochs, state.train_batch_size, state.epoch) == (10, 2, 4, 2.0)
    state.save_to_json(tmp_path / "state.json")
    assert TrainerState.load_from_json(tmp_path / "state.json").log_history == state.log_history


def test_checkpoint_methods(tmp_path: Path) -> None:
    args = {"output_dir": tmp_path, "max_steps": 4, "save_steps": 2, "disable_tqdm": True}
    trainer = Trainer(tiny_lm(), args, train_dataset=uneven_samples())
    assert trainer._find_latest_checkpoint() is None
    assert trainer._resolve_checkpoint_path() is None
    assert not trainer.model_exists(tmp_path)
    trainer.train()
    latest = str(tmp_path / "checkpoints" / "checkpoint-4")
    assert trainer._find_latest_checkpoint() == trainer._find_latest_checkpoint(str(tmp_path / "checkpoints")) == latest
    assert trainer._validate_checkpoint(latest)
    trainer.args.resume_from_checkpoint = True
    assert trainer._resolve_checkpoint_path() == latest
    assert trainer._save_checkpoint() == latest
    (Path(latest) / "model.safetensors").unlink()
    assert not trainer._validate_checkpoint(latest)
    assert trainer._resolve_checkpoint_path() == str(tmp_path / "checkpoints" / "checkpoint-2")
    trainer.save_model()
    assert trainer.model_exists(tmp_path)
    trainer.save_model(tmp_path / "elsewhere")
    assert trainer.model_exists(tmp_path / "elsewhere")
    assert trainer.unwrapped_model() is trainer.model


def test_log_adds_epoch_and_tells_callbacks(tmp_path: Path) -> None:
    trainer = Trainer(tiny_lm(), {"output_dir": tmp_path})
    trainer.log({"x": 1.0})
    assert trainer.state.log_history == [{"x": 1.0, "epoch": 0.0, "step": 0}]


def test_a_stock_model_dataset_tokenizer_and_collator(tmp_path: Path) -> None:
    """Nothing is adapted: a datasets.Dataset with columns the model does not know, padding by the collator."""
    import datasets
    import tokenizers
    import transformers

    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel({"[PAD]": 0, "a": 1, "b": 2, "c": 3, "[UNK]": 4}, unk_token="[UNK]"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]")
    texts = ["a b c", "a", "b c a b", "c c"] * 4
    data = datasets.Dataset.from_dict({"text": texts, **tokenizer(texts, return_token_type_ids=False)})
    config = transformers.LlamaConfig(
        vocab_size=5, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, num_key_value_heads=1
    )
    trainer = Trainer(
        model=transformers.LlamaForCausalLM(config),
        args=TrainingArguments(tmp_path, per_device_train_batch_size=4, max_steps=8, learning_rate=0.05, disable_tqdm=True),
        data_collator=transformers.DataCollatorForLanguageModeling(tokenizer, mlm=False),
        train_dataset=data,
        eval_dataset=data,
        processing_class=tokenizer,
    )
    before = trainer.evaluate()["eval_loss"]
    trainer.train()
    assert trainer.evaluate()["eval_loss"] < before
    trainer.save_model()
    read = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    assert transformers.AutoTokenizer.from_pretrained(tmp_path)("a b")["input_ids"] == [1, 2]
    assert all(torch.equal(value, read.state_dict()[name]) for name, value in trainer.model.state_dict().items())


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = "import sys, ironloom; ironloom.TrainingArguments; print([m for m in ('torch', 'transformers', 'datasets') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_training_imports_no_compiler_and_no_transformers(tmp_path: Path) -> None:
    """Two seconds at every start: torch's compiler would come with torch's own AdamW."""
    code = f"""
import sys; sys.path.insert(0, {str(Path(__file__).parents[1])!r})
from tiny import tiny_lm, uneven_samples
from ironloom import Trainer
Trainer(tiny_lm(), {{"output_dir": {str(tmp_path)!r}, "max_steps": 2}}, train_dataset=uneven_samples(4)).train()
print([m for m in ("torch._dynamo", "sympy", "transformers", "datasets", "accelerate") if m in sys.modules])
"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_no_warnings_in_ordinary_use(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        args = {"output_dir": tmp_path, "max_steps": 2, "save_optimizer_state": True, "save_scheduler_state": True}
        Trainer(tiny_lm(), args, train_dataset=uneven_samples()).train()
