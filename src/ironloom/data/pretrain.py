"""The data of a pretraining run: texts to blocks of tokens, or to rows of whole documents."""

from __future__ import annotations

from typing import Any

import numpy as np

from ironloom.data.blocks import TokenBlocks
from ironloom.data.entries import Corpus, Datasets
from ironloom.data.isolation import Isolation
from ironloom.data.packed import PackedRows
from ironloom.data.packing_plan import packing_plan
from ironloom.data.preparation import TextEncoder
from ironloom.data.store import TokenStore
from ironloom.data.task_data import TaskData
from ironloom.data.tokenizer import Tokenizer
from ironloom.errors import ConfigError, Problem


class PretrainData(TaskData[TokenBlocks | PackedRows]):
    """Training, evaluation and test texts as rows of ``seq_length`` tokens, with the tokenizer that made them.

    Args:
        train_datasets: See :class:`ironloom.data.task_data.TaskData`, as for all options that are not named here.
        packing: ``concat``: documents lie end to end and are cut into blocks; ``best_fit``: rows of whole documents, see
            :mod:`ironloom.data.packing`. None is ``concat``.
        reset_position_ids: See :class:`ironloom.data.isolation.Isolation`, as for the next two.
        reset_attention_mask: The same.
        eod_mask_loss: The same.
        **options: All other options.

    Raises:
        ConfigError: With every mistake in the arguments.
    """

    types: tuple[str, ...] = ("pretrain",)

    def __init__(
        self,
        train_datasets: Datasets,
        *,
        packing: str | None = None,
        reset_position_ids: bool = True,
        reset_attention_mask: bool = True,
        eod_mask_loss: bool = False,
        **options: Any,
    ):
        if packing not in (None, "concat", "best_fit"):
            raise ConfigError(Problem(f"texts are packed as concat or best_fit, not {packing!r}", path="packing"))
        super().__init__(train_datasets, **options)
        self._is_best_fit = packing == "best_fit"
        self._isolation = Isolation(reset_position_ids, reset_attention_mask, eod_mask_loss)

    def _source_of(self, datasets: Datasets) -> Corpus:
        return Corpus.of(datasets)

    def _encoder(self, tokenizer: Tokenizer) -> tuple[TextEncoder, Tokenizer]:
        return TextEncoder(tokenizer), tokenizer

    def _units(self, store: TokenStore) -> int:
        return store.num_tokens

    def _sample_at(self, store: TokenStore, unit: int) -> int:
        return int(np.searchsorted(store.offsets[:-1], unit))

    def _rows(self, store: TokenStore, start: int, stop: int, limit: int | None) -> TokenBlocks | PackedRows:
        if self._is_best_fit:
            # A document belongs to the split in which it begins.
            first, end = self._sample_at(store, start), self._sample_at(store, stop)
            apart = self._isolation.reset_attention_mask
            plan = packing_plan(store, first, end, self.seq_length, keep_last=not apart, cache_dir=self._cache_dir)
            return PackedRows(store, plan, limit, isolation=self._isolation)
        if limit is not None:
            stop = min(stop, start + limit * self.seq_length + 1)
        return TokenBlocks(store, start, stop, self.seq_length, self._isolation)
