"""What the data of every task have in common: sources, a store for each, splits, and the tokenizer that made them."""

from __future__ import annotations

import abc
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from ironloom.data.entries import Datasets, entry_problems
from ironloom.data.mixture import Mixture
from ironloom.data.packed import PackedRows
from ironloom.data.packing_plan import PackingPlan
from ironloom.data.preparation import build_store
from ironloom.data.preparation.records import Source
from ironloom.data.splits import EVALUATION, PURPOSES, TEST, TRAINING, shares_of, split_problems, split_ranges
from ironloom.data.store import Encoder, Progress, TokenStore
from ironloom.data.tokenizer import Tokenizer
from ironloom.data.tokenizer_cache import made_tokenizer
from ironloom.data.tokenizer_types import check_tokenizer_type
from ironloom.errors import ConfigError, DataError, Problem
from ironloom.settings.data import task_problems
from ironloom.settings.parts import label_problems, parts_of, ratio_problems, ratios_of

log = logging.getLogger(__name__)

Rows = TypeVar("Rows")


class TextSource(Source, Protocol):
    """Records that a store can be made of."""

    def texts(self) -> Iterator[str]:
        """What a tokenizer is trained on."""

    def key(self) -> str:
        """What identifies the records."""


@dataclass(frozen=True)
class Part:
    """Datasets that become one store.

    Attributes:
        label: What it is called where a list has several parts, else empty.
        source: Its records.
    """

    label: str
    source: TextSource


class TaskData(abc.ABC, Generic[Rows]):
    """Training, evaluation and test data of a task as rows of tokens, with the tokenizer that made them.

    Nothing is read before it is needed: :meth:`prepare`, or the first look at :attr:`tokenizer`, :attr:`train`,
    :attr:`eval` or :attr:`test`, tokenizes what is not in the cache yet.

    Args:
        train_datasets: What to train on: each a source (see ``corpus.read_documents``) or a mapping with the keys of
            ``DatasetEntry``. One after the other, or mixed if one has a ``ratio``, see ``mixture.Mixture``.
        eval_datasets: What to evaluate on, each of several by itself; None for a part of the training data.
        test_datasets: The same for the test.
        tokenizer_type: See ``tokenizer.make_tokenizer``, as for the next two.
        vocab_name_or_path: Where the tokenizer is loaded from; None to train it on the training data.
        vocab_size: Size of a tokenizer that is trained; the most that one which is loaded may have, None for any.
        seq_length: Tokens of a row at most.
        splits: Shares of the training data for training, evaluation and test. The share of a set that has datasets of
            its own goes to training.
        eval_samples: Use the first so many rows for evaluation; None, or more than there are: all.
        test_samples: The same for the test.
        cache_dir: The cache, see ``cache.cache_root``.
        num_workers: See ``preparation.build_store``.
        special_tokens: A file of special tokens, see ``Tokenizer.with_special_tokens``.

    Raises:
        ConfigError: With every mistake in the arguments.
    """

    #: What the documents of its stores are in turn, in the words of the format of ``ironcore``.
    types: tuple[str, ...]

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
        lists = {"train_datasets": train_datasets, "eval_datasets": eval_datasets, "test_datasets": test_datasets}
        problems = [problem for path, datasets in lists.items() for problem in entry_problems(path, datasets)]
        if not problems:
            problems += [*label_problems(lists), *ratio_problems(lists), *task_problems(lists, self.task)]
        problems += split_problems(splits)
        problems += count_problems(seq_length=seq_length, eval_samples=eval_samples, test_samples=test_samples, num_workers=num_workers)
        if not train_datasets:
            problems.append(Problem("at least one dataset is needed", path="train_datasets"))
        if vocab_size is None and tokenizer_type == "bbpe" and vocab_name_or_path is None:
            problems.append(Problem("a vocabulary that is trained needs a size", path="vocab_size"))
        if problems:
            raise ConfigError(problems)
        check_tokenizer_type(tokenizer_type, vocab_name_or_path)
        self.seq_length = seq_length
        self._parts = {
            purpose: [Part(label, self._source_of(entries)) for label, entries in parts_of(path, datasets)]
            for purpose, (path, datasets) in zip(PURPOSES, lists.items(), strict=True)
            if datasets
        }
        self._ratios = ratios_of(train_datasets)
        self._tokenizer_of = tokenizer_type, vocab_name_or_path, vocab_size
        self._splits = tuple(splits)
        self._samples = {TRAINING: None, EVALUATION: eval_samples, TEST: test_samples}
        self._cache_dir = cache_dir
        self._num_workers = num_workers
        self._special_tokens = special_tokens
        self._plans: dict[str, PackingPlan] = {}
        self._prepared: _Prepared[Rows] | None = None

    @abc.abstractmethod
    def _source_of(self, datasets: Datasets) -> TextSource:
        """The records of some datasets, one after the other."""

    @abc.abstractmethod
    def _encoder(self, tokenizer: Tokenizer) -> tuple[Encoder, Tokenizer]:
        """What makes rows of records, and the tokenizer as it is saved with the model."""

    @abc.abstractmethod
    def _units(self, store: TokenStore) -> int:
        """The length of a store in what is split: tokens or samples."""

    @abc.abstractmethod
    def _rows(self, store: TokenStore, start: int, stop: int, limit: int | None) -> Rows:
        """A range of a store.

        Args:
            store: The store.
            start: Its first unit, see :meth:`_units`.
            stop: Its end.
            limit: Not more than this many samples.

        Raises:
            DataError: If there is nothing in it.
        """

    @property
    def task(self) -> str:
        """What is trained, as a configuration calls it."""
        return self.types[0].partition("_")[0]

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer, as it is saved with the model."""
        return self._ready().tokenizer

    @property
    def train(self) -> Rows | Mixture:
        """The training data: a mixture if a dataset has a ratio."""
        return self._ready().train

    @property
    def eval(self) -> Rows | dict[str, Rows] | None:
        """The evaluation data, by name where there are several; None if their share is zero."""
        return self._held_out(EVALUATION)

    @property
    def test(self) -> Rows | dict[str, Rows] | None:
        """The test data, by name where there are several; None if their share is zero."""
        return self._held_out(TEST)

    @property
    def stores(self) -> dict[str, TokenStore]:
        """The stores by what they are for: ``training``, and ``evaluation`` and ``test`` where they have data of their own.

        Where there are several for one purpose, ``training/NAME`` and so on.
        """
        found = self._ready().stores
        return {_name(purpose, label): store for purpose, stores in found.items() for label, store in stores.items()}

    @property
    def sources(self) -> dict[str, TextSource]:
        """What the stores are made of, under the same names."""
        return {_name(purpose, part.label): part.source for purpose, parts in self._parts.items() for part in parts}

    @property
    def ranges(self) -> dict[str, dict[str, tuple[int, int]]]:
        """What the samples of each store are for: the first one and the end, by the store's name and by purpose.

        A sample is as many documents as there are :attr:`types`. A document that a split cuts belongs where it begins.
        """
        ready = self._ready()
        shares = shares_of(self._splits, ready.stores)
        found = {}
        for purpose, stores in ready.stores.items():
            for label, store in stores.items():
                edges = split_ranges(self._units(store), shares) if purpose == TRAINING else [(0, self._units(store))]
                names = PURPOSES if purpose == TRAINING else (purpose,)
                found[_name(purpose, label)] = {
                    name: (self._sample_at(store, start), self._sample_at(store, stop))
                    for name, (start, stop) in zip(names, edges, strict=True)
                    if stop > start
                }
        return found

    def _sample_at(self, store: TokenStore, unit: int) -> int:
        """The first sample that begins at a unit of a store or behind it, see :meth:`_units`."""
        return unit

    @property
    def plans(self) -> dict[str, PackingPlan]:
        """The plans of rows that documents share, by what they are for: that of training, and others that were needed so far."""
        self._ready()
        return dict(self._plans)

    def prepare(self, progress: Progress | None = None) -> None:
        """Read, train and tokenize what is not in the cache yet, and tell what was left out. Does nothing the second time.

        Args:
            progress: Called now and then with the number of documents done and what is being done.

        Raises:
            ConfigError: If the tokenizer is not one for this task.
            DataError: If a source cannot be read, a record is wrong, or there is too little.
            ResourceError: If the cache cannot be written.
        """
        if self._prepared is not None:
            return
        encoder, tokenizer = self.encoder(progress)
        stores: dict[str, dict[str, TokenStore]] = {}
        for purpose, parts in self._parts.items():
            for part in parts:
                store = build_store(
                    part.source, encoder, part.source.key(), cache_dir=self._cache_dir, progress=progress, num_workers=self._num_workers
                )
                stores.setdefault(purpose, {})[part.label] = store
                for what, number in sorted(store.counts.items()):
                    log.info("%s: %s %s", _shown(purpose, part.label), f"{number:,}", what)
        self._prepared = _Prepared(tokenizer, stores, self._train(stores))

    def encoder(self, progress: Progress | None = None) -> tuple[Encoder, Tokenizer]:
        """What makes rows of records, and the tokenizer as it is saved with the model.

        Raises:
            ConfigError: As :meth:`prepare`, and so are the others.
            DataError: If the tokenizer cannot be loaded, or there is no text to train it on.
        """
        training = [part.source for part in self._parts[TRAINING]]

        def texts() -> Iterator[str]:
            return (text for source in training for text in source.texts())

        def key() -> str:
            return ",".join(source.key() for source in training)

        loaded = made_tokenizer(*self._tokenizer_of, texts, key, self._cache_dir, progress, self._special_tokens)
        return self._encoder(loaded)

    def _ready(self) -> _Prepared[Rows]:
        self.prepare()
        assert self._prepared is not None
        return self._prepared

    def _train(self, stores: dict[str, dict[str, TokenStore]]) -> Rows | Mixture:
        """The training data of all sources: one after the other, or mixed by their ratios."""
        found = self._split(TRAINING, stores)
        assert found is not None, "a share of zero is refused"
        return found[""] if "" in found else Mixture(found, self._ratios)

    def _held_out(self, purpose: str) -> Rows | dict[str, Rows] | None:
        found = self._split(purpose, self._ready().stores)
        return None if found is None else found.get("", found)

    def _split(self, purpose: str, stores: dict[str, dict[str, TokenStore]]) -> dict[str, Rows] | None:
        """What is for a purpose, by label: stores of its own or, where there are none, a split of each training store."""
        place = PURPOSES.index(purpose)
        shares = shares_of(self._splits, stores)
        is_own = purpose in stores and purpose != TRAINING
        if not is_own and shares[place] == 0:
            return None
        found = {}
        for label, store in stores[purpose if is_own else TRAINING].items():
            units = self._units(store)
            start, stop = (0, units) if is_own else split_ranges(units, shares)[place]
            try:
                found[label] = rows = self._rows(store, start, stop, self._samples[purpose])
            except DataError as error:
                raise DataError(f"{_shown(purpose, label)}: {error}") from error
            if isinstance(rows, PackedRows) and _shown(purpose, label) not in self._plans:
                self._plans[_shown(purpose, label)] = rows.plan
                log.info("%s: %s", _shown(purpose, label), rows.plan)
        return found


@dataclass(frozen=True)
class _Prepared(Generic[Rows]):
    tokenizer: Tokenizer
    stores: dict[str, dict[str, TokenStore]]
    train: Rows | Mixture


def _name(purpose: str, label: str) -> str:
    """The name of a store."""
    return f"{purpose}/{label}".rstrip("/")


def _shown(purpose: str, label: str) -> str:
    return f"{purpose} data {label}".rstrip()


def count_problems(**counts: int | None) -> Iterator[Problem]:
    """What is wrong with numbers, given by key; None is right."""
    for path, count in counts.items():
        if count is not None and count < 1:
            yield Problem(f"expected at least 1, found {count}", path=path)
