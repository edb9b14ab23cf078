"""Reading text: every kind of source, and every way in which a file can be wrong."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ironloom.data import hub
from ironloom.data.corpus import fingerprint, read_documents
from ironloom.errors import DataError

TEXTS = ["one", "two\nlines", "drei \u00e4\u00f6\u00fc", 'four, "quoted"']


def write(path: Path, texts: list[str] = TEXTS, column: str = "text") -> Path:
    """A file of the kind that its name says."""
    if path.suffix == ".txt":
        path.write_text(texts[0], encoding="utf-8")
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps({column: text, "n": 1}) + "\n" for text in texts), encoding="utf-8")
    elif path.suffix == ".json":
        path.write_text(json.dumps([{column: text} for text in texts], indent=1), encoding="utf-8")
    elif path.suffix == ".csv":
        import csv

        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([["n", column], *([number, text] for number, text in enumerate(texts))])
    elif path.suffix == ".parquet":
        import pyarrow
        from pyarrow import parquet

        parquet.write_table(pyarrow.table({"n": list(range(len(texts))), column: texts}), path)
    return path


def read(source: object, **options: Any) -> list[str]:
    return list(read_documents(str(source), **options))


RECORDS = [".jsonl", ".json", ".csv", ".parquet"]


@pytest.mark.parametrize("suffix", RECORDS)
def test_records_are_documents(tmp_path: Path, suffix: str) -> None:
    assert read(write(tmp_path / f"a{suffix}")) == TEXTS
    assert read(write(tmp_path / f"b{suffix}", column="body"), text_column="body") == TEXTS
    assert read(tmp_path / f"a{suffix}", max_samples=2) == TEXTS[:2]


def test_a_text_file_is_one_document(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfa\r\nb\n")
    assert read(tmp_path / "a.txt") == ["a\r\nb\n"]


def test_json_may_hold_lines_or_one_object(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('{"text": "a"}\n\n{"text": "b"}\n')
    assert read(path) == ["a", "b"]
    path.write_text('{\n "text": "a"\n}')
    assert read(path) == ["a"]


def test_a_folder_is_read_in_order_without_hidden_files(tmp_path: Path) -> None:
    for name in ("b.txt", "a/z.txt", "a/.hidden.txt", ".git/c.txt", "a/notes.md", "c.jsonl"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write(tmp_path / name, [name]) if not name.endswith(".md") else (tmp_path / name).write_text("x")
    assert read(tmp_path) == ["a/z.txt", "b.txt", "c.jsonl"]


def test_empty_texts_are_left_out(tmp_path: Path) -> None:
    assert read(write(tmp_path / "a.jsonl", ["", "a", "", "b"]), max_samples=2) == ["a", "b"]


def test_long_fields_of_csv_are_read(tmp_path: Path) -> None:
    text = "x" * 300_000
    assert read(write(tmp_path / "a.csv", [text])) == [text]


def test_the_built_in_corpora() -> None:
    docs = read("python-docs")
    assert len(docs) > 50
    assert any('The "import" statement' in text for text in docs)
    assert read("python-docs", max_samples=3) == docs[:3]
    sources = read("python-stdlib", max_samples=20)
    assert all("\x00" not in text for text in sources)
    assert sum("def " in text for text in sources) > 10


def bad(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"", r"a\.txt: the file is empty"),
        ("a.jsonl", b"", r"a\.jsonl: the file is empty"),
        ("a.csv", b"", r"a\.csv: the file is empty"),
        ("a.parquet", b"", r"a\.parquet: the file is empty"),
        ("a.txt", b"one\ntwo\n\xff\n", r"a\.txt:3: not UTF-8: byte 0xff"),
        ("a.jsonl", b'{"text": "a"}\n{"text": "\xe4"}\n', r"a\.jsonl:2: not UTF-8: byte 0xe4"),
        ("a.csv", b"text\na\n\xe4\n", r"a\.csv:3: not UTF-8"),
        ("a.jsonl", b'{"text": "a"}\n{"text": \n', r"a\.jsonl:2: not valid JSON"),
        ("a.json", b'[{"text": "a"},\n {"text" "b"}]', r"a\.json:2: not valid JSON"),
        ("a.jsonl", b'{"text": "a"}\n{"body": "b", "n": 1}\n', r"a\.jsonl:2: no column 'text'; there is body, n"),
        ("a.csv", b"body,n\na,1\n", r"a\.csv:2: no column 'text'; there is body, n"),
        ("a.jsonl", b'{"text": 5}\n', r"a\.jsonl:1: expected a text in 'text', found int 5"),
        ("a.json", b'[{"text": "a"}, {"text": null}]', r"a\.json: record 1: expected a text in 'text', found NoneType"),
        ("a.jsonl", b'["text"]\n', r"a\.jsonl:1: expected an object with a field 'text', found list"),
        ("a.jsonl", b'{"text": "\\ud800"}\n', r"a\.jsonl:1: 'text' holds half of a surrogate pair"),
        ("a.jsonl", b'{"text": "a", "n": ' + b"9" * 5000 + b"}\n", r"a\.jsonl:1: not readable as JSON"),
        ("a.jsonl", b"[" * 100_000 + b"\n", r"a\.jsonl:1: not"),
        ("a.csv", b'text\n"a\nb', r"a\.csv:3: not valid CSV"),
        ("a.csv", b"n,text\n1,a\n2\n", r"a\.csv:3: 1 fields, but the header has 2"),
        ("a.csv", b"text\n", r"a\.csv: no text in it"),
        ("a.jsonl", b"\n\n", r"a\.jsonl: no text in it"),
        ("a.bin", b"x", r"a\.bin: unknown kind of file \(\.txt, \.jsonl"),
    ],
)
def test_faults_name_file_and_line(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read(bad(tmp_path / name, content))


def test_a_parquet_file_is_checked(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", column="body")
    with pytest.raises(DataError, match=r"a\.parquet: no column 'text'; there is n, body"):
        read(path)
    with pytest.raises(DataError, match=r"row 0: expected a text in 'n', found int 0"):
        read(path, text_column="n")
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(DataError, match=r"a\.parquet: not a complete Parquet file"):
        read(path, text_column="body")


def test_a_missing_path_is_not_looked_for_on_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "read", lambda *args, **kwargs: pytest.fail("asked the hub"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    for source in ("/no/such", "./no", "~/no/such", "no.txt", "data/no", "a/b/c", "no/", "a\\b"):
        with pytest.raises(DataError, match="no such file or folder"):
            read(source)
    with pytest.raises(DataError, match="cannot be read"):
        read("a\x00b")


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "readme.md").write_text("x")
    with pytest.raises(DataError, match="no file in this folder can be read"):
        read(tmp_path)


@pytest.fixture
def nobody() -> Any:
    """Without the rights of root, which reads everything."""
    if os.geteuid() == 0:
        os.seteuid(65534)
        yield
        os.seteuid(0)
    else:
        yield


def test_what_may_not_be_read_is_named(tmp_path: Path, nobody: None) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        inner = Path(folder, "inner")
        inner.mkdir()
        write(inner / "a.txt")
        (inner / "a.txt").chmod(0)
        with pytest.raises(DataError, match=r"a\.txt: cannot be read: Permission denied"):
            read(folder)
        with pytest.raises(DataError, match=r"a\.txt: cannot be read: Permission denied"):
            fingerprint(folder)
        inner.chmod(0)
        with pytest.raises(DataError, match="inner: cannot be read: Permission denied"):
            read(folder)
        with pytest.raises(DataError, match="cannot be read: Permission denied"):
            read(inner / "a.txt")
        inner.chmod(0o700)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=200), suffix=st.sampled_from([".txt", *RECORDS, ".jsonl.gz", ".txt.gz", ".jsonl.zst", ".csv.zst"]))
def test_any_bytes_give_texts_or_a_data_error(tmp_path: Path, content: bytes, suffix: str) -> None:
    path = bad(tmp_path / f"fuzz{suffix}", content)
    try:
        texts = read(path)
    except DataError as error:
        assert str(path) in str(error)
    else:
        assert all(isinstance(text, str) and text for text in texts)


@pytest.mark.parametrize("suffix", RECORDS)
def test_a_damaged_file_gives_texts_or_a_data_error(tmp_path: Path, suffix: str) -> None:
    whole = write(tmp_path / f"a{suffix}", TEXTS * 5).read_bytes()
    generator = random.Random(1)
    for _ in range(60):
        cut = generator.randrange(1, len(whole))
        content = bytearray(whole[:cut])
        if suffix != ".parquet":
            content[generator.randrange(cut)] = generator.randrange(256)
        try:
            read(bad(tmp_path / f"b{suffix}", bytes(content)))
        except DataError as error:
            assert f"b{suffix}" in str(error)


class FakeHub:
    """Stands for ``datasets.load_dataset``."""

    def __init__(self, rows: list[Any], error: Exception | None = None):
        self.rows, self.error, self.asked = rows, error, {}

    def __call__(self, path: str, **options: Any) -> Any:
        self.asked = {"path": path, **options}
        return self

    def __iter__(self) -> Any:
        yield from self.rows
        if self.error is not None:
            raise self.error


def test_a_dataset_of_the_hub_is_streamed(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    rows = FakeHub([{"body": "a"}, {"body": "b"}])
    monkeypatch.setattr(datasets, "load_dataset", rows)
    assert read("owner/name@abc", text_column="body", split="test", subset="en") == ["a", "b"]
    assert rows.asked == {"path": "owner/name", "name": "en", "split": "test", "revision": "abc", "streaming": True}
    with pytest.raises(DataError, match="owner/name: row 0: no column 'text'; there is body"):
        read("owner/name")
    monkeypatch.setattr(datasets, "load_dataset", FakeHub([{"text": "a"}], ConnectionError("gone")))
    with pytest.raises(DataError, match="reading broke off at row 1: ConnectionError: gone"):
        read("owner/name")


def test_without_a_network_the_message_says_what_to_do() -> None:
    with pytest.raises(DataError, match=r"openwebtext: no file or folder .* cannot be opened: .*without a network: .*python-docs"):
        read("openwebtext")


def compressed(path: Path, suffix: str) -> Path:
    """The file in compressed form beside it."""
    target = path.with_name(path.name + suffix)
    if suffix == ".gz":
        import gzip

        target.write_bytes(gzip.compress(path.read_bytes()))
    else:
        import pyarrow

        with pyarrow.CompressedOutputStream(str(target), "zstd") as file:
            file.write(path.read_bytes())
    return target


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_compressed_files_are_read(tmp_path: Path, suffix: str) -> None:
    import random

    words = random.Random(0)
    texts = [" ".join(f"{words.random()}" for _ in range(100)) for _ in range(300)]
    for kind in (".jsonl", ".json", ".csv"):
        assert read(compressed(write(tmp_path / f"a{kind}", texts), suffix)) == texts
    assert read(compressed(write(tmp_path / "a.txt"), suffix)) == TEXTS[:1]
    path = compressed(write(tmp_path / "b.jsonl", texts), suffix)
    twice = path.with_name(f"twice.jsonl{suffix}")
    twice.write_bytes(path.read_bytes() * 2)  # parts one after the other are one file
    assert read(twice) == texts * 2
    whole = path.read_bytes()
    damaged = [whole[:1000] + bytes(50) + whole[1050:]] if suffix == ".gz" else []  # the library writes no checksum into .zst
    for content in (whole[:-1], whole[:-200], whole[: len(whole) // 2], *damaged, b"no such"):
        path.write_bytes(content)
        with pytest.raises(DataError, match=rf"b\.jsonl\{suffix}"):
            read(path)
    path.write_bytes(b"")
    with pytest.raises(DataError, match=rf"b\.jsonl\{suffix}: (the file is empty|damaged or cut off)"):
        read(path)


def test_all_wrong_records_are_counted(tmp_path: Path) -> None:
    lines = [b'{"text": "good"}', b'{"body": 1}', b"\xff", b"{", b'{"text": 5}', b'{"text": "\\udc00"}'] * 5
    path = bad(tmp_path / "a.jsonl", b"\n".join(lines))
    bad(tmp_path / "b.csv", b"n,text\n1\n2,b\n")
    with pytest.raises(DataError) as caught:
        read(tmp_path)
    message = str(caught.value).splitlines()
    assert message[0] == "26 records cannot be used:"
    assert [line.split(": ")[0] for line in message[1:6]] == [f"{path}:{number}" for number in range(2, 7)]
    assert message[-1] == "and 16 more"
    with pytest.raises(DataError, match=r"^[^\n]*a\.jsonl:2: no column"):
        read(bad(tmp_path / "a.jsonl", b"\n".join(lines[:2])))


def test_reading_goes_on_at_any_mark(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", ["one", "", "two"])
    write(tmp_path / "b.txt", ["three"])
    write(tmp_path / "c.csv", ["four", "", "five"])
    other = write(tmp_path / "other" / "d.json", ["x", "y", "z"]) if (tmp_path / "other").mkdir() is None else None
    from ironloom.data.entries import Corpus

    corpus = Corpus.of([str(tmp_path / "a.jsonl"), {"source": str(other), "max_samples": 2}, str(tmp_path)])
    whole = list(corpus.read(None))
    assert [text for text, _ in whole] == ["one", "two", "x", "y", "one", "two", "three", "four", "five", "x", "y", "z"]
    for number, (_, mark) in enumerate(whole):
        assert list(corpus.read(json.loads(json.dumps(mark)))) == whole[number + 1 :]


def test_what_is_done_is_not_read_again(tmp_path: Path) -> None:
    from ironloom.data.corpus import read_marked

    write(tmp_path / "a.jsonl", ["one", "two"])
    write(tmp_path / "b.jsonl", ["three"])
    marks = dict(read_marked(str(tmp_path)))
    (tmp_path / "a.jsonl").write_bytes(b"\xff")
    assert [text for text, _ in read_marked(str(tmp_path), mark=marks["three"])] == []
    assert [text for text, _ in read_marked(str(tmp_path), mark=(1, 0, 2))] == ["three"]


def test_a_saved_dataset_is_read(tmp_path: Path) -> None:
    import datasets

    rows = datasets.Dataset.from_dict({"text": TEXTS, "n": list(range(len(TEXTS)))})
    rows.save_to_disk(tmp_path / "one")
    assert read(tmp_path / "one") == TEXTS
    datasets.DatasetDict({"train": rows, "test": rows.select([1])}).save_to_disk(tmp_path / "two")
    assert read(tmp_path / "two") == TEXTS
    assert read(tmp_path / "two", split="test") == TEXTS[1:2]
    with pytest.raises(DataError, match="no split 'validation'; there is train, test"):
        read(tmp_path / "two", split="validation")
    with pytest.raises(DataError, match="no column 'body'; there is text, n"):
        read(tmp_path / "one", text_column="body")
    with pytest.raises(DataError, match="row 0: expected a text in 'n'"):
        read(tmp_path / "one", text_column="n")
    names = {fingerprint(str(tmp_path / "two"), split=split) for split in ("train", "test")}
    assert len(names | {fingerprint(str(tmp_path / "one"))}) == 3
    from ironloom.data.corpus import read_marked

    whole = list(read_marked(str(tmp_path / "one")))
    assert [text for text, _ in read_marked(str(tmp_path / "one"), mark=whole[1][1])] == TEXTS[2:]


def test_a_local_folder_is_streamed_by_the_library(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl")
    texts = list(hub.read(str(tmp_path), text_column="text", split="train", subset=None))
    assert texts == TEXTS
    assert list(hub.read(str(tmp_path), text_column="text", split="train", subset=None, skip=3)) == TEXTS[3:]


def test_a_fingerprint_names_the_content(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    first = fingerprint(str(write(tmp_path / "one" / "a.txt", ["same"])))
    assert fingerprint(str(write(tmp_path / "two" / "a.txt", ["same"]))) == first
    assert fingerprint(str(tmp_path / "one")) == fingerprint(str(tmp_path / "two"))
    assert fingerprint(str(tmp_path / "one" / "a.txt"), max_samples=1) != first
    assert fingerprint(str(write(tmp_path / "one" / "a.txt", ["some"]))) != first
    assert fingerprint(str(tmp_path / "one")) != fingerprint(str(tmp_path / "two"))
    write(tmp_path / "two" / "b.txt")
    assert fingerprint(str(tmp_path / "two")) != fingerprint(str(tmp_path / "one"))
    assert fingerprint("python-docs") == fingerprint("python-docs") != fingerprint("python-stdlib")
    names = {
        fingerprint("a/b"),
        fingerprint("a/b", split="x"),
        fingerprint("a/b", subset="x"),
        fingerprint("a/b@x"),
        fingerprint("a/b", text_column="x"),
    }
    assert len(names) == 5
