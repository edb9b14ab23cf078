"""``ironloom data prepare``: what it tells, that training finds it, that a kill costs nothing, and what bad input gets."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ironloom.cli import main

SHAPE = (
    "model: {d_model: 8, d_ffn: 8, num_layers: 1, num_attention_heads: 1, head_dim: 8, max_seq_len: 8, "
    "tokenizer_type: byte, vocab_name_or_path: null}\n"
)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Call the command on a configuration; gives the exit code and what was printed."""
    monkeypatch.setenv("IRONLOOM_CACHE", str(tmp_path / "cache"))

    def run(datasets: str, *words: str) -> tuple[int, str, str]:
        (tmp_path / "run.yaml").write_text(f"{SHAPE}data: {{{datasets}}}\n")
        with pytest.raises(SystemExit) as end:
            main(["data", "prepare", str(tmp_path / "run.yaml"), *words])
        captured = capsys.readouterr()
        return int(end.value.code or 0), captured.out, captured.err

    return run


def test_it_tells_tokens_and_fingerprint_and_is_done_once(tmp_path: Path, run) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "abc"}\n{"text": "defghijklmnop"}\n')
    (tmp_path / "b.txt").write_text("evaluation")
    datasets = f"train_datasets: [{tmp_path}/a.jsonl], eval_datasets: [{tmp_path}/b.txt]"
    code, out, _ = run(datasets)
    assert code == 0
    assert "training: 2 documents, 18 tokens\n  fingerprint " in out
    assert "evaluation: 1 documents, 11 tokens\n" in out
    (stores,) = [sorted((tmp_path / "cache" / "tokens").iterdir())]
    times = [store.stat().st_mtime_ns for store in stores]
    assert run(datasets, "--num-workers", "2") == (0, out, "")
    assert [store.stat().st_mtime_ns for store in stores] == times


def test_the_format_of_ironcore_is_written_and_read_again(tmp_path: Path, run) -> None:
    (tmp_path / "a.txt").write_text("some text for training")
    _, first, _ = run(
        f"train_datasets: [{tmp_path}/a.txt], splits: [1.0, 0.0, 0.0]", "--format", "ironcore", "--output", str(tmp_path / "out")
    )
    folder = tmp_path / "out" / "training" / "pretrain"
    assert f"written to {folder}" in first
    code, second, _ = run(f"train_datasets: [{folder}], splits: [1.0, 0.0, 0.0]")
    assert (code, second.splitlines()[:2]) == (0, first.splitlines()[:2])
    assert run(f"train_datasets: [{folder}]", "--format", "ironcore")[0] == 2
    assert run(f"train_datasets: [{folder}]", "--format", "ironcore", "--output", str(tmp_path / "out"))[0] == 2


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"text": "a"}\n{"body": 1}\n{"text": 2}\n', "2 records cannot be used:"),
        ("a.txt", b"", "the file is empty"),
        ("a.jsonl.gz", b"\x1f\x8b", "damaged or cut off"),
        ("a.parquet", b"PAR1", "not a complete Parquet file"),
    ],
)
def test_bad_input_ends_with_3_and_leaves_nothing(tmp_path: Path, run, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    code, _, err = run(f"train_datasets: [{tmp_path / name}]")
    assert code == 3
    assert message in err
    assert str(tmp_path / name) in err
    assert "Traceback" not in err
    assert list((tmp_path / "cache").rglob("*.bin")) == []


def test_a_full_disk_ends_with_4_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("word " * 50_000)
    (tmp_path / "run.yaml").write_text(f"{SHAPE}data: {{train_datasets: [{tmp_path}/a.txt]}}\n")
    limited = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)); from ironloom.cli import main; main()"
    command = [sys.executable, "-B", "-c", limited, "data", "prepare", str(tmp_path / "run.yaml")]
    ended = subprocess.run(
        command, env=os.environ | {"IRONLOOM_CACHE": str(tmp_path / "cache")}, capture_output=True, text=True, timeout=120
    )
    assert ended.returncode == 4, ended.stderr
    assert "no space left" in ended.stderr
    assert list((tmp_path / "cache" / "tokens").iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("num_workers", ["1", "3"])
def test_killed_at_any_moment_it_goes_on_to_the_same_bytes(tmp_path: Path, num_workers: str) -> None:
    with (tmp_path / "a.jsonl").open("w") as file:
        for number in range(4000):
            file.write(json.dumps({"text": f"document {number} with some words " * (number % 500)}) + "\n")
    config = f"{SHAPE}data: {{train_datasets: [{tmp_path}/a.jsonl], splits: [1.0, 0.0, 0.0]}}\n"
    (tmp_path / "run.yaml").write_text(config)
    command = [sys.executable, "-m", "ironloom", "data", "prepare", str(tmp_path / "run.yaml"), "--num-workers", num_workers]

    def start(cache: str) -> subprocess.Popen[str]:
        env = os.environ | {"IRONLOOM_CACHE": str(tmp_path / cache)}
        return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    expected = start("whole").communicate()[0].splitlines()[:2]
    kills = 0
    for _ in range(100):
        process = start("killed")
        before = sum(path.stat().st_size for path in (tmp_path / "killed").rglob("tokens.bin"))
        while process.poll() is None:
            if sum(path.stat().st_size for path in (tmp_path / "killed").rglob("tokens.bin")) > before + 3_000_000:
                process.send_signal(signal.SIGKILL)
                kills += 1
                break
            time.sleep(0.002)
        out = process.communicate()[0]
        if process.returncode == 0:
            break
    assert kills >= 3
    assert out.splitlines()[:2] == expected
    (store,) = (tmp_path / "killed" / "tokens").iterdir()
    (whole,) = (tmp_path / "whole" / "tokens").iterdir()
    for name in ("tokens.bin", "documents.bin", "meta.json"):
        assert (store / name).read_bytes() == (whole / name).read_bytes()


def test_check_names_every_file_that_is_missing_and_where_it_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    here = tmp_path / "here.txt"
    here.write_text("text")
    entries = f"[{here}, ./gone.txt, {{source: {tmp_path}/none}}], eval_datasets: [owner/name, gone.jsonl.gz, python-docs]"
    (tmp_path / "run.yaml").write_text(f"{SHAPE}data: {{train_datasets: {entries}}}\n")
    with pytest.raises(SystemExit) as end:
        main(["check", str(tmp_path / "run.yaml")])
    assert end.value.code == 3
    lines = capsys.readouterr().err.splitlines()
    assert all(f"{tmp_path / 'run.yaml'}:2:" in line for line in lines), lines
    assert [line[line.index("data.") :] for line in lines] == [
        "data.train_datasets.1: ./gone.txt: no such file or folder",
        f"data.train_datasets.2: {tmp_path}/none: no such file or folder",
        "data.eval_datasets.1: gone.jsonl.gz: no such file or folder",
    ]
