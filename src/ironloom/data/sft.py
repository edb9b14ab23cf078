"""The data of supervised fine-tuning: conversations to rows of tokens, of which those are trained that the model has to produce."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ironloom.data.blocks import split_ranges
from ironloom.data.chat.encoder import ChatEncoder, RowEncoder, TooLong
from ironloom.data.chat.render import ChatRenderer, TrainOn
from ironloom.data.chat.sources import Conversations, RecordSource
from ironloom.data.entries import Datasets, entry_problems
from ironloom.data.preparation import build_store
from ironloom.data.pretrain import count_problems, made_tokenizer, split_problems
from ironloom.data.rows import TrainedRows
from ironloom.data.store import Progress, TokenStore
from ironloom.data.tokenizer import Tokenizer
from ironloom.data.tokenizer_types import check_tokenizer_type
from ironloom.errors import ConfigError, DataError, Problem

log = logging.getLogger(__name__)


class SFTData:
    """Training, evaluation and test conversations as rows of tokens, with the tokenizer that made them.

    Nothing is read before it is needed, as in ``PretrainData``. The tokenizer carries the chat template that was used, so
    that it is saved with the model.

    Args:
        train_datasets: What to train on, one after the other: each a source (see ``corpus.read_documents``, and
            ``python-docstrings``) or a mapping with the keys of ``DatasetEntry``.
        eval_datasets: What to evaluate on; None for a part of the training data.
        test_datasets: What to test on; None for a part of the training data.
        tokenizer_type: See ``tokenizer.make_tokenizer``, as for the next two.
        vocab_name_or_path: Where the tokenizer is loaded from; None to train it on what is said in the conversations.
        vocab_size: Size of a tokenizer that is trained; the most that one which is loaded may have, None for any.
        seq_length: Tokens that the model is given at most.
        splits: Shares of the training rows for training, evaluation and test.
        eval_samples: Use the first so many rows for evaluation; None, or more than there are: all.
        test_samples: The same for the test.
        chat_template: See ``chat.find_template``; None for that of the datasets, and of the tokenizer where they name none.
        chat_template_arguments: Further variables of the template.
        train_on: ``all`` answers of a conversation or the ``last`` one.
        too_long: What becomes of rows that are longer than ``seq_length``, see ``ChatEncoder``.
        cache_dir: The cache, see ``cache.cache_root``.
        num_workers: Processes that tokenize; None: as many as there are cores.
        special_tokens: A file of special tokens, see ``Tokenizer.with_special_tokens``.

    Raises:
        ConfigError: With every mistake in the arguments.
    """

    #: What the rows of a sample are in turn, in the words of the format of ``ironcore``.
    types: tuple[str, ...] = ("sft",)

    _source: type[RecordSource[Any]] = Conversations
    _encoder: type[RowEncoder] = ChatEncoder
    _rows_type: type[TrainedRows] = TrainedRows

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
        chat_template: str | None = None,
        chat_template_arguments: Mapping[str, Any] | None = None,
        train_on: TrainOn = "all",
        too_long: TooLong = "right",
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
        self._sources = {
            name: self._source.of(datasets)
            for name, datasets in (("training", train_datasets), ("evaluation", eval_datasets), ("test", test_datasets))
            if datasets
        }
        self._tokenizer_of = tokenizer_type, vocab_name_or_path, vocab_size
        self._splits = tuple(splits)
        self._samples = {"training": None, "evaluation": eval_samples, "test": test_samples}
        self._template = _template(chat_template, self._sources.values())
        self._template_arguments = dict(chat_template_arguments or {})
        self._train_on = train_on
        self._too_long = too_long
        self._cache_dir = cache_dir
        self._num_workers = num_workers
        self._special_tokens = special_tokens
        self._prepared: _Prepared | None = None

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer, with the chat template that was used."""
        return self._ready().tokenizer

    @property
    def train(self) -> TrainedRows:
        """The training rows."""
        rows = self._rows("training")
        assert rows is not None
        return rows

    @property
    def eval(self) -> TrainedRows | None:
        """The evaluation rows; None if their share is zero."""
        return self._rows("evaluation")

    @property
    def test(self) -> TrainedRows | None:
        """The test rows; None if their share is zero."""
        return self._rows("test")

    @property
    def stores(self) -> dict[str, TokenStore]:
        """The stores by what they are for: ``training``, and ``evaluation`` and ``test`` where they have data of their own."""
        return dict(self._ready().stores)

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
        training = self._sources["training"]
        tokenizer = made_tokenizer(*self._tokenizer_of, training.texts, training.key, self._cache_dir, progress, self._special_tokens)
        renderer = ChatRenderer(tokenizer, self._template, self._template_arguments, self._train_on)
        encoder = self._encoder(tokenizer, renderer, self.seq_length, self._too_long)
        stores = {}
        for name, source in self._sources.items():
            stores[name] = store = build_store(
                source, encoder, source.key(), cache_dir=self._cache_dir, progress=progress, num_workers=self._num_workers
            )
            for what, number in sorted(store.counts.items()):
                log.info("%s data: %s %s", name, f"{number:,}", what)
        if self._template is not None:
            tokenizer = tokenizer.with_chat_template(renderer.template.text)
        self._prepared = _Prepared(tokenizer, stores)
        self.train  # noqa: B018  (told now, not when the model is built: there may be too few)

    def _ready(self) -> _Prepared:
        self.prepare()
        assert self._prepared is not None
        return self._prepared

    def _rows(self, name: str) -> TrainedRows | None:
        """The rows of a store of its own or, where there is none, of a split of the training store."""
        stores = self._ready().stores
        store = stores.get(name, stores["training"])
        samples = store.num_documents // len(self.types)
        start, stop = 0, samples
        if store is stores["training"]:
            names = ("training", "evaluation", "test")
            shares = [0.0 if each in stores else share for each, share in zip(names, self._splits, strict=True)]
            shares[0] = 1 - shares[1] - shares[2]
            if shares[names.index(name)] == 0:
                return None
            start, stop = split_ranges(samples, shares)[names.index(name)]
        limit = self._samples[name]
        if limit is not None:
            stop = min(stop, start + limit)
        if stop == start:
            what = self._source.what
            raise DataError(f"{name} data: none of the {samples} samples falls to it (use more {what}, or other splits)")
        return self._rows_type(store, start * len(self.types), stop * len(self.types))


@dataclass(frozen=True)
class _Prepared:
    tokenizer: Tokenizer
    stores: dict[str, TokenStore]


def _template(given: str | None, sources: Any) -> str | None:
    """The one chat template of a run.

    Raises:
        ConfigError: If datasets name several.
    """
    named = {given, *(entry.chat_template for source in sources for entry in source.entries)} - {None}
    if len(named) > 1:
        raise ConfigError(f"chat_template: one run has one template, which is saved with its tokenizer; {len(named)} are named")
    return named.pop() if named else None
