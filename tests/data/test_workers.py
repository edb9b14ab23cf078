"""The loader with worker processes: the same batches, and clear words when one fails."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ironloom.data.loader import Loader
from ironloom.errors import DataError


class Random:
    """A sample: its index, and a number of each generator; a fifth of the samples draws."""

    def __init__(self, size: int = 41):
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> list[float]:
        if index % 5:
            return [index, 0.0, 0.0, 0.0]
        return [index, random.random(), float(np.random.random()), torch.rand(()).item()]


def collate(samples: list[list[float]]) -> torch.Tensor:
    return torch.tensor([*samples, [random.random()] * 4], dtype=torch.float64)


def loader(num_workers: int, **options: Any) -> Loader:
    options = {"batch_size": 4, "collate": collate, "seed": 9, **options}
    return Loader(Random(), num_workers=num_workers, **options)


def equal(one: list[torch.Tensor | None], two: list[torch.Tensor | None]) -> bool:
    def bits(batches: list[torch.Tensor | None]) -> list[Any]:
        return [None if batch is None else batch.tolist() for batch in batches]

    return bits(one) == bits(two)


@pytest.mark.parametrize("num_workers", [1, 2])
@pytest.mark.parametrize("persistent", [False, True])
def test_batches_do_not_depend_on_workers(num_workers: int, persistent: bool) -> None:
    alone = loader(0)
    helped = loader(num_workers, persistent_workers=persistent, prefetch_factor=3)
    assert len(helped) == len(alone)
    assert equal(list(helped.iterate(0)), list(alone.iterate(0)))
    assert equal(list(helped.iterate(3, 6)), list(alone.iterate(3, 6)))


def test_ranks_may_have_workers() -> None:
    for rank in (0, 1):
        assert equal(list(loader(2, rank=rank, size=2)), list(loader(0, rank=rank, size=2)))


def test_an_abandoned_iteration_leaves_nothing_behind() -> None:
    helped = loader(2, persistent_workers=True)
    for batch in helped.iterate(0):
        assert batch.numel()
        break
    assert equal(list(helped.iterate(1)), list(loader(0).iterate(1)))


def test_persistent_workers_refuse_two_iterations_at_once() -> None:
    helped = loader(1, persistent_workers=True)
    first = helped.iterate(0)
    next(first)
    next(helped.iterate(1))
    with pytest.raises(RuntimeError, match="one iteration at a time"):
        next(first)


def test_starting_workers_draws_nothing_from_the_global_generators() -> None:
    helped = loader(1)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    iterator = iter(helped)
    next(iterator)
    assert torch.equal(torch.rand(3), expected)


class Faulty(Random):
    def __getitem__(self, index: int) -> list[float]:
        if index == 17:
            raise KeyError("text")
        return super().__getitem__(index)


class Unpicklable(Exception):
    def __init__(self, one: int, two: int):
        super().__init__("does not travel")


class FaultyInItsOwnWay(Random):
    def __getitem__(self, index: int) -> list[float]:
        raise Unpicklable(1, 2)


def test_an_error_in_a_worker_names_the_sample_and_keeps_the_original() -> None:
    with pytest.raises(DataError, match=r"^sample 17 of epoch 0 could not be read: KeyError: 'text'$") as caught:
        list(Loader(Faulty(), batch_size=4, collate=collate, num_workers=2))
    cause = caught.value.__cause__
    assert isinstance(cause, KeyError)
    assert "__getitem__" in cause.__notes__[0]


def test_an_error_that_cannot_be_pickled_comes_as_text() -> None:
    with pytest.raises(DataError, match="Unpicklable: does not travel") as caught:
        list(Loader(FaultyInItsOwnWay(), batch_size=4, collate=collate, num_workers=1))
    assert "__getitem__" in str(caught.value.__cause__)


class Deadly(Random):
    def __getitem__(self, index: int) -> list[float]:
        if index == 17:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(index)


def test_the_death_of_a_worker_names_the_sample() -> None:
    with pytest.raises(DataError, match="while reading sample 17 of epoch 1") as caught:
        list(Loader(Deadly(), batch_size=4, collate=collate, num_workers=2).iterate(1))
    assert "use fewer workers" in str(caught.value)
    assert multiprocessing.active_children() == []


class Pids(Random):
    def __getitem__(self, index: int) -> list[float]:
        return [index, os.getpid(), 0, 0]


def test_workers_outlive_the_signals_of_the_group() -> None:
    helped = Loader(Pids(400), batch_size=4, collate=collate, num_workers=1, prefetch_factor=1)
    batches = iter(helped)
    worker = int(next(batches)[0, 1])
    assert worker != os.getpid()
    os.kill(worker, signal.SIGINT)
    os.kill(worker, signal.SIGTERM)
    assert len(list(batches)) == 99


def test_the_death_of_a_worker_does_not_interrupt_other_work() -> None:
    before = signal.getsignal(signal.SIGCHLD)
    list(loader(1))
    assert signal.getsignal(signal.SIGCHLD) is before


def test_a_tokenizer_used_before_the_workers_start_gives_no_warnings() -> None:
    program = """
        import os
        os.environ.pop("TOKENIZERS_PARALLELISM", None)
        from ironloom.data.loader import Loader
        from ironloom.data.tokenizer import Tokenizer
        tokenizer = Tokenizer.bytes()
        tokenizer.encode_batch(["some text"] * 100)
        class Texts:
            def __len__(self): return 8
            def __getitem__(self, index): return tokenizer.encode_batch(["text"] * 10)
        print(len(list(Loader(Texts(), batch_size=2, collate=list, num_workers=2))))
        assert "TOKENIZERS_PARALLELISM" not in os.environ
    """
    run = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=60)
    assert (run.stdout.strip(), run.stderr) == ("4", "")


def test_a_process_with_persistent_workers_ends_at_once(tmp_path: Path) -> None:
    """They go on for half a minute after a SIGTERM, which is also how a process ends its children."""
    script = tmp_path / "run.py"
    script.write_text(
        "from ironloom.data.loader import Loader\n"
        "loader = Loader([{'x': [i]} for i in range(8)], batch_size=2, collate=list, num_workers=2, persistent_workers=True)\n"
        "print(len(list(loader.iterate(0))), len(list(loader.iterate(1))), flush=True)\n"
    )
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "4 4\n"
        process.wait(timeout=15)
