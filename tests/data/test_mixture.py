"""Sources as one dataset: proportions of tokens, whole passes, any number of workers and ranks, counts from the order alone."""

from __future__ import annotations

import itertools
import pickle
from collections import Counter
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ironloom.data import Mixture, PretrainData, SFTData, TokenBlocks, collate_blocks, make_loader
from ironloom.data.blocks import BlockRows
from ironloom.errors import ConfigError, DataError

LENGTH = 8


def blocks(count: int, first: int, length: int = LENGTH) -> TokenBlocks:
    """Blocks whose first tokens are ``first``, ``first + 1`` and so on."""
    tokens = np.repeat(np.arange(first, first + count + 1), length)
    return TokenBlocks(tokens, 0, count * length + 1, length)


def mixture(ratios: dict[str, float] | None = None) -> Mixture:
    return Mixture({"web": blocks(90, 0), "code": blocks(20, 1000)}, {"web": 0.7, "code": 0.3} if ratios is None else ratios)


def firsts(dataset: Any, **options: Any) -> list[list[int]]:
    """The first tokens of the samples of each batch of three epochs."""
    loader = make_loader(dataset, **{"batch_size": 10, "collate": collate_blocks, "seed": 3, **options})
    return [batch["input_ids"][:, 0].tolist() for epoch in range(3) for batch in loader.iterate(epoch) if batch is not None]


def test_tokens_come_in_the_ratio_in_every_period_of_every_batch() -> None:
    batches = firsts(mixture())
    assert len(batches[0]) == 10
    whole = [batch for batch in batches if len(batch) == 10]
    # An epoch is no multiple of the period: 128 samples.
    assert len(mixture()) == 128
    assert {sum(first >= 1000 for first in batch) for batch in whole} == {3}
    sequence = list(itertools.chain(*batches))
    for end in range(1, len(sequence) + 1):
        assert abs(sum(first >= 1000 for first in sequence[:end]) - 0.3 * end) < 1
    web = [first for first in sequence if first < 1000]
    assert sorted(web[:90]) == sorted(web[90:180]) == list(range(90))
    assert web[:90] != web[90:180]
    assert max(Counter(first for first in sequence if first >= 1000).values()) == 6


def test_the_unit_of_a_ratio_does_not_matter_and_one_is_the_default() -> None:
    assert firsts(mixture({"web": 7, "code": 3})) == firsts(mixture())
    assert firsts(mixture({"web": 1.0})) == firsts(mixture({"web": 5, "code": 5}))


def test_without_ratios_each_comes_once_an_epoch() -> None:
    plain = Mixture({"web": blocks(90, 0), "code": blocks(20, 1000)})
    assert len(plain) == 110
    batches = firsts(plain)
    for epoch in range(3):
        assert sorted(itertools.chain(*batches[11 * epoch : 11 * epoch + 11])) == [*range(90), *range(1000, 1020)]


@pytest.mark.parametrize("size", [2, 5])
def test_ranks_share_the_same_steps(size: int) -> None:
    ranks = [firsts(mixture(), batch_size=10 // size, rank=rank, size=size) for rank in range(size)]
    alone = firsts(mixture())
    assert sorted(itertools.chain(*itertools.chain(*ranks))) == sorted(itertools.chain(*alone))
    for step in range(12):
        assert sorted(itertools.chain(*(rank[step] for rank in ranks))) == sorted(alone[step])


def test_workers_and_a_later_start_change_nothing() -> None:
    class Plain:
        """No token store: that would be read in this process."""

        def __init__(self, first: int):
            self.first = first

        def __len__(self) -> int:
            return 12

        def __getitem__(self, index: int) -> int:
            return self.first + index

    def loader(**options: Any) -> Any:
        return make_loader(Mixture({"a": Plain(0), "b": Plain(100)}, {"a": 3}), batch_size=4, collate=list, seed=1, **options)

    expected = [list(loader().iterate(epoch)) for epoch in range(2)]
    assert expected[0] != expected[1]
    assert [list(loader(num_workers=2).iterate(epoch)) for epoch in range(2)] == expected
    assert list(loader().iterate(1, 5)) == expected[1][5:]


def test_without_shuffling_sources_come_in_their_order() -> None:
    sequence = list(itertools.chain(*firsts(mixture(), shuffle=False)))
    web, code = [first for first in sequence if first < 1000], [first - 1000 for first in sequence if first >= 1000]
    assert web == [place % 90 for place in range(len(web))]
    assert code == [place % 20 for place in range(len(code))]


def test_many_at_once_are_the_same_as_one_by_one() -> None:
    mixed = mixture()
    indices = [5, 91, 109, 0, 127, 91]
    rows = mixed.__getitems__(indices)
    assert isinstance(rows, BlockRows)
    for row, index in zip(rows, indices, strict=True):
        assert all(torch.equal(row[name], mixed[index][name]) for name in ("input_ids", "shift_labels"))
    assert isinstance(mixed.__getitems__([1, 2]), BlockRows)
    listed = Mixture({"a": [1, 2, 3], "b": [4, 5]})
    assert listed.__getitems__([4, 0, 3]) == [5, 1, 4]
    assert [listed[index] for index in (-1, 0, 4)] == [5, 1, 5]
    uneven = Mixture({"a": blocks(3, 0), "b": blocks(3, 9, length=4)})
    assert [len(sample["input_ids"]) for sample in uneven.__getitems__([4, 0, 5])] == [4, 8, 4]
    with pytest.raises(IndexError, match="sample 5 of 5"):
        listed[5]
    with pytest.raises(IndexError):
        mixed.__getitems__([0, 128])
    with pytest.raises(IndexError):
        mixed[128]
    assert firsts(pickle.loads(pickle.dumps(mixed))) == firsts(mixed)


def test_index_by_index_it_is_one_epoch_in_the_order_of_the_sources() -> None:
    """As a loader of PyTorch, or a sampler of the user's own, would read it."""
    mixed = mixture()
    plain = [int(sample["input_ids"][0]) for sample in (mixed[index] for index in range(len(mixed)))]
    assert plain == list(itertools.chain(*firsts(mixture(), shuffle=False)[:13]))
    assert int(mixed[-1]["input_ids"][0]) == plain[-1]
    loader = torch.utils.data.DataLoader(mixed, batch_size=16, shuffle=True, collate_fn=collate_blocks)
    read = [first for batch in loader for first in batch["input_ids"][:, 0].tolist()]
    assert sorted(read) == sorted(plain)


def test_counts_are_those_of_what_is_read() -> None:
    loader = make_loader(mixture(), batch_size=10, collate=collate_blocks, seed=3)
    for epoch, start, stop in ((0, 0, 128), (0, 40, 70), (2, 0, 10), (1, 5, 5)):
        read = list(itertools.chain(*(batch["input_ids"][:, 0].tolist() for batch in loader.iterate(epoch))))[start:stop]
        code = sum(first >= 1000 for first in read)
        assert loader.sources is not None
        assert loader.sources(epoch, start, stop) == {"web": (len(read) - code, (len(read) - code) * LENGTH), "code": (code, code * LENGTH)}
    assert make_loader(blocks(5, 0), batch_size=2, collate=collate_blocks).sources is None
    unmeasured = make_loader(Mixture({"a": [1, 2], "b": blocks(3, 0)}), batch_size=5, collate=list)
    assert unmeasured.sources(0, 0, 5) == {"a": (2, None), "b": (3, 24)}


def test_samples_of_their_own_length_are_drawn_so_that_tokens_are_in_the_ratio() -> None:
    draw = np.random.default_rng(0)

    class Uneven:
        def __init__(self, mean: int, count: int):
            self.sizes = draw.integers(1, 2 * mean, count)

        mean_length = property(lambda self: Fraction(int(self.sizes.sum()), len(self.sizes)))

        def lengths(self, indices: Any) -> Any:
            return self.sizes[indices]

        def __len__(self) -> int:
            return len(self.sizes)

        def __getitem__(self, index: int) -> int:
            return int(self.sizes[index])

    # Ten times as long, and a third of the tokens.
    loader = make_loader(
        Mixture({"short": Uneven(30, 3000), "long": Uneven(300, 700)}, {"short": 2, "long": 1}), batch_size=8, collate=list
    )
    counts = loader.sources(0, 0, len(loader.dataset))
    tokens = {name: number for name, (_, number) in counts.items()}
    assert tokens["short"] / tokens["long"] == pytest.approx(2, rel=0.02)
    assert counts["short"][0] > 15 * counts["long"][0]
    half = loader.sources(0, 0, len(loader.dataset) // 2)
    assert half["short"][1] / half["long"][1] == pytest.approx(2, rel=0.06)


@pytest.mark.parametrize(
    ("ratios", "message"),
    [
        ({"we": 1.0}, r"ratios\.we: there is no such source \(there are web, code\)"),
        ({"web": 0.0, "code": -1}, r"(?s)ratios\.web: expected a number above 0, found 0\.0.*ratios\.code"),
        ({"web": float("nan")}, "expected a number above 0"),
        ({"web": float("inf")}, "expected a number above 0"),
    ],
)
def test_wrong_ratios(ratios: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        mixture(ratios)


def test_nothing_to_mix() -> None:
    with pytest.raises(ConfigError, match="at least one source"):
        Mixture({})
    with pytest.raises(DataError, match="empty: there is no sample"):
        Mixture({"full": [1], "empty": []})
    for wrong in (iter([1]), {"a": 1}, None):
        with pytest.raises(ConfigError, match=r"sources\.b: a source needs a length and an index"):
            Mixture({"a": [1], "b": wrong})


def test_it_says_what_there_is_and_how_often_it_is_seen() -> None:
    assert mixture().described() == (
        "128 samples an epoch: web 90 samples (70.00% of them, seen 1.00 times), code 20 samples (30.00% of them, seen 1.92 times)"
    )
    assert Mixture({"a": [1], "b": [2, 3]}).described() == "3 samples an epoch: a 1 samples, b 2 samples"


def prepared(folder: Path, cls: Any, files: dict[str, str], entries: list[Any], **options: Any) -> Any:
    for name, text in files.items():
        (folder / name).write_text(text)
    paths = [{**entry, "source": str(folder / entry["source"])} for entry in entries]
    byte = {"tokenizer_type": "byte", "vocab_name_or_path": None, "vocab_size": None}
    return cls(paths, **byte, seq_length=options.pop("seq_length", 10), cache_dir=str(folder / "cache"), **options)


def test_nine_to_one_of_two_equal_files_is_nine_to_one(tmp_path: Path) -> None:
    """Elsewhere ratios of texts have no effect: they give half of each."""
    files = {"a.txt": "a" * 5000, "b.txt": "b" * 5000}
    data = prepared(tmp_path, PretrainData, files, [{"source": "a.txt", "ratio": 0.9}, {"source": "b.txt", "ratio": 0.1}])
    loader = make_loader(data.train, batch_size=10, collate=collate_blocks)
    letters = Counter(chr(token) for batch in loader for token in batch["input_ids"].flatten().tolist())
    assert letters["a"] / letters["b"] == pytest.approx(9, rel=0.01)
    assert list(data.eval) == ["a", "b"], "the evaluation part of each by itself"
    assert {chr(token) for token in data.eval["b"][0]["input_ids"].tolist()} == {"b"}


def test_ratios_of_conversations_change_how_often_they_are_seen(tmp_path: Path) -> None:
    """Elsewhere they change the order only: every conversation comes once an epoch."""
    line = '{"prompt": "%s", "completion": "%s"}\n'
    files = {"long.jsonl": line % ("x", "y" * 90) * 50, "short.jsonl": line % ("x", "z" * 9) * 80}
    entries = [{"source": "long.jsonl", "ratio": 1.0}, {"source": "short.jsonl", "name": "brief"}]
    data = prepared(tmp_path, SFTData, files, entries, chat_template="plain", seq_length=200, splits=(1.0, 0.0, 0.0))
    loader = make_loader(data.train, batch_size=4, collate=list)
    counts = loader.sources(0, 0, len(data.train))
    read = [sample for batch in loader for sample in batch]
    tokens = Counter()
    for sample in read:
        tokens["long" if ord("y") in sample["input_ids"].tolist() else "brief"] += len(sample["input_ids"])
    assert {name: number for name, (_, number) in counts.items()} == dict(tokens)
    assert tokens["long"] / tokens["brief"] == pytest.approx(1.0, rel=0.01)


def test_a_ratio_is_one_of_training_data(tmp_path: Path) -> None:
    files = {"a.txt": "a" * 500}
    with pytest.raises(ConfigError, match=r"eval_datasets\.0\.ratio: has no effect: each set is evaluated by itself \(leave the key out\)"):
        prepared(tmp_path, PretrainData, files, [{"source": "a.txt"}], eval_datasets=[{"source": "b.txt", "ratio": 0.5}])
    alone = prepared(tmp_path, PretrainData, files, [{"source": "a.txt", "ratio": 0.5}])
    assert isinstance(alone.train, TokenBlocks), "a mixture of one is that one"
    twice = [{"source": "a.txt", "ratio": 0.5}, {"source": "a.txt"}]
    with pytest.raises(ConfigError, match=r"train_datasets\.1: is called 'a' like entry 0"):
        prepared(tmp_path, PretrainData, files, twice)
