"""What a run reads: the group ``data``, the entries of its lists, and what a file of its own may say besides. Reads nothing.

A key whose feature does not exist yet is declared with its default and refused by name when it is set to anything else.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, Lt
from pydantic import FiniteFloat

from ironloom.errors import ConfigError, Problem
from ironloom.settings.base import Settings, setting
from ironloom.settings.model import Tokenizer
from ironloom.settings.parts import label_problems, ratio_problems

Count = Annotated[int, Ge(1)]
Share = Annotated[FiniteFloat, Ge(0), Le(1)]
Task = Literal["pretrain", "sft", "dpo"]
Datasets = list[str | dict[str, Any]] | None

_CONVERSATIONS = ("pad_to_max_length", "pad_token_id", "chat_template", "chat_template_arguments", "too_long")
_KEYS = {
    "pretrain": ("packing",),
    "sft": (*_CONVERSATIONS, "train_on", "packing"),
    "dpo": (*_CONVERSATIONS, "dpo_loss", "dpo_beta", "dpo_label_smoothing"),
}
_ENTRY_KEYS = {
    "pretrain": ("text_column",),
    "sft": ("messages_column", "chat_template"),
    "dpo": ("messages_column", "chat_template", "chosen_column", "rejected_column"),
}
LISTS = ("train_datasets", "eval_datasets", "test_datasets")


@dataclass
class DatasetEntry(Settings):
    """One dataset of a list of datasets."""

    name: str | None = setting(None, "A name to show; null: dataset_path.")
    dataset_path: str | None = setting(None, "A file, a folder, a Hugging Face id, or a built-in corpus.")
    source: str | None = setting(None, "The same under its other name.")
    task_type: Task | None = setting(None, "What it trains; null: what the run trains.")
    ratio: Annotated[FiniteFloat, Gt(0)] | None = setting(
        None, "train_datasets: share of the tokens, against the other datasets (1.0 where null); null in all: each once an epoch."
    )
    split: str = setting("train", "Split of a Hugging Face dataset.")
    subset: str | None = setting(None, "Configuration of a Hugging Face dataset.")
    text_column: str = setting("text", "Column or field that holds the text.")
    max_samples: Count | None = setting(None, "Read this many documents at most.")
    messages_column: str = setting("messages", "Column that holds a conversation as a list of messages.")
    chosen_column: str | None = setting(None, "Column of the preferred answer or conversation; null: chosen.")
    rejected_column: str | None = setting(None, "Column of the other one; null: rejected.")
    chat_template: str | None = setting(None, "data.chat_template, where the group does not say it.")
    output_path: str | None = setting(
        None, "Folder of this dataset's tokens.", planned="all prepared data is in one cache, see preprocessed_dir of a data file"
    )

    def problems(self) -> Iterable[Problem]:
        """What is wrong although every value is right alone."""
        if (self.dataset_path is None) == (self.source is None):
            yield Problem("needs dataset_path, or source for short, and not both", path="dataset_path")


@dataclass
class DataGroup(Settings):
    """What to read."""

    config_path: str | None = setting(None, "A file with data settings, below those that stand here; see data files.")
    task_type: Task | None = setting(None, "What to train; null: what the datasets say, else pretrain.")
    splits: list[Share] = setting(default_factory=lambda: [0.97, 0.029, 0.001], doc="Shares of training, evaluation and test data.")
    train_datasets: Datasets = setting(None, "Datasets to train on: names, paths or mappings with dataset_path.")
    eval_datasets: Datasets = setting(None, "Datasets to evaluate on; null: a split of the training data.")
    test_datasets: Datasets = setting(None, "Datasets to test on; null: a split of the training data.")
    vocab_size: Count = setting(51200, "Size of a vocabulary that is trained here; one that is loaded may not be larger, if this is given.")
    pad_to_max_length: bool = setting(False, "sft, dpo: fill up every row to the sequence length, not just to the longest of its batch.")
    pad_token_id: Annotated[int, Ge(-1)] = setting(-1, "sft, dpo: id of the padding; -1: the tokenizer's, else its end of text.")
    chat_template: str | None = setting(
        None, "sft, dpo: a file, or plain, raw or chatml, which come along; null: the template of the datasets, else of the tokenizer."
    )
    chat_template_arguments: dict[str, Any] | None = setting(None, "sft, dpo: variables for the template, such as enable_thinking.")
    train_on: Literal["all", "last"] = setting("all", "sft: all answers of a conversation, or the last one.")
    too_long: Literal["drop", "left", "right"] = setting(
        "right",
        "sft: leave rows out that are longer than a sequence, or cut that side off; they are counted. dpo: left cuts prompts; "
        "an answer is never cut.",
    )
    packing: Literal["none", "concat", "best_fit"] | None = setting(
        None,
        "pretrain: concat, texts end to end, cut into sequences, or best_fit, whole texts that share a sequence. sft: none, or "
        "best_fit, whole conversations that share one. null: concat, none.",
    )
    dpo_loss: Literal["sigmoid", "ipo", "hinge", "sigmoid_norm"] = setting(
        "sigmoid", "dpo: the loss; sigmoid_norm is sigmoid with log-probabilities averaged over the tokens of an answer."
    )
    dpo_beta: Annotated[FiniteFloat, Gt(0)] = setting(0.1, "dpo: how strongly the model is held to what it was before.")
    dpo_label_smoothing: Annotated[FiniteFloat, Ge(0), Lt(0.5)] = setting(0.0, "dpo: chance that a preference is the wrong way round.")

    def problems(self) -> Iterable[Problem]:
        """What is wrong although every value is right alone."""
        yield from _unused(self)
        yield from _packing_problems(self)
        if self.dpo_label_smoothing and self.dpo_loss in ("ipo", "hinge"):
            yield Problem(f"{self.dpo_loss} has none", path="dpo_label_smoothing", hint="sigmoid and sigmoid_norm have")
        if len(self.splits) != 3 or abs(sum(self.splits) - 1) > 1e-6:
            yield Problem(f"expected three shares whose sum is 1, found {self.splits}", path="splits")
        elif self.splits[0] == 0:
            yield Problem("the share of training data is 0", path="splits")
        lists = {key: getattr(self, key) for key in LISTS}
        found = list(entries_problems(lists))
        yield from found or [*label_problems(lists), *ratio_problems(lists)]
        yield from task_problems(lists, self.task)

    @property
    def task(self) -> str:
        """What is trained."""
        for entry in self.train_datasets or () if self.task_type is None else ():
            if isinstance(entry, Mapping) and entry.get("task_type") is not None:
                return str(entry["task_type"])
        return self.task_type or "pretrain"


@dataclass
class DataFile(Settings):
    """What a file named by data.config_path, or a preset of data, may say besides the keys of the group."""

    datasets: Datasets = setting(None, "train_datasets under its older name.")
    seq_length: Count | None = setting(None, "Tokens of a sample; null: model.max_seq_len.")
    max_seq_len: Count | None = setting(None, "seq_length under its other name.")
    tokenizer_type: Tokenizer | None = setting(None, "model.tokenizer_type, where the model does not say it.")
    vocab_name_or_path: str | None = setting(None, "model.vocab_name_or_path, where the model does not say it.")
    special_tokens_config_path: str | None = setting(None, "JSON file with special tokens, such as eos_token; those that are new get ids.")
    preprocessed_dir: str | None = setting(None, "Folder that keeps tokenized data; null: the cache of all runs.")
    cache_dir: str | None = setting(None, "Folder of downloads.", planned="downloads go where the variable HF_HOME says")
    num_workers: Count | None = setting(
        None, "Processes that tokenize a large corpus; null: one per core, or one in all where gigatoken does it."
    )
    preprocessing: dict[str, Any] | None = setting(None, "Steps before tokenization.")

    def problems(self) -> Iterable[Problem]:
        """Steps that do not exist."""
        if self.preprocessing:
            yield Problem("is not available yet: texts are tokenized as they are", path="preprocessing", hint="leave the key out")


def _unused(settings: DataGroup) -> Iterable[Problem]:
    """Keys that say something about another task."""
    names = {"pretrain": "pretraining"}
    for field in fields(settings):
        owners = [task for task, keys in _KEYS.items() if field.name in keys]
        if owners and settings.task not in owners and getattr(settings, field.name) != field.default:
            hint = f"it belongs to data.task_type: {' or '.join(owners)}"
            yield Problem(f"has no effect on {names.get(settings.task, settings.task)}", path=field.name, hint=hint)


def _packing_problems(settings: DataGroup) -> Iterable[Problem]:
    """Ways of packing that are for another task, and what has no effect with one."""
    if settings.packing == "none" and settings.task == "pretrain":
        yield Problem("texts are packed in some way", path="packing", hint="choose concat or best_fit")
    if settings.packing == "concat" and settings.task == "sft":
        yield Problem("would cut conversations", path="packing", hint="choose best_fit or none")
    if settings.packing == "best_fit" and settings.task == "sft" and settings.pad_to_max_length:
        message = "has no effect with packing: best_fit, which fills up every row in any case"
        yield Problem(message, path="pad_to_max_length", hint="leave the key out")


def task_problems(lists: Mapping[str, Any], task: str) -> Iterable[Problem]:
    """Entries that are for another task than the run, or say what only another task reads."""
    for key, entries in lists.items():
        for index, entry in enumerate(entries if isinstance(entries, Sequence) else ()):
            if not isinstance(entry, Mapping):
                continue
            path = f"{key}.{index}"
            if entry.get("task_type") not in (None, task):
                yield Problem(f"{entry['task_type']!r} in a run that trains {task!r}", f"{path}.task_type", hint="one run has one task")
            for name in sorted({name for names in _ENTRY_KEYS.values() for name in names} - {*_ENTRY_KEYS[task]}):
                if name in entry:
                    yield Problem(f"has no effect on {task}", f"{path}.{name}", hint="leave the key out, or set task_type")


def entries_problems(lists: Mapping[str, Any]) -> Iterable[Problem]:
    """What is wrong with the entries of lists of datasets, given by key; what is no list is passed over."""
    for key in LISTS:
        entries = lists.get(key)
        for index, entry in enumerate(entries if isinstance(entries, list) else ()):
            if isinstance(entry, Mapping):
                yield from _entry_problems(entry, f"{key}.{index}.")


def _entry_problems(entry: Mapping[str, Any], prefix: str) -> Iterable[Problem]:
    """What is wrong with one dataset of a list; paths start with ``prefix``."""
    try:
        DatasetEntry.from_mapping(entry)
    except ConfigError as error:
        return [replace(problem, path=f"{prefix}{problem.path}") for problem in error.problems]
    return []
