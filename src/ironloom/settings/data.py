"""What a run reads: the group ``data``, the entries of its lists, and what a file of its own may say besides. Reads nothing.

A key whose feature does not exist yet is declared with its default and refused by name when it is set to anything else.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le
from pydantic import FiniteFloat

from ironloom.errors import ConfigError, Problem
from ironloom.settings.base import Settings, setting
from ironloom.settings.model import Tokenizer

Count = Annotated[int, Ge(1)]
Share = Annotated[FiniteFloat, Ge(0), Le(1)]
Task = Literal["pretrain", "sft", "dpo"]
Datasets = list[str | dict[str, Any]] | None

PREFERENCES = "it comes with preference tuning"
_CONVERSATIONS = ("pad_to_max_length", "pad_token_id", "chat_template", "chat_template_arguments", "train_on", "too_long")
_ENTRY_KEYS = {"pretrain": ("text_column",), "sft": ("messages_column", "chat_template")}
LISTS = ("train_datasets", "eval_datasets", "test_datasets")


@dataclass
class DatasetEntry(Settings):
    """One dataset of a list of datasets."""

    name: str | None = setting(None, "A name to show; null: dataset_path.")
    dataset_path: str | None = setting(None, "A file, a folder, a Hugging Face id, or a built-in corpus.")
    source: str | None = setting(None, "The same under its other name.")
    task_type: Task | None = setting(None, "What it trains; null: what the run trains.")
    ratio: Annotated[FiniteFloat, Gt(0)] = setting(1.0, "Weight in a mixture.", planned="it comes with mixtures")
    split: str = setting("train", "Split of a Hugging Face dataset.")
    subset: str | None = setting(None, "Configuration of a Hugging Face dataset.")
    text_column: str = setting("text", "Column or field that holds the text.")
    max_samples: Count | None = setting(None, "Read this many documents at most.")
    messages_column: str = setting("messages", "Column that holds a conversation as a list of messages.")
    chosen_column: str | None = setting(None, "Column of the preferred answer.", planned=PREFERENCES)
    rejected_column: str | None = setting(None, "Column of the other answer.", planned=PREFERENCES)
    chat_template: str | None = setting(None, "data.chat_template, where the group does not say it.")
    output_path: str | None = setting(
        None, "Folder of this dataset's tokens.", planned="all prepared data is in one cache, see preprocessed_dir of a data file"
    )

    def problems(self) -> Iterable[Problem]:
        """What is wrong although every value is right alone."""
        if (self.dataset_path is None) == (self.source is None):
            yield Problem("needs dataset_path, or source for short, and not both", path="dataset_path")
        yield from _task_problems(self.task_type)


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
    pad_to_max_length: bool = setting(False, "sft: fill up every row to the sequence length, not just to the longest of its batch.")
    pad_token_id: Annotated[int, Ge(-1)] = setting(-1, "sft: id of the padding; -1: the tokenizer's, else its end of text.")
    chat_template: str | None = setting(
        None, "sft: a file, or plain, raw or chatml, which come along; null: the template of the datasets, else of the tokenizer."
    )
    chat_template_arguments: dict[str, Any] | None = setting(None, "sft: variables for the template, such as enable_thinking.")
    train_on: Literal["all", "last"] = setting("all", "sft: all answers of a conversation, or the last one.")
    too_long: Literal["drop", "left", "right"] = setting(
        "right", "sft: leave rows out that are longer than a sequence, or cut that side off; they are counted."
    )

    def problems(self) -> Iterable[Problem]:
        """What is wrong although every value is right alone."""
        yield from _task_problems(self.task_type)
        if self.task == "pretrain":
            yield from _unused(self, _CONVERSATIONS, "data.task_type: sft")
        if len(self.splits) != 3 or abs(sum(self.splits) - 1) > 1e-6:
            yield Problem(f"expected three shares whose sum is 1, found {self.splits}", path="splits")
        elif self.splits[0] == 0:
            yield Problem("the share of training data is 0", path="splits")
        lists = {key: getattr(self, key) for key in LISTS}
        yield from entries_problems(lists)
        yield from _other_tasks(lists, self.task)

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
    preprocessed_dir: str | None = setting(None, "Folder that keeps tokenized data; null: the cache of all runs.")
    cache_dir: str | None = setting(None, "Folder of downloads.", planned="downloads go where the variable HF_HOME says")
    num_workers: Count | None = setting(None, "Processes that tokenize a large corpus; null: as many as there are cores.")
    preprocessing: dict[str, Any] | None = setting(None, "Steps before tokenization.")

    def problems(self) -> Iterable[Problem]:
        """Steps that do not exist."""
        if self.preprocessing:
            yield Problem("is not available yet: texts are tokenized as they are", path="preprocessing", hint="leave the key out")


def _task_problems(task: str | None) -> Iterable[Problem]:
    if task == "dpo":
        yield Problem(f"{task!r} is not available yet: {PREFERENCES}", path="task_type")


def _unused(settings: Settings, names: Iterable[str], wanted: str) -> Iterable[Problem]:
    """Keys that say something about another task."""
    for field in fields(settings):  # type: ignore[arg-type]
        if field.name in names and getattr(settings, field.name) != field.default:
            yield Problem("has no effect on pretraining", path=field.name, hint=f"it belongs to {wanted}")


def _other_tasks(lists: Mapping[str, Any], task: str) -> Iterable[Problem]:
    """Entries that are for another task than the run, or say what only another task reads."""
    for key, entries in lists.items():
        for index, entry in enumerate(entries if isinstance(entries, list) else ()):
            if not isinstance(entry, Mapping):
                continue
            path = f"{key}.{index}"
            if entry.get("task_type") not in (None, task):
                yield Problem(f"{entry['task_type']!r} in a run that trains {task!r}", f"{path}.task_type", hint="one run has one task")
            for name in _ENTRY_KEYS["pretrain" if task == "sft" else "sft"] if task in ("pretrain", "sft") else ():
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
