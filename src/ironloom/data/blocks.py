"""Fixed-length samples cut from one long run of tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ironloom.data.collate import default_collate
from ironloom.data.isolation import TOGETHER, Isolation, has_several, keep_apart, restarting
from ironloom.data.rows import NOT_TRAINED
from ironloom.data.store import TokenStore
from ironloom.errors import DataError


class TokenBlocks:
    """Blocks of ``seq_length`` tokens, end to end, each with the tokens that follow.

    Sample ``i`` reads the tokens from ``start + i * S`` to ``start + i * S + S``, the last one included, for
    ``S = seq_length``. What does not fill a block at the end is left out.

    Args:
        tokens: A token store, or an array of shape (tokens,) of any integer type.
        start: First token of the range.
        stop: End of the range.
        seq_length: Tokens per sample.
        isolation: What becomes of the documents inside blocks; only of those of a store, which knows where they are.

    Raises:
        DataError: If the range is shorter than one block.
    """

    def __init__(self, tokens: TokenStore | NDArray[Any], start: int, stop: int, seq_length: int, isolation: Isolation = TOGETHER):
        array = tokens.tokens if isinstance(tokens, TokenStore) else tokens
        if not 0 <= start <= stop <= len(array):
            raise ValueError(f"tokens {start} to {stop} were asked for, there are {len(array)}")
        if isolation != TOGETHER and not isinstance(tokens, TokenStore):
            raise ValueError("only a store knows where documents begin")
        if stop - start < seq_length + 1:
            raise DataError(
                f"{stop - start} tokens are less than one sequence: {seq_length + 1} are needed for a sequence length "
                f"of {seq_length} (use shorter sequences, more text, or another split)"
            )
        self.seq_length = seq_length
        self.isolation = isolation
        self._source = tokens
        self._range = start, stop
        # Slicing a plain array is several times faster than slicing a memmap, and reads the same file.
        self._tokens = np.asarray(array).view(np.ndarray)[start:stop]
        self._offsets = np.asarray(tokens.offsets).view(np.ndarray) if isinstance(tokens, TokenStore) else None

    def __reduce__(self) -> tuple[Any, ...]:
        """Travels to another process as the name of the file, not as its content."""
        return TokenBlocks, (self._source, *self._range, self.seq_length, self.isolation)

    def __len__(self) -> int:
        """Number of blocks."""
        return (len(self._tokens) - 1) // self.seq_length

    @property
    def mean_length(self) -> Fraction:
        """Input tokens of a sample."""
        return Fraction(self.seq_length)

    def lengths(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """Input tokens of the samples at ``indices``: all are equally long."""
        return np.full(len(indices), self.seq_length, dtype=np.int64)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        """One block: ``input_ids`` and ``shift_labels``, int64 of shape (seq_length,).

        Where documents are kept apart, also ``position_ids``, which begin again at 0 with each of them.
        """
        if not -len(self) <= index < len(self):
            raise IndexError(f"block {index} of {len(self)}")
        sample: dict[str, torch.Tensor] = self._read([index % len(self)])[0]
        return sample

    def __getitems__(self, indices: list[int]) -> BlockRows:
        """Many blocks at once, in one piece of memory."""
        return self._read(indices)

    def _read(self, indices: list[int]) -> BlockRows:
        length, tokens = self.seq_length, self._tokens
        rows = np.empty((len(indices), length + 1), dtype=tokens.dtype)
        for row, index in enumerate(indices):
            rows[row] = tokens[index * length : index * length + length + 1]
        # Made wider all at once: a row at a time is half as fast.
        columns = {"input_ids": rows[:, :-1].astype(np.int64), "shift_labels": rows[:, 1:].astype(np.int64)}
        if self.isolation != TOGETHER:
            self._mark(columns, np.array(indices, dtype=np.int64))
        return BlockRows({name: torch.from_numpy(values) for name, values in columns.items()})

    def _mark(self, columns: dict[str, NDArray[np.int64]], indices: NDArray[np.int64]) -> None:
        """Take out the labels that documents make none, and add positions that begin again."""
        assert self._offsets is not None
        length, labels = self.seq_length, columns["shift_labels"]
        begins = self._range[0] + indices * length
        # The documents that begin behind the first token of each block, up to the one behind its last label.
        first = np.searchsorted(self._offsets, begins, side="right")
        counts = np.searchsorted(self._offsets, begins + length + 1, side="right") - first
        row = np.repeat(np.arange(len(indices)), counts)
        place = self._offsets[np.repeat(first - (np.cumsum(counts) - counts), counts) + np.arange(len(row))] - begins[row]
        if self.isolation.eod_mask_loss:
            ends = place > 1
            labels[row[ends], place[ends] - 2] = NOT_TRAINED
        if self.isolation.reset_attention_mask:
            followed = place <= length
            labels[row[followed], place[followed] - 1] = NOT_TRAINED
        if self.isolation.are_apart:
            inside = place < length
            starts = np.concatenate([np.arange(len(indices)) * length, row[inside] * length + place[inside]])
            columns["position_ids"] = restarting(labels.size, np.sort(starts)).reshape(labels.shape)


class BlockRows(Sequence[dict[str, torch.Tensor]]):
    """Samples that lie in one batch already: a sequence of dicts for any collator, the batch itself for ours.

    Attributes:
        batch: ``input_ids``, ``shift_labels`` and perhaps ``position_ids``, int64 of shape (samples, seq_length).
    """

    def __init__(self, batch: dict[str, torch.Tensor]):
        self.batch = batch

    def __len__(self) -> int:
        return len(self.batch["input_ids"])

    def __getitem__(self, index: Any) -> Any:
        """One sample, or a list of them for a slice; its tensors are views into the batch."""
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        return {name: values[index] for name, values in self.batch.items()}

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        return (self[place] for place in range(len(self)))


def collate_blocks(
    samples: Sequence[dict[str, torch.Tensor]], reset_position_ids: bool = True, reset_attention_mask: bool = True
) -> dict[str, torch.Tensor]:
    """The batch of samples of :class:`TokenBlocks`; copies nothing when they were read together.

    Args:
        samples: Blocks.
        reset_position_ids: Where samples have ``position_ids``: see :func:`ironloom.data.isolation.keep_apart`.
        reset_attention_mask: The same.

    Returns:
        ``input_ids`` and ``shift_labels``, int64 of shape (samples, seq_length), and what keeps the documents of a block apart
        if any block has several.
    """
    batch: dict[str, torch.Tensor] = dict(samples.batch) if isinstance(samples, BlockRows) else default_collate(samples)
    if "position_ids" not in batch:
        return batch
    if not has_several(batch["position_ids"]):
        del batch["position_ids"]
        return batch
    return keep_apart(batch, reset_position_ids, reset_attention_mask)
