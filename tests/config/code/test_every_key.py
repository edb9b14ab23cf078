"""No dead key, and no mistake that passes: every field of every class of configuration in code, one at a time."""

import ast
import dataclasses
import itertools
import random
import string

import pytest

from ironloom import configs
from ironloom.config import check, code, tagged
from ironloom.configs import BaseConfig
from ironloom.errors import ConfigError

# How a configuration holds each class.
HOLDERS = {
    "TrainingParameters": "training_parameters={}",
    "CheckpointParameters": "checkpoint_parameters={}",
    "DeviceParameters": "device_parameters={}",
    "Comm": "device_parameters=DeviceParameters(comm={})",
    "WandBParameters": "project='p', logging_parameters={}",
    "LoggingParameters": "logging_parameters={}",
}
# Another value for fields whose type does not tell one; more than one where a value may need another one beside it.
OTHERS = {
    "project": "project='x'", "group": "group='x'", "experiment": "experiment='x'", "callbacks": "callbacks=[JsonLogger()]",
    "model": "model=print", "optimizer": "optimizer=print", "lr_scheduler": "lr_scheduler=print",
    "data": "data=DataParameters(train_datasets=['x.txt'])", "train_dataset": "train_dataset=print, model=print",
    "eval_dataset": "eval_dataset=print, train_dataset=print, model=print",
    "data_collator": "data_collator=print, train_dataset=print, model=print",
    "processing_class": "processing_class=print, train_dataset=print, model=print",
    "trainer_args": "trainer_args={'adam_beta1': 0.5}",
    "training_parameters": "training_parameters=TrainingParameters(n_epochs=3)",
    "device_parameters": "device_parameters=DeviceParameters(compile_model=True)",
    "checkpoint_parameters": "checkpoint_parameters=CheckpointParameters(keep_top_k=7)",
    "logging_parameters": "logging_parameters=WandBParameters()",
    "mode": "mode='max'", "root_dir": "root_dir='x'", "monitor": "monitor='val_accuracy'", "resume_path": "resume_path='x'",
    "resume_mode": "resume_mode='best'", "entity": "entity='x'", "notes": "notes='x'", "tags": "tags=['x']",
    "param_dtype": "param_dtype='float16'", "activation_dtype": "activation_dtype='float16'", "reduce_dtype": "reduce_dtype='float16'",
    "comm": "comm=Comm(trace_buf_size=3)", "lr_scheduler_name": "lr_scheduler='linear'", "log_level": "log_level='ERROR'",
    "context_parallel_rotate_method": "context_parallel_rotate_method='alltoall'", "dp_replicate": "dp_replicate=2",
    "data_parallel_size": "data_parallel_size=2", "backend": "backend='gloo'",
    "tensor_parallel_size": "tensor_parallel_size=2", "pipeline_parallel_size": "pipeline_parallel_size=2",
    "context_parallel_size": "context_parallel_size=2",
}  # fmt: skip
# With a single process nothing more than 'auto' can follow from these.
NEEDS = {
    "async_tensor_parallel": "async_tensor_parallel=True, compile_model=True",
    "recompute": "recompute='selective', checkpoint_activations=True",
}


@pytest.fixture(autouse=True)
def trackers(monkeypatch):
    """The tracker's package need not be there."""
    monkeypatch.setattr("ironloom.callbacks.wandb_logger.require", lambda *names: None)


def fields():
    for name in configs.__all__:
        cls = getattr(configs, name)
        if issubclass(cls, BaseConfig) and cls is not BaseConfig and name != "WandbLoggingParameters":
            yield from ((name, field) for field in dataclasses.fields(cls))


def other(cls, field):
    """The text of arguments that set a field to something else than its default."""
    if field.name in NEEDS:
        return NEEDS[field.name]
    if (cls, field.name) == ("TrainingParameters", "lr_scheduler"):
        return OTHERS["lr_scheduler_name"]
    if field.name in OTHERS:
        return OTHERS[field.name]
    default = field.default
    if isinstance(default, bool):
        return f"{field.name}={not default}"
    if isinstance(default, float):
        return f"{field.name}={default / 2 or 0.25}"
    return f"{field.name}={(default or 0) + 3}"


def outcome(write, cls, arguments):
    """The run that a configuration stands for, as text; or that it is refused by the field's name."""
    made = f"{cls}({arguments})" if cls in HOLDERS else arguments
    text = f"DreamTrainerConfig({HOLDERS.get(cls, '{}').format(made)})"
    try:
        return tagged.dump(code.load(write(f"from ironloom.callbacks import JsonLogger\nconfig = {text}\n")))
    except ConfigError as error:
        return str(error)


def test_every_field_changes_the_run_or_is_refused_by_name(write):
    seen, dead = 0, []
    for cls, field in fields():
        seen += 1
        before, after = outcome(write, cls, ""), outcome(write, cls, other(cls, field))
        is_refused = "log_level: " not in after
        if before == after or (is_refused and field.name not in after):
            dead.append((cls, field.name, after if is_refused else "no change"))
    assert dead == []
    assert seen >= 90


SAMPLE = """
config = DreamTrainerConfig(
    project="p", group="g", experiment="e", seed=7, log_level="WARNING", init_std=0.03, xavier_init=True,
    model=ModelConfig(num_layers=1, d_model=32, head_dim=16, max_seq_len=32, precision="float32", no_bias=True, dropout_attn=0.0),
    data=DataParameters(train_datasets=["text.txt"], splits=[0.9, 0.1, 0.0], vocab_size=300),
    device_parameters=DeviceParameters(
        compile_model=True, param_dtype="float32", error_if_nonfinite=False, data_parallel_size=1, tensor_parallel_size=1,
        dp_shard=1, dp_replicate=1, loss_parallel=False, checkpoint_activations=False, offload_optimizer=False),
    training_parameters=TrainingParameters(
        n_epochs=2, train_steps_per_epoch=50, train_batch_size=4, val_batch_size=2, gradient_accumulation_steps=2,
        gradient_clip_val=0.5, val_frequency=1.0, val_steps_per_epoch=4, num_sanity_val_steps=2, learning_rate=1e-3, min_lr=1e-5,
        lr_scheduler="linear", warmup_steps=3, weight_decay=0.2, adam_beta1=0.8, adam_beta2=0.9, log_every_n_steps=2, num_workers=1),
    checkpoint_parameters=CheckpointParameters(
        root_dir="runs", monitor="val_loss", mode="min", checkpoint_every_n_steps=5, keep_top_k=3, save_last=True,
        resume_mode="latest", model_weights_only=True, resume_data=True),
)
"""


def edits(word, chance):
    """Words that one slip of the finger makes of ``word``."""
    at, letter = chance.randrange(len(word)), chance.choice(string.ascii_lowercase)
    yield word[:at] + word[at + 1 :]
    yield word[:at] + letter + word[at:]
    yield word[:at] + letter + word[at + 1 :]
    yield word[: max(at - 1, 0)] + word[at : at + 1] + word[max(at - 1, 0) : at] + word[at + 1 :]


def keywords():
    return [node for node in ast.walk(ast.parse(SAMPLE)) if isinstance(node, ast.keyword)]


def replaced(node, start, end, text):
    lines = SAMPLE.splitlines(keepends=True)
    line = lines[node.lineno - 1]
    lines[node.lineno - 1] = line[:start] + text + line[end:]
    return "".join(lines)


def test_misspelt_keywords_are_caught_and_the_right_one_is_suggested(write):
    chance, count, caught, suggested = random.Random(5), 0, 0, 0
    names = {node.arg for node in keywords()}
    for node, _ in itertools.product(keywords(), range(2)):
        for wrong in edits(node.arg, chance):
            if wrong in names or not wrong.isidentifier() or wrong == node.arg:
                continue
            count += 1
            start = node.col_offset
            path = write(replaced(node, start, start + len(node.arg), wrong))
            try:
                code.load(path)
            except ConfigError as error:
                caught += 1
                suggested += any(
                    f"did you mean '{node.arg}'" in str(problem) and f":{node.lineno + 1}:{start + 1}:" in str(problem)
                    for problem in error.problems
                )
    assert count > 300
    assert caught >= 0.99 * count
    assert suggested >= 0.95 * caught


def test_wrong_values_are_caught(write):
    missed, count = [], 0
    for node in keywords():
        if not isinstance(node.value, ast.Constant):
            continue
        start, end = node.value.col_offset, node.value.end_col_offset
        for wrong in ("'nonsense'", "-1", "[{}]", "3.7"):
            if (
                isinstance(node.value.value, str)
                and wrong == "'nonsense'"
                and node.arg in ("project", "group", "experiment", "root_dir", "monitor")
            ):
                continue
            if wrong == "3.7" and isinstance(node.value.value, float):
                continue
            if node.arg == "keep_top_k" and wrong == "-1":
                continue
            count += 1
            try:
                graph = code.load(write(replaced(node, start, end, wrong)))
            except ConfigError:
                continue
            if not check(graph):
                missed.append((node.arg, wrong))
    assert count > 150
    assert len(missed) <= 0.01 * count, missed


def test_the_sample_itself_is_right(write):
    assert check(code.load(write(SAMPLE))) == []
