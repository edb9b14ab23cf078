"""The data of supervised fine-tuning: conversations to rows of tokens, of which those are trained that the model has to produce."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ironloom.data.chat.encoder import ChatEncoder, RowEncoder, TooLong
from ironloom.data.chat.render import ChatRenderer, TrainOn
from ironloom.data.chat.sources import Conversations, RecordSource
from ironloom.data.entries import Datasets
from ironloom.data.packed import PackedRows
from ironloom.data.packing_plan import packing_plan
from ironloom.data.rows import TrainedRows
from ironloom.data.store import TokenStore
from ironloom.data.task_data import TaskData
from ironloom.data.tokenizer import Tokenizer
from ironloom.errors import ConfigError, DataError, Problem
from ironloom.settings.groups import DatasetEntry


class SFTData(TaskData[TrainedRows | PackedRows]):
    """Training, evaluation and test conversations as rows of tokens, with the tokenizer that made them.

    The tokenizer carries the chat template that was used, so that it is saved with the model. A tokenizer that is trained is
    trained on what is said in the conversations, of which ``python-docstrings`` has some.

    Args:
        train_datasets: See :class:`ironloom.data.task_data.TaskData`, as for all options that are not named here.
        chat_template: See ``chat.find_template``; None for that of the datasets, and of the tokenizer where they name none.
        chat_template_arguments: Further variables of the template.
        train_on: ``all`` answers of a conversation or the ``last`` one.
        too_long: What becomes of rows that are longer than ``seq_length``, see ``ChatEncoder``.
        packing: ``none``: a row for each conversation; ``best_fit``: several whole ones in a row, which do not know of each other,
            see :mod:`ironloom.data.packing`. None is ``none``.
        **options: All other options.

    Raises:
        ConfigError: With every mistake in the arguments.
    """

    types: tuple[str, ...] = ("sft",)

    _source: type[RecordSource[Any]] = Conversations
    _encoder_type: type[RowEncoder] = ChatEncoder
    _rows_type: type[TrainedRows] = TrainedRows

    def __init__(
        self,
        train_datasets: Datasets,
        *,
        chat_template: str | None = None,
        chat_template_arguments: Mapping[str, Any] | None = None,
        train_on: TrainOn = "all",
        too_long: TooLong = "right",
        packing: str | None = None,
        **options: Any,
    ):
        if packing not in (None, "none", "best_fit"):
            raise ConfigError(Problem(f"expected none or best_fit, found {packing!r}: concat would cut conversations", path="packing"))
        super().__init__(train_datasets, **options)
        sources = (part.source for parts in self._parts.values() for part in parts)
        self._template = _template(chat_template, (entry for source in sources for entry in source.entries))  # type: ignore[attr-defined]
        self._template_arguments = dict(chat_template_arguments or {})
        self._train_on = train_on
        self._too_long = too_long
        self._is_best_fit = packing == "best_fit"

    def _source_of(self, datasets: Datasets) -> RecordSource[Any]:
        return self._source.of(datasets)

    def _encoder(self, tokenizer: Tokenizer) -> tuple[RowEncoder, Tokenizer]:
        renderer = ChatRenderer(tokenizer, self._template, self._template_arguments, self._train_on)
        encoder = self._encoder_type(tokenizer, renderer, self.seq_length, self._too_long)
        return encoder, tokenizer if self._template is None else tokenizer.with_chat_template(renderer.template.text)

    def _units(self, store: TokenStore) -> int:
        return store.num_documents // len(self.types)

    def _rows(self, store: TokenStore, start: int, stop: int, limit: int | None) -> TrainedRows | PackedRows:
        if stop == start:
            raise DataError(f"none of the {self._units(store)} samples falls to it (use more {self._source.what}, or other splits)")
        if self._is_best_fit:
            return PackedRows(store, packing_plan(store, start, stop, self.seq_length, cache_dir=self._cache_dir), limit)
        if limit is not None:
            stop = min(stop, start + limit)
        return self._rows_type(store, start * len(self.types), stop * len(self.types))


def _template(given: str | None, entries: Iterable[DatasetEntry]) -> str | None:
    """The one chat template of a run.

    Raises:
        ConfigError: If datasets name several.
    """
    named = {given, *(entry.chat_template for entry in entries)} - {None}
    if len(named) > 1:
        raise ConfigError(f"chat_template: one run has one template, which is saved with its tokenizer; {len(named)} are named")
    return named.pop() if named else None
