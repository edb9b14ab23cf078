"""A batch in equal parts. Pure tensor work; knows no process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from ironloom.errors import DataError


@dataclass(frozen=True)
class Chunks:
    """The inputs of a model for a batch, made a whole number of equal chunks.

    If the samples do not suffice, the last one is repeated. Such rows come last, and nobody counts their loss.

    Attributes:
        inputs: Tensors of ``count * rows`` samples.
        count: Number of chunks.
        rows: Samples of a chunk.
        length: Tokens of a sample; 0 without ``input_ids``.
        samples: Samples of the batch.
    """

    inputs: dict[str, torch.Tensor]
    count: int
    rows: int
    length: int
    samples: int

    @classmethod
    def of(cls, inputs: Mapping[str, Any], count: int) -> Chunks:
        """Divide a batch.

        Raises:
            DataError: If a tensor is not one of samples.
        """
        given = {name: value for name, value in inputs.items() if value is not None}
        sizes = {name: len(value) if isinstance(value, torch.Tensor) and value.ndim else None for name, value in given.items()}
        samples = next((size for size in sizes.values() if size), None)
        odd = [name for name, size in sizes.items() if size != samples]
        if samples is None or odd:
            raise DataError(
                f"a pipeline divides a batch by samples, but {', '.join(map(repr, odd)) or 'nothing'} of it has no such dimension: "
                "let the data_collator leave it out"
            )
        rows = -(-samples // count)
        if rows * count != samples:
            given = {name: _longer(value, rows * count) for name, value in given.items()}
        ids = given.get("input_ids")
        length = ids.shape[1] if ids is not None and ids.ndim > 1 else 0
        return cls(given, count, rows, length, samples)

    def part(self, chunk: int) -> dict[str, torch.Tensor]:
        """The inputs of one chunk."""
        return {name: value[chunk * self.rows : (chunk + 1) * self.rows] for name, value in self.inputs.items()}

    def real_rows(self, chunk: int) -> int:
        """How many rows of a chunk are samples of the batch."""
        return max(0, min(self.rows, self.samples - chunk * self.rows))


def part_of_batch(batch: Mapping[str, Any], chunk: int, rows: int) -> dict[str, Any]:
    """The samples of a batch that are in a chunk: tensors of samples are cut, everything else stays."""
    samples = next((len(value) for value in batch.values() if isinstance(value, torch.Tensor) and value.ndim), 0)

    def cut(value: Any) -> Any:
        is_samples = isinstance(value, torch.Tensor) and value.ndim and len(value) == samples
        return value[chunk * rows : (chunk + 1) * rows] if is_samples else value

    return {name: cut(value) for name, value in batch.items()}


def _longer(value: torch.Tensor, rows: int) -> torch.Tensor:
    return value[torch.arange(rows, device=value.device).clamp(max=len(value) - 1)]
