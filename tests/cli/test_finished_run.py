"""What is done with a finished run: text is generated, its checkpoints are listed and verified."""

from __future__ import annotations

import subprocess

import pytest

from cli.commands import Place, flip

# The tests share runs: one process of a distributed test run takes them all.
pytestmark = pytest.mark.xdist_group("end-to-end")


def test_generate_from_the_run_and_from_a_checkpoint(place: Place, finished: subprocess.CompletedProcess[str]) -> None:
    words = ("--prompt", "The import statement", "--max-new-tokens", "20", "--temperature", "1.5")
    here = place.run("generate", "out", *words, "--seed", "1")
    assert here.returncode == 0, here.stderr
    assert here.stdout.startswith("The import statement")
    assert len(here.stdout) > len("The import statement\n")
    assert place.run("generate", "out/checkpoints/checkpoint-300", *words, "--seed", "1").stdout == here.stdout
    assert place.run("generate", "out", *words, "--seed", "2").stdout != here.stdout


def test_generate_reads_standard_input(place: Place, finished: subprocess.CompletedProcess[str]) -> None:
    result = place.run("generate", "out", "--max-new-tokens", "3", stdin="class\n")
    assert (result.returncode, result.stdout[:5]) == (0, "class")
    empty = place.run("generate", "out", stdin="")
    assert (empty.returncode, empty.stdout) == (2, "")
    assert empty.stderr == "error: an empty prompt: give --prompt TEXT, or text on standard input\n"


def test_checkpoints_are_listed_and_verified(place: Place, finished: subprocess.CompletedProcess[str]) -> None:
    listed = place.run("ckpt", "ls", "out")
    assert [line.split("\t")[0] for line in listed.stdout.splitlines()] == ["200", "300"]
    assert [line.split("\t")[3] for line in listed.stdout.splitlines()] == ["complete", "complete"]
    verified = place.run("ckpt", "verify", "out")
    assert (verified.returncode, verified.stdout.count(": good, ")) == (0, 2)
    copy = place.copy("out", "to be damaged")
    flip(copy / "checkpoints/checkpoint-200/optimizer.safetensors")
    damaged = place.run("ckpt", "verify", "to be damaged")
    assert damaged.returncode == 3
    assert (
        "checkpoint-200: damaged: optimizer.safetensors: content differs from what was saved (wrong hash)" in damaged.stdout.splitlines()[0]
    )
    assert "checkpoint-300: good" in damaged.stdout.splitlines()[1]
