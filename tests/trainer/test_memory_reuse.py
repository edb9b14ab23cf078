"""Tensors of a step get the memory of those before them, instead of new pages from the system."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

PAGES = """
import resource, torch
from ironloom.device import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        torch.empty(2**24).fill_(1.0)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

left_alone = faults()
keep_freed_memory()
faults()
print(left_alone, faults())
"""


def pages(**environment: str) -> list[int]:
    known = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    output = subprocess.run([sys.executable, "-c", PAGES], env=known | environment, capture_output=True, text=True, check=True).stdout
    return [int(number) for number in output.split()]


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have no mallopt")
def test_freed_blocks_are_used_again() -> None:
    left_alone, kept = pages()
    assert left_alone > 10 * kept, (left_alone, kept)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have no mallopt")
def test_the_environment_has_the_last_word() -> None:
    left_alone, kept = pages(MALLOC_TRIM_THRESHOLD_="131072")
    assert kept > left_alone / 2
