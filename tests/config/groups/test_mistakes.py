"""Mistakes in grouped configurations: each with its place and what was probably meant, all of them together."""

import pytest

from config.grouped import problems


def test_mistakes_are_reported_together_with_place_and_suggestion(write):
    path = write(
        """\
        trainer:
          micro_batch_sise: 4
          max_lr: 1e-3
        optim:
          warmup_steps: many
          adam_beta1: 1.5
        opration:
          train_steps: 10
        model: {positional_embedding: {type: rope, bse: 1}}
        data:
          train_datasets: [python-docs]
          train_datasets: [python-stdlib]
        """
    )
    assert problems(path, ["utils.log_level=LOUD"]) == [
        f"{path}:2:3: trainer.micro_batch_sise: unknown key (did you mean 'micro_batch_size'?)",
        f"{path}:3:3: trainer.max_lr: max_lr belongs to optim (write it as optim.max_lr)",
        f"{path}:5:17: optim.warmup_steps: expected a whole number, found 'many'",
        f"{path}:6:15: optim.adam_beta1: expected a number less than 1.0, found 1.5",
        f"{path}:7:1: opration: there is no group 'opration' (did you mean 'operation'?)",
        f"{path}:9:44: model.positional_embedding.bse: unknown key (did you mean 'base'?)",
        f"{path}:12:3: data.train_datasets: the key stands here and in line 11 (keep one of them)",
        "command line: utils.log_level: expected one of 'DEBUG', 'INFO', 'WARNING', 'ERROR' or 'CRITICAL', found 'LOUD'",
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("max_lr: 1\ndata: {}\n", "1:1: max_lr: max_lr belongs to optim (write it as optim.max_lr)"),
        ("trainer: {max_lrr: 1}\n", "1:11: trainer.max_lrr: unknown key (did you mean 'max_lr' of optim?)"),
        ("trainer: [1]\n", "1:10: trainer: expected a mapping of keys or the name of a preset, found [1]"),
        ("trainer: {num_workers: true}\n", "1:24: trainer.num_workers: expected a whole number, found True"),
        ("trainer: {do_eval: yes}\n", "1:20: trainer.do_eval: expected true or false, found 'yes'"),
        ("optim: {max_lr: .inf}\n", "1:17: optim.max_lr: expected a finite number, found inf"),
        ("optim: {max_lr: 1e-4, min_lr: 1e-3}\n", "1:31: optim.min_lr: 0.001 is more than max_lr 0.0001"),
        ("optim: {optimizer: adamm}\n", "1:20: optim.optimizer: expected one of 'adam', 'adamw', 'adam_l2', 'adamw_8bit', 'sgd'"),
        ("data: {splits: [0.5, 0.6, 0]}\n", "expected three shares whose sum is 1, found [0.5, 0.6, 0.0]"),
        ("data: {splits: [0.5, 0.5]}\n", "expected three shares"),
        ("utils: {profile_torch: true, profile_step_end: 9}\n", "1:48: utils.profile_step_end: 9 is before profile_step_start 10"),
        ("utils: {profile_ranks: []}\n", "utils.profile_ranks: expected at least one process"),
        (
            "trainer: {tensor_model_parallel_size: 3}\n",
            "model.num_attention_heads: 8 is not a multiple of trainer.tensor_model_parallel_size",
        ),
        (
            "trainer: {tensor_model_parallel_size: 4}\nmodel: {num_attention_groups: 2}\n",
            "2:31: model.num_attention_groups: 2 is not a multiple of trainer.tensor_model_parallel_size 4",
        ),
        ("data: {vocab_size: 200}\nmodel: {tokenizer_type: bbpe, vocab_name_or_path: null}\n", "1:20: data.vocab_size: a byte-level"),
        ("data: {vocab_size: 200}\nmodel: {tokenizer_type: byte}\n", "1:20: data.vocab_size: the byte tokenizer has 257 tokens"),
        (
            "model: {type: rope}\n",
            "1:9: model.type: type belongs to model.positional_embedding (write it as model.positional_embedding.type)",
        ),
        ("optim: {learning_rate: 1}\n", "1:9: optim.learning_rate: unknown key (here it is called optim.max_lr)"),
        ("logging_steps: 1\ndata: {}\n", "1:1: logging_steps: there is no group 'logging_steps' (here it is called trainer.log_interval)"),
        ("data: {text_column: a}\n", "text_column belongs to an entry of data.train_datasets"),
        ("max_lrr: 1\ndata: {}\n", "1:1: max_lrr: there is no group 'max_lrr' (did you mean optim.max_lr?)"),
        ("data: {train_datasets: [{path: a}]}\n", "data.train_datasets.0.path: unknown key"),
        ("data: {train_datasets: [{source: a, dataset_path: a}]}\n", "not both"),
        ("data: {train_datasets: [{source: a, messages_column: m}]}\n", "data.train_datasets.0.messages_column: has no effect on pretrain"),
        ("data: {train_datasets: [5]}\n", "1:24: data.train_datasets"),
        ("data: {}\n", "1:7: data.train_datasets: nothing to train on (for example: train_datasets: [python-docs])"),
        ("model: {num_attention_groups: 3}\n", "1:31: model.num_attention_groups: 3 groups do not divide 8 heads"),
        ("operation: {train_steps: 5}\noptim: {warmup_steps: 6}\n", "2:23: optim.warmup_steps: the warm-up of 6 steps is longer"),
        ("model: {tokenizer_type: llama, vocab_name_or_path: null}\n", "a llama tokenizer is loaded, not trained"),
        ("data: {train_datasets: [a], splits: [1, 0, 0]}\ntrainer: {do_eval: true}\n", "nothing to evaluate on"),
    ],
)
def test_mistakes(write, text, expected):
    path = write(text)
    assert any(expected in problem.removeprefix(f"{path}:") for problem in problems(path))
