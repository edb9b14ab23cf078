"""The token store: what is in it, that it is complete or absent, and that memory does not grow."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import pickle
import resource
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ironloom.data.cache import cache_root
from ironloom.data.preparation.records import batches, size_of
from ironloom.data.store import TokenStore, prepare
from ironloom.data.tokenizer import Tokenizer
from ironloom.errors import DataError, ResourceError

TEXTS = ["alpha", "beta gamma", "\u00e4"]


def texts(*documents: str) -> Callable[[], Iterator[str]]:
    return lambda: iter(documents)


def never() -> Iterator[str]:
    pytest.fail("prepared again")


@pytest.fixture
def tokenizer() -> Tokenizer:
    return Tokenizer.bytes()


def folders(cache: Path) -> list[str]:
    return sorted(path.name for path in (cache / "tokens").iterdir())


def test_documents_lie_one_after_the_other_with_end_tokens(tmp_path: Path, tokenizer: Tokenizer) -> None:
    store = prepare(texts(*TEXTS), tokenizer, "key", tmp_path)
    expected = [*b"alpha", 256, *b"beta gamma", 256, *"\u00e4".encode(), 256]
    assert store.tokens.tolist() == expected
    assert store.offsets.tolist() == [0, 6, 17, 20]
    assert (store.num_tokens, store.num_documents, store.tokens.dtype) == (20, 3, np.dtype("<u2"))
    assert isinstance(store.tokens, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        store.tokens[0] = 1
    meta = json.loads((store.folder / "meta.json").read_text())
    assert meta["tokenizer"] == tokenizer.fingerprint
    store.verify()


def test_a_large_vocabulary_gets_more_bits(tmp_path: Path) -> None:
    import tokenizers

    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "b": 70_000, "</s>": 1}, unk_token="a"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    store = prepare(texts("a b", "b"), Tokenizer(backend), "key", tmp_path)
    assert store.tokens.tolist() == [0, 70_000, 1, 70_000, 1]
    assert store.tokens.dtype == np.dtype("<u4")


def test_a_finished_store_is_used_again(tmp_path: Path, tokenizer: Tokenizer) -> None:
    first = prepare(texts(*TEXTS), tokenizer, "key", tmp_path)
    assert prepare(never, tokenizer, "key", tmp_path).folder == first.folder
    assert prepare(texts("b"), tokenizer, "other", tmp_path).folder != first.folder
    other = Tokenizer.train(TEXTS, 260)
    assert prepare(texts("b"), other, "key", tmp_path).folder != first.folder
    assert len(folders(tmp_path)) == 3


def test_batches_do_not_show_in_the_result(tmp_path: Path, tokenizer: Tokenizer) -> None:
    documents = [str(number) * (number % 50) for number in range(1, 5000)]
    seen: list[int] = []
    store = prepare(texts(*documents), tokenizer, "key", tmp_path, lambda done, what, fraction: seen.append(done))
    assert seen == [2048, 4096, 4999]
    expected = [number for text in documents for number in (*text.encode(), 256)]
    assert store.tokens.tolist() == expected
    assert store.num_documents == 4999
    long = ((letter, letter) for letter in ["x" * 600_000] * 5)
    assert [len(batch) for batch, _ in batches(long, size_of)] == [2, 2, 1]


def test_memory_does_not_grow_with_the_corpus(tmp_path: Path) -> None:
    program = """
        import resource, sys
        from ironloom.data.store import prepare
        from ironloom.data.tokenizer import Tokenizer
        tokenizer = Tokenizer.bytes()
        def texts(count):
            return lambda: (f"{number} word and word " * 6000 for number in range(count))
        peaks = []
        for count in (12, 60):
            prepare(texts(count), tokenizer, str(count), sys.argv[1])
            peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        print(peaks[1] - peaks[0])
    """
    run = subprocess.run([sys.executable, "-c", textwrap.dedent(program), str(tmp_path)], capture_output=True, text=True, timeout=120)
    assert float(run.stdout) < 25, run.stderr  # the second corpus has 5 million ids more: 38 MiB as a list


def test_a_store_of_any_size_is_opened_and_entered_at_once(tmp_path: Path) -> None:
    """20 GiB, of which the disk holds a few pages: a reader that looked at more than it needs would never end."""
    from ironloom.data.blocks import TokenBlocks

    small = prepare(texts("x" * 999), Tokenizer.bytes(), "key", tmp_path)
    num_tokens = 10 << 30
    meta = json.loads((small.folder / "meta.json").read_text()) | {"num_tokens": num_tokens}
    (small.folder / "meta.json").write_text(json.dumps(meta))
    os.truncate(small.folder / "tokens.bin", 2 * num_tokens)
    with (small.folder / "tokens.bin").open("r+b") as file:
        file.seek(-2 * 65, os.SEEK_END)
        file.write(np.arange(65, dtype="<u2").tobytes())
    before = resource.getrusage(resource.RUSAGE_SELF)
    blocks = TokenBlocks(TokenStore(small.folder), num_tokens - (1 << 30) - 1, num_tokens, 64)
    assert blocks[len(blocks) - 1]["shift_labels"].tolist() == list(range(1, 65))
    assert blocks[len(blocks) // 2]["input_ids"].tolist() == [0] * 64
    after = resource.getrusage(resource.RUSAGE_SELF)
    assert after.ru_minflt + after.ru_majflt - before.ru_minflt - before.ru_majflt < 5_000  # pages of 4 KiB; there are five million


def test_a_store_travels_as_its_name(tmp_path: Path, tokenizer: Tokenizer) -> None:
    store = prepare(texts("x" * 100_000), tokenizer, "key", tmp_path)
    packed = pickle.dumps(store)
    assert len(packed) < 1000
    assert pickle.loads(packed).num_tokens == 100_001


@pytest.mark.parametrize("damage", ["tokens.bin", "documents.bin", "meta.json", "missing"])
def test_a_damaged_store_is_prepared_anew(tmp_path: Path, tokenizer: Tokenizer, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    store = prepare(texts(*TEXTS), tokenizer, "key", tmp_path)
    if damage == "missing":
        (store.folder / "tokens.bin").unlink()
    else:
        os.truncate(store.folder / damage, 5)
    with pytest.raises(DataError):
        TokenStore(store.folder)
    with caplog.at_level(logging.WARNING):
        assert prepare(texts(*TEXTS), tokenizer, "key", tmp_path).num_tokens == 20
    assert "prepared anew" in caplog.text
    assert folders(tmp_path) == [store.folder.name]


def test_a_flipped_byte_is_found_by_verify(tmp_path: Path, tokenizer: Tokenizer) -> None:
    store = prepare(texts(*TEXTS), tokenizer, "key", tmp_path)
    content = bytearray((store.folder / "tokens.bin").read_bytes())
    content[3] ^= 1
    (store.folder / "tokens.bin").write_bytes(content)
    with pytest.raises(DataError, match=r"tokens\.bin: the content is damaged"):
        TokenStore(store.folder).verify()


def test_an_error_in_the_text_leaves_nothing(tmp_path: Path, tokenizer: Tokenizer) -> None:
    def documents() -> Iterator[str]:
        yield "a"
        raise DataError("line 2 is wrong")

    with pytest.raises(DataError, match="line 2 is wrong"):
        prepare(documents, tokenizer, "key", tmp_path)
    assert folders(tmp_path) == []
    with pytest.raises(DataError, match="no documents"):
        prepare(texts(), tokenizer, "key", tmp_path)
    assert folders(tmp_path) == []


def test_a_full_disk_is_named_and_leaves_nothing(tmp_path: Path, tokenizer: Tokenizer) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
    try:
        with pytest.raises(ResourceError, match=r"no space left.*IRONLOOM_CACHE"):
            prepare(texts("x" * 100_000), tokenizer, "key", tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert folders(tmp_path) == []
    assert prepare(texts("x" * 100_000), tokenizer, "key", tmp_path).num_tokens == 100_001


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path, tokenizer: Tokenizer) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ResourceError, match=r"cannot be written: .*set cache_dir"):
        prepare(texts("a"), tokenizer, "key", tmp_path / "file")


def test_a_tokenizer_without_an_end_token_is_refused(tmp_path: Path) -> None:
    import tokenizers

    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0}, unk_token="a"))
    with pytest.raises(DataError, match="no end token"):
        prepare(never, Tokenizer(backend), "key", tmp_path)


def slowly(cache: Path, started: Any) -> None:
    """Prepares a corpus that takes its time, and tells when a part of it is written."""

    def documents() -> Iterator[str]:
        for number in range(300):
            time.sleep(0.002)
            yield f"{number} " * 10_000

    prepare(documents, Tokenizer.bytes(), "key", cache, lambda done, what, fraction: started.set())


def test_two_processes_at_once_make_one_store(tmp_path: Path, tokenizer: Tokenizer) -> None:
    context = multiprocessing.get_context("fork")
    started = [context.Event() for _ in range(3)]
    processes = [context.Process(target=slowly, args=(tmp_path, event)) for event in started]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert sum(event.is_set() for event in started) == 1  # the others waited
    (name,) = folders(tmp_path)
    TokenStore(tmp_path / "tokens" / name).verify()
    assert prepare(never, tokenizer, "key", tmp_path).num_documents == 300


def test_the_place_of_the_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("IRONLOOM_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_root() == tmp_path / ".cache" / "ironloom"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    assert cache_root() == tmp_path / "x" / "ironloom"
    monkeypatch.setenv("IRONLOOM_CACHE", str(tmp_path / "own"))
    assert cache_root() == tmp_path / "own"
    assert cache_root(tmp_path / "given") == tmp_path / "given"
