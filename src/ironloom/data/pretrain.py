"""The data of a pretraining run: from the datasets that a configuration names to blocks of tokens."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import xxhash

from ironloom.data.blocks import TokenBlocks, split_ranges
from ironloom.data.cache import cache_root, publish, withdraw
from ironloom.data.entries import Corpus, Datasets, entry_problems
from ironloom.data.preparation import TextEncoder, build_store
from ironloom.data.store import Progress, TokenStore
from ironloom.data.tokenizer import MIN_VOCAB_SIZE, Tokenizer
from ironloom.data.tokenizer_types import check_tokenizer_type, make_tokenizer
from ironloom.errors import ConfigError, DataError, Problem

_REPORT_EVERY = 256  # documents between two reports while a tokenizer is trained

log = logging.getLogger(__name__)


class PretrainData:
    """Training, evaluation and test data as blocks of tokens, with the tokenizer that made them.

    Nothing is read before it is needed: :meth:`prepare`, or the first look at :attr:`tokenizer`, :attr:`train`,
    :attr:`eval` or :attr:`test`, tokenizes what is not in the cache yet.

    Args:
        train_datasets: What to train on, one after the other: each a source (see ``corpus.read_documents``) or a mapping
            with the keys of ``DatasetEntry``.
        eval_datasets: What to evaluate on; None for a part of the training data.
        test_datasets: What to test on; None for a part of the training data.
        tokenizer_type: See ``tokenizer.make_tokenizer``, as for the next two.
        vocab_name_or_path: Where the tokenizer is loaded from; None to train it on the training documents.
        vocab_size: Size of a tokenizer that is trained; the most that one which is loaded may have, None for any.
        seq_length: Tokens per sample.
        splits: Shares of the training data for training, evaluation and test. The share of a set that has datasets of
            its own goes to training.
        eval_samples: Use the first so many blocks for evaluation; None, or more than there are: all.
        test_samples: The same for the test.
        cache_dir: The cache, see ``cache.cache_root``.
        num_workers: Processes that tokenize a large corpus; None: as many as there are cores.
        special_tokens: A file of special tokens, see ``Tokenizer.with_special_tokens``.

    Raises:
        ConfigError: With every mistake in the arguments.
    """

    #: What its documents are in turn, in the words of the format of ``ironcore``.
    types: tuple[str, ...] = ("pretrain",)

    def __init__(
        self,
        train_datasets: Datasets,
        *,
        eval_datasets: Datasets | None = None,
        test_datasets: Datasets | None = None,
        tokenizer_type: str,
        vocab_name_or_path: str | None,
        vocab_size: int | None,
        seq_length: int,
        splits: Sequence[float] = (0.97, 0.029, 0.001),
        eval_samples: int | None = None,
        test_samples: int | None = None,
        cache_dir: str | None = None,
        num_workers: int | None = None,
        special_tokens: str | None = None,
    ):
        problems = [
            *entry_problems("train_datasets", train_datasets),
            *entry_problems("eval_datasets", eval_datasets),
            *entry_problems("test_datasets", test_datasets),
            *split_problems(splits),
            *count_problems(seq_length=seq_length, eval_samples=eval_samples, test_samples=test_samples, num_workers=num_workers),
        ]
        if not train_datasets:
            problems.append(Problem("at least one dataset is needed", path="train_datasets"))
        if vocab_size is None and tokenizer_type == "bbpe" and vocab_name_or_path is None:
            problems.append(Problem("a vocabulary that is trained needs a size", path="vocab_size"))
        if problems:
            raise ConfigError(problems)
        check_tokenizer_type(tokenizer_type, vocab_name_or_path)
        self.seq_length = seq_length
        self._train = Corpus.of(train_datasets)
        self._eval = Corpus.of(eval_datasets) if eval_datasets else None
        self._test = Corpus.of(test_datasets) if test_datasets else None
        self._tokenizer_type = tokenizer_type
        self._vocab_name_or_path = vocab_name_or_path
        self._vocab_size = vocab_size
        self._splits = tuple(splits)
        self._eval_samples = eval_samples
        self._test_samples = test_samples
        self._cache_dir = cache_dir
        self._num_workers = num_workers
        self._special_tokens = special_tokens
        self._prepared: _Prepared | None = None

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer."""
        return self._ready().tokenizer

    @property
    def train(self) -> TokenBlocks:
        """The training blocks."""
        return self._ready().train

    @property
    def eval(self) -> TokenBlocks | None:
        """The evaluation blocks; None if their share is zero."""
        return self._held_out("evaluation", self._ready().eval_store, 1, self._eval_samples)

    @property
    def test(self) -> TokenBlocks | None:
        """The test blocks; None if their share is zero."""
        return self._held_out("test", self._ready().test_store, 2, self._test_samples)

    def prepare(self, progress: Progress | None = None) -> None:
        """Read, train and tokenize what is not in the cache yet. Does nothing the second time.

        Args:
            progress: Called now and then with the number of documents done and what is being done.

        Raises:
            DataError: If a source cannot be read or is too short.
            ResourceError: If the cache cannot be written.
        """
        if self._prepared is not None:
            return
        tokenizer = self._make_tokenizer(progress)
        encoder = TextEncoder(tokenizer)

        def store_of(corpus: Corpus | None) -> TokenStore | None:
            if corpus is None:
                return None
            return build_store(corpus, encoder, corpus.key(), cache_dir=self._cache_dir, progress=progress, num_workers=self._num_workers)

        train_store, eval_store, test_store = store_of(self._train), store_of(self._eval), store_of(self._test)
        assert train_store is not None
        train = self._blocks("training", train_store, *self._ranges(train_store)[0])
        self._prepared = _Prepared(tokenizer, train, train_store, eval_store, test_store)

    @property
    def stores(self) -> dict[str, TokenStore]:
        """The stores by what they are for: ``training``, and ``evaluation`` and ``test`` where they have data of their own."""
        ready = self._ready()
        found = {"training": ready.train_store, "evaluation": ready.eval_store, "test": ready.test_store}
        return {name: store for name, store in found.items() if store is not None}

    def _ready(self) -> _Prepared:
        self.prepare()
        assert self._prepared is not None
        return self._prepared

    def _ranges(self, store: TokenStore) -> list[tuple[int, int]]:
        evaluation = 0.0 if self._eval is not None else self._splits[1]
        test = 0.0 if self._test is not None else self._splits[2]
        return split_ranges(store.num_tokens, (1 - evaluation - test, evaluation, test))

    def _held_out(self, kind: str, store: TokenStore | None, place: int, samples: int | None) -> TokenBlocks | None:
        """The blocks of a store of its own or, where there is none, of a split of the training store."""
        if store is not None:
            start, stop = 0, store.num_tokens
        elif self._splits[place] == 0:
            return None
        else:
            store = self._ready().train_store
            start, stop = self._ranges(store)[place]
        if samples is not None:
            stop = min(stop, start + samples * self.seq_length + 1)
        return self._blocks(kind, store, start, stop)

    def _blocks(self, kind: str, store: TokenStore, start: int, stop: int) -> TokenBlocks:
        try:
            return TokenBlocks(store, start, stop, self.seq_length)
        except DataError as error:
            raise DataError(f"{kind} data: {error}") from error

    def _make_tokenizer(self, progress: Progress | None) -> Tokenizer:
        kind = self._tokenizer_type, self._vocab_name_or_path, self._vocab_size
        return made_tokenizer(*kind, self._train.documents, self._train.key, self._cache_dir, progress, special_tokens=self._special_tokens)


@dataclass(frozen=True)
class _Prepared:
    tokenizer: Tokenizer
    train: TokenBlocks
    train_store: TokenStore
    eval_store: TokenStore | None
    test_store: TokenStore | None


def made_tokenizer(
    tokenizer_type: str,
    vocab_name_or_path: str | None,
    vocab_size: int | None,
    texts: Callable[[], Iterator[str]],
    key: Callable[[], str],
    cache_dir: str | None,
    progress: Progress | None,
    special_tokens: str | None = None,
) -> Tokenizer:
    """The tokenizer of a run: loaded, or trained on its texts, once for all runs that have the same ones.

    Args:
        tokenizer_type: See ``tokenizer.make_tokenizer``, as for the next two.
        vocab_name_or_path: Where it is loaded from.
        vocab_size: Size of one that is trained; the most that a loaded one may have.
        texts: Gives what it is trained on.
        key: Gives what identifies the texts.
        cache_dir: The cache, see ``cache.cache_root``.
        progress: Called now and then with the number of texts read.
        special_tokens: A file of special tokens, see ``Tokenizer.with_special_tokens``.

    Raises:
        ConfigError: If a loaded one is larger than ``vocab_size``.
        DataError: If it cannot be loaded, or there is no text.
    """

    def documents() -> Iterator[str]:
        for number, document in enumerate(texts()):
            if progress is not None and number % _REPORT_EVERY == 0:
                progress(number, "training the tokenizer")
            yield document

    def make() -> Tokenizer:
        return make_tokenizer(tokenizer_type, vocab_name_or_path, vocab_size or MIN_VOCAB_SIZE, documents)

    is_trained = vocab_name_or_path is None and tokenizer_type == "bbpe"
    if is_trained:
        tokenizer = _cached_tokenizer(make, f"{vocab_size}:{key()}", cache_dir)
    elif tokenizer_type == "tiktoken":  # converting takes a while, and needs what may lie on the network
        tokenizer = _cached_tokenizer(make, f"tiktoken:1:{vocab_name_or_path}", cache_dir)
    else:
        tokenizer = make()
    if special_tokens is not None:
        tokenizer = tokenizer.with_special_tokens(special_tokens)
    if not is_trained and vocab_size is not None and tokenizer.vocab_size > vocab_size:
        raise ConfigError(f"vocab_size: the tokenizer has {tokenizer.vocab_size} tokens, more than {vocab_size}: leave vocab_size out")
    return tokenizer


def _cached_tokenizer(make: Callable[[], Tokenizer], key: str, cache_dir: str | None) -> Tokenizer:
    """The tokenizer that was trained before under the same key, or a new one, which is kept."""
    folder = cache_root(cache_dir) / "tokenizers" / xxhash.xxh3_128_hexdigest(key.encode())
    if folder.exists():
        try:
            return Tokenizer.load(folder)
        except DataError as error:
            log.warning("%s; it is trained anew", error)
            withdraw(folder)
    publish(folder, lambda staging: make().save_pretrained(staging))
    return Tokenizer.load(folder)


def split_problems(splits: Any) -> Iterator[Problem]:
    """What is wrong with the shares of training, evaluation and test."""
    if len(splits) != 3 or any(share < 0 for share in splits) or abs(sum(splits) - 1) > 1e-6:
        yield Problem(f"expected three shares of at least 0 whose sum is 1, found {list(splits)}", path="splits")
    elif splits[0] == 0:
        yield Problem("the share of training data is 0", path="splits")


def count_problems(**counts: int | None) -> Iterator[Problem]:
    """What is wrong with numbers, given by key; None is right."""
    for path, count in counts.items():
        if count is not None and count < 1:
            yield Problem(f"expected at least 1, found {count}", path=path)
