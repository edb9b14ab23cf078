"""Log-probabilities of pairs under the model as it is before training: computed once, kept in the cache, found by content.

An entry is named by a hash of everything that the numbers depend on: the weights and the configuration of the model, the
tokens and marks of the pairs (so the tokenizer and the chat template), the type that is computed in, and the kernels. A
change of any of them is another entry. So no second model is in memory, and a second run computes nothing.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xxhash
from numpy.typing import NDArray
from torch import nn

from ironloom.data.cache import cache_root, publish, withdraw
from ironloom.data.preferences import PreferencePairs
from ironloom.errors import DataError
from ironloom.objectives import DPO, answers_of
from ironloom.parallel.team import Team
from ironloom.trainer.engine import Batch, NativeEngine, placed
from ironloom.trainer.evaluation import evaluation_mode
from ironloom.weights.sharded import whole

FORMAT = 1
VALUES, META = "logps.bin", "meta.json"

log = logging.getLogger(__name__)


class Referenced:
    """Pairs with their reference log-probabilities: each sample has ``reference``, float32 of shape (2,).

    Args:
        pairs: Map-style, see ``PreferencePairs``.
        values: Of shape (pairs, 2), the preferred answer first.
    """

    def __init__(self, pairs: Any, values: NDArray[np.float32]):
        self.pairs = pairs
        self._values = values

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {**self.pairs[index], "reference": torch.from_numpy(self._values[index].copy())}


def reference_of(
    engine: NativeEngine,
    objective: DPO,
    pairs: Any,
    collate: Callable[[list[Any]], Batch],
    batch_size: int,
    key: str,
    cache_dir: str | Path | None,
    team: Team,
) -> NDArray[np.float32]:
    """The log-probabilities of the answers of pairs, from the cache or computed now; every process calls this.

    Args:
        engine: With the model as it is before training.
        objective: Tells what the model is given of a batch.
        pairs: Map-style, see ``PreferencePairs``.
        collate: Makes a batch of samples.
        batch_size: Pairs of one forward pass in each process.
        key: What the numbers depend on besides the pairs, see :func:`start_of`.
        cache_dir: The cache, see ``data.cache.cache_root``.
        team: The processes, which share the work.

    Returns:
        Float32 of shape (pairs, 2), the preferred answer first.

    Raises:
        DataError: If a number is not finite.
        ResourceError: If the cache cannot be written.
    """
    name = xxhash.xxh3_128_hexdigest(f"{FORMAT}:{key}:{content_of(pairs)}".encode())
    folder = cache_root(cache_dir) / "reference" / name
    found: NDArray[np.float32] | None = team.on_first(lambda: _read(folder, len(pairs)))
    if found is not None:
        return found
    values = _computed(engine, objective, pairs, collate, batch_size, team)
    wrong = np.flatnonzero(~np.isfinite(values).all(axis=1))
    if len(wrong):
        raise DataError(
            f"the model gives {len(wrong):,} of {len(values):,} pairs a log-probability that is not finite, pair {wrong[0]} first: "
            "look at these pairs, or compute in another type"
        )
    team.on_first(lambda: publish(folder, lambda staging: _write(staging, values)))
    if team.is_first:
        log.info("computed the reference log-probabilities of %s pairs", f"{len(values):,}")
    return values


def start_of(engine: NativeEngine, team: Team) -> str:
    """What the numbers of a model depend on besides the pairs, as a hash; every process calls this."""
    hasher = xxhash.xxh3_128()
    model = engine.model
    _reshard(model, team)
    kernel = "flex" if engine.flex_attention else engine.math_attention
    told = (type(model).__name__, repr(getattr(model, "config", None)), str(engine.autocast_dtype), kernel)
    hasher.update(repr(told).encode())
    for name, tensor in sorted((*model.named_parameters(), *model.named_buffers()), key=lambda item: item[0]):
        full = whole(tensor).cpu().contiguous()
        hasher.update(f"{name}:{full.dtype}:{tuple(full.shape)}".encode())
        hasher.update(full.reshape(-1).view(torch.uint8).numpy().data)
    digest = hasher.hexdigest()
    return team.on_first(lambda: digest)


def content_of(pairs: Any) -> str:
    """What identifies pairs: all that is in them."""
    if isinstance(pairs, PreferencePairs):
        return pairs.fingerprint
    hasher = xxhash.xxh3_128()
    for index in range(len(pairs)):
        for name, value in sorted(pairs[index].items()):
            array = np.asarray(value)
            hasher.update(f"{name}:{array.dtype}:{array.shape}".encode())
            hasher.update(array.tobytes())
    return hasher.hexdigest()


def _reshard(model: nn.Module, team: Team) -> None:
    """An optimizer would take weights that are whole instead of the parts."""
    if not team.is_alone:
        from ironloom.parallel.shard import reshard

        reshard(model)


def _computed(
    engine: NativeEngine, objective: DPO, pairs: Any, collate: Callable[[list[Any]], Batch], batch_size: int, team: Team
) -> NDArray[np.float32]:
    """The numbers, each process having every so many batches."""
    rank, size = team.place.data_rank, team.place.data_size
    batches = [range(start, min(start + batch_size, len(pairs))) for start in range(0, len(pairs), batch_size)]
    mine: dict[int, NDArray[np.float32]] = {}
    with evaluation_mode(engine):
        for first in range(0, len(batches), size):
            number = first + rank
            # Processes that have parts of the model all run it equally often; what is too much is dropped.
            batch = collate([pairs[index] for index in batches[number if number < len(batches) else 0]])
            values = _answers(engine, objective, batch)
            if number < len(batches):
                mine[number] = values
    _reshard(engine.model, team)
    everything = {number: values for part in team.gather(mine) for number, values in part.items()}
    return np.concatenate([everything[number] for number in range(len(batches))])


@torch.no_grad()
def _answers(engine: NativeEngine, objective: DPO, batch: Batch) -> NDArray[np.float32]:
    outputs = engine.predict(objective.inputs(batch))
    found, _ = answers_of(outputs.logits, placed(batch, engine.device))
    values: NDArray[np.float32] = found.float().cpu().numpy()
    return values


def _write(staging: Path, values: NDArray[np.float32]) -> None:
    content = np.ascontiguousarray(values, dtype="<f4").tobytes()
    (staging / VALUES).write_bytes(content)
    meta = {"format": FORMAT, "pairs": len(values), "xxh3": xxhash.xxh3_64_hexdigest(content)}
    (staging / META).write_text(json.dumps(meta), encoding="utf-8")


def _read(folder: Path, pairs: int) -> NDArray[np.float32] | None:
    """What is kept, None if there is nothing; what is damaged is told and removed."""
    if not folder.exists():
        return None
    try:
        meta = json.loads((folder / META).read_text(encoding="utf-8"))
        content = (folder / VALUES).read_bytes()
        is_whole = meta["pairs"] == pairs and len(content) == 8 * pairs and meta["xxh3"] == xxhash.xxh3_64_hexdigest(content)
    except (OSError, ValueError, KeyError, TypeError):
        is_whole = False
    if not is_whole:
        log.warning("%s: the reference log-probabilities are damaged; they are computed anew", folder)
        withdraw(folder)
        return None
    return np.frombuffer(content, dtype="<f4").reshape(pairs, 2)
