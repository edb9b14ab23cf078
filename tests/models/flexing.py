"""FlexAttention on the CPU, as accelerators have it: with blocks, and with a gradient."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
import torch._dynamo
import torch.nn.attention.flex_attention as of_torch

from ironloom.models import flex


def as_on_accelerators(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the way of accelerators, with PyTorch's own unfused form in the place of its kernel.

    PyTorch refuses its backward on the CPU, where nobody has made it fast; the formula is there.
    """
    monkeypatch.setattr(flex, "FUSED", ("cpu",))
    monkeypatch.setattr(flex, "_compiled", lambda function: function)
    monkeypatch.setattr(of_torch, "_validate_device", lambda *heads: None)
    monkeypatch.setattr(of_torch, "_WARNINGS_SHOWN", {"flex_attention_performance"})


def through_the_compiler(monkeypatch: pytest.MonkeyPatch, backend: Any) -> None:
    """The same by way of PyTorch's compiler, which gives what it has seen to ``backend``."""
    real = torch.compile
    compiled = functools.cache(flex._compiled.__wrapped__)
    as_on_accelerators(monkeypatch)
    monkeypatch.setattr(flex, "_compiled", compiled)
    monkeypatch.setattr(torch, "compile", lambda function=None, **options: real(function, **{"backend": backend, **options}))
    torch._dynamo.reset()
