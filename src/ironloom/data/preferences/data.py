"""The data of preference tuning: pairs of rows of tokens that begin alike, of which the model shall prefer one."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ironloom.data.blocks import split_ranges
from ironloom.data.chat.render import ChatRenderer
from ironloom.data.preferences.encoder import PairEncoder
from ironloom.data.preferences.sources import Preferences
from ironloom.data.preparation import build_store
from ironloom.data.pretrain import made_tokenizer
from ironloom.data.rows import NOT_TRAINED, TrainedRows
from ironloom.data.sft import SFTData, _Prepared
from ironloom.data.store import Progress
from ironloom.errors import DataError

log = logging.getLogger(__name__)

SIDES = ("chosen", "rejected")


class DPOData(SFTData):
    """Training, evaluation and test pairs as rows of tokens, with the tokenizer that made them.

    Takes the arguments of :class:`ironloom.data.sft.SFTData` but ``train_on``: the answers that a pair differs in are
    compared. Datasets are those of preferences (``python-docstrings`` has some), see ``records.pair_of``.
    """

    types = ("dpo_chosen", "dpo_rejected")

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._pairs = {name: Preferences(source.entries) for name, source in self._sources.items()}

    @property
    def train(self) -> PreferencePairs:
        """The training pairs."""
        pairs = self._rows("training")
        assert pairs is not None
        return pairs

    @property
    def eval(self) -> PreferencePairs | None:
        """The evaluation pairs; None if their share is zero."""
        return self._rows("evaluation")

    @property
    def test(self) -> PreferencePairs | None:
        """The test pairs; None if their share is zero."""
        return self._rows("test")

    def prepare(self, progress: Progress | None = None) -> None:
        """Read, render and tokenize what is not in the cache yet, and tell what was left out. Does nothing the second time.

        Args:
            progress: Called now and then with the number of rows done and what is being done.

        Raises:
            ConfigError: If there is no chat template.
            DataError: If a source cannot be read, a record is wrong, or the template cannot be used.
            ResourceError: If the cache cannot be written.
        """
        if self._prepared is not None:
            return
        training = self._pairs["training"]
        tokenizer = made_tokenizer(*self._tokenizer_of, training.texts, training.key, self._cache_dir, progress)
        renderer = ChatRenderer(tokenizer, self._template, self._template_arguments)
        encoder = PairEncoder(tokenizer, renderer, self.seq_length, self._too_long)
        stores = {}
        for name, source in self._pairs.items():
            stores[name] = store = build_store(
                source, encoder, source.key(), cache_dir=self._cache_dir, progress=progress, num_workers=self._num_workers
            )
            for what, number in sorted(store.counts.items()):
                log.info("%s data: %s %s", name, f"{number:,}", what)
        if self._template is not None:
            tokenizer = tokenizer.with_chat_template(renderer.template.text)
        self._prepared = _Prepared(tokenizer, stores)
        self.train  # noqa: B018  (told now, not when the model is built: there may be too few pairs)

    def _rows(self, name: str) -> PreferencePairs | None:
        """The pairs of a store of its own or, where there is none, of a split of the training store."""
        stores = self._ready().stores
        store = stores.get(name, stores["training"])
        start, stop = 0, store.num_documents // 2
        if store is stores["training"]:
            names = ("training", "evaluation", "test")
            shares = [0.0 if each in stores else share for each, share in zip(names, self._splits, strict=True)]
            shares[0] = 1 - shares[1] - shares[2]
            if shares[names.index(name)] == 0:
                return None
            start, stop = split_ranges(stop, shares)[names.index(name)]
        samples = self._samples[name]
        if samples is not None:
            stop = min(stop, start + samples)
        if stop == start:
            raise DataError(f"{name} data: none of the {store.num_documents // 2} pairs falls to it (use more pairs, or other splits)")
        return PreferencePairs(store, 2 * start, 2 * stop)


class PreferencePairs(TrainedRows):
    """Pairs of rows of a store, each a sample: the preferred one has an even number, the other one follows.

    Args:
        store: With the column ``trained``.
        start: First row of the range, even.
        stop: End of the range, even.
    """

    def __reduce__(self) -> tuple[Any, ...]:
        """Travels to another process as the name of the folder, not as its content."""
        return PreferencePairs, (self.store, *self._range)

    @property
    def fingerprint(self) -> str:
        """Equal for the same tokens and marks, wherever they are stored."""
        return f"{self.store.fingerprint}:{self._range}"

    def __len__(self) -> int:
        """Number of pairs."""
        return (self._range[1] - self._range[0]) // 2

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        """One pair of n and m tokens: ``chosen_ids`` and ``chosen_labels`` (n - 1,), ``rejected_ids`` and ``rejected_labels`` (m - 1,)."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"pair {index} of {len(self)}")
        sample = {}
        for place, side in enumerate(SIDES, start=self._range[0] + 2 * (index % len(self))):
            begin, end = self._offsets[place], self._offsets[place + 1]
            ids = self._tokens[begin:end].astype(np.int64)
            labels = np.where(self._trained[begin + 1 : end] == 1, ids[1:], NOT_TRAINED)
            sample[f"{side}_ids"], sample[f"{side}_labels"] = torch.from_numpy(ids[:-1]), torch.from_numpy(labels)
        return sample


def collate_pairs(samples: Sequence[dict[str, torch.Tensor]], pad_token_id: int = 0, length: int | None = None) -> dict[str, torch.Tensor]:
    """The batch of pairs, filled up on the right, which changes nothing in a row.

    Args:
        samples: Pairs, see :class:`PreferencePairs`, perhaps with ``reference`` (2,).
        pad_token_id: What rows are filled up with.
        length: Fill up to this many tokens; None: to the longest row.

    Returns:
        ``input_ids`` and ``shift_labels``, int64 of shape (pairs, 2, longest or ``length``), the preferred row first;
        ``reference``, float32 of shape (pairs, 2), where the samples have it.
    """
    length = length or max(len(sample[f"{side}_ids"]) for sample in samples for side in SIDES)
    batch = {}
    for name, column, fill in (("input_ids", "ids", pad_token_id), ("shift_labels", "labels", NOT_TRAINED)):
        batch[name] = torch.full((len(samples), 2, length), fill, dtype=torch.int64)
        for rows, sample in zip(batch[name], samples, strict=True):
            for row, side in zip(rows, SIDES, strict=True):
                row[: len(sample[f"{side}_{column}"])] = sample[f"{side}_{column}"]
    if "reference" in samples[0]:
        batch["reference"] = torch.stack([sample["reference"] for sample in samples])
    return batch
