"""The data of a pretraining run: texts to blocks of tokens."""

from __future__ import annotations

from ironloom.data.blocks import TokenBlocks
from ironloom.data.entries import Corpus, Datasets
from ironloom.data.preparation import TextEncoder
from ironloom.data.store import TokenStore
from ironloom.data.task_data import TaskData
from ironloom.data.tokenizer import Tokenizer


class PretrainData(TaskData[TokenBlocks]):
    """Training, evaluation and test texts as blocks of ``seq_length`` tokens, with the tokenizer that made them.

    Takes the arguments of :class:`ironloom.data.task_data.TaskData`.
    """

    types: tuple[str, ...] = ("pretrain",)

    def _source_of(self, datasets: Datasets) -> Corpus:
        return Corpus.of(datasets)

    def _encoder(self, tokenizer: Tokenizer) -> tuple[TextEncoder, Tokenizer]:
        return TextEncoder(tokenizer), tokenizer

    def _units(self, store: TokenStore) -> int:
        return store.num_tokens

    def _rows(self, store: TokenStore, start: int, stop: int, limit: int | None) -> TokenBlocks:
        if limit is not None:
            stop = min(stop, start + limit * self.seq_length + 1)
        return TokenBlocks(store, start, stop, self.seq_length)
