"""Perplexity on a prepared store: the mean over all tokens that count, each scored exactly once."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ironloom.data.store import TokenStore
from ironloom.errors import ConfigError, DataError
from ironloom.evaluation.scoring import score
from ironloom.models.cache import lookback

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from transformers import PreTrainedModel

    from ironloom.models.decoder import Decoder

#: Batches whose windows are sorted by length together, so that little is padded.
_SORTED_BATCHES = 32


@dataclass(frozen=True)
class Perplexity:
    """What a model makes of a store.

    Attributes:
        loss: Mean negative log-likelihood in nats, over tokens by their weight.
        tokens: How many were scored.
        weight: The sum of their weights; the number of tokens where the store has none.
        documents: Documents with at least one of them.
    """

    loss: float
    tokens: int
    weight: float
    documents: int

    @property
    def perplexity(self) -> float:
        """``exp(loss)``, or infinity."""
        return math.exp(self.loss) if self.loss < 700 else math.inf


@dataclass(frozen=True)
class _Window:
    """Tokens that are read, and the weights of the last of them, which are scored."""

    ids: NDArray[np.integer]
    weights: NDArray[np.float64]


def perplexity(
    model: Decoder | PreTrainedModel,
    store: TokenStore,
    *,
    batch_size: int,
    max_length: int | None = None,
    stride: int | None = None,
    max_documents: int | None = None,
    progress: Callable[[int, str], None] | None = None,
) -> Perplexity:
    """The perplexity of a store's documents, each read by itself.

    The first token of a document has nothing before it and is not scored; the end token is, where there is one. A document that
    is longer than the model reads is read in windows, each token scored in the first that reaches it. Where the store says which
    tokens a model has to produce, and how much they weigh, only those count.

    Args:
        model: A decoder, or a causal model of ``transformers``.
        store: Of the model's tokenizer.
        batch_size: Windows that are read at once; it changes nothing but rounding.
        max_length: Tokens of a window; None: as many as the model reads.
        stride: By how many tokens a window lies behind the one before; None: half of it. Smaller: more context, more time.
        max_documents: Only the first so many; None: all.
        progress: Called now and then with the number of documents done.

    Raises:
        ConfigError: If windows cannot be as they are wished.
        DataError: If no token counts.
    """
    limit = lookback(model)
    length = limit if max_length is None else max_length
    step = max(1, length // 2) if stride is None else stride
    if not 2 <= length <= limit:
        raise ConfigError(f"a window of {length} tokens: expected at least 2, and at most the {limit} that the model reads")
    if not 1 <= step < length:
        raise ConfigError(f"a stride of {step} tokens: expected at least 1, and less than the window of {length}")
    total, weight, tokens, documents = 0.0, 0.0, 0, 0
    pool: list[_Window] = []

    def score_pool() -> None:
        nonlocal total, weight, tokens
        pool.sort(key=lambda window: len(window.ids))
        for begin in range(0, len(pool), batch_size):
            batch = pool[begin : begin + batch_size]
            for window, scored in zip(batch, score(model, [window.ids.tolist() for window in batch]), strict=True):
                last = scored.log_probabilities.double().numpy()[-len(window.weights) :]
                total -= float(last @ window.weights)
                weight += float(window.weights.sum())
                tokens += int(np.count_nonzero(window.weights))
        pool.clear()

    count = store.num_documents if max_documents is None else min(max_documents, store.num_documents)
    for number in range(count):
        windows = [window for window in _windows(store, number, length, step) if window.weights.any()]
        documents += bool(windows)
        pool.extend(windows)
        if len(pool) >= batch_size * _SORTED_BATCHES:
            score_pool()
            if progress is not None:
                progress(number + 1, "scoring")
    score_pool()
    if not weight:
        raise DataError(f"{store.folder}: no token to score: its documents have one token each, or none that is to be produced")
    return Perplexity(total / weight, tokens, weight, documents)


def _windows(store: TokenStore, document: int, length: int, stride: int) -> Iterator[_Window]:
    """The windows of a document; every token but the first is scored in exactly one."""
    start, stop = (int(place) for place in store.offsets[document : document + 2])
    scored = start + 1
    while scored < stop:
        end = min(stop, start + length) if scored == start + 1 else min(stop, scored + stride)
        begin = max(start, end - length)
        yield _Window(store.tokens[begin:end], _weights(store, scored, end))
        scored = end


def _weights(store: TokenStore, start: int, stop: int) -> NDArray[np.float64]:
    """How much each token counts."""
    weights = np.ones(stop - start)
    if store.trained is not None:
        weights *= store.trained[start:stop]
    if store.weights is not None:
        weights *= store.weights[start:stop]
    return weights
