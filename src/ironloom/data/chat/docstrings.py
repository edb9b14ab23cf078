"""Conversations that are on every machine with Python: signatures of the standard library and what they do."""

from __future__ import annotations

import ast
import functools
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import xxhash

MODULES = (
    *("argparse", "bisect", "calendar", "codecs", "configparser", "contextlib", "copy", "csv", "difflib", "fractions", "functools"),
    *("glob", "gzip", "heapq", "inspect", "ipaddress", "mailbox", "mimetypes", "os", "pdb", "pickle", "platform", "posixpath", "random"),
    *("shutil", "socket", "statistics", "string", "subprocess", "tarfile", "tempfile", "textwrap", "threading", "types", "zipfile"),
)
_LONGEST = 160  # characters of a signature, and of what it does


@functools.cache
def docstrings() -> tuple[tuple[str, str], ...]:
    """Signatures of functions and methods with the first paragraphs of their docstrings, in the order of the sources."""
    return tuple(_pairs())


def _pairs() -> Iterator[tuple[str, str]]:
    seen = set()
    for path in _files():
        for name, node in _functions(ast.parse(path.read_bytes()), path.stem):
            paragraph = " ".join((ast.get_docstring(node) or "").partition("\n\n")[0].split())
            if not 10 <= len(paragraph) <= _LONGEST or paragraph in seen:
                continue
            seen.add(paragraph)
            signature = f"{name}({ast.unparse(node.args)})"
            if len(signature) <= _LONGEST:
                yield signature, paragraph


def records() -> Iterator[dict[str, Any]]:
    """The same as records with ``messages``."""
    for signature, paragraph in docstrings():
        question = f"What does this function do?\n{signature}"
        yield {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": paragraph}]}


def identity() -> str:
    """What identifies them: the sources that they are made of, and how."""
    hasher = xxhash.xxh3_128(f"2:{_LONGEST}".encode())
    for path in _files():
        hasher.update(path.read_bytes())
    return hasher.hexdigest()


RECORDS = {"python-docstrings": (records, identity)}


def _files() -> list[Path]:
    root = Path(sysconfig.get_path("stdlib"))
    return [path for name in MODULES if (path := root / f"{name}.py").is_file()]


def _functions(node: ast.AST, name: str) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    """Functions and methods with their dotted names, outer ones first."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield f"{name}.{child.name}", child
        elif isinstance(child, ast.ClassDef):
            yield from _functions(child, f"{name}.{child.name}")
