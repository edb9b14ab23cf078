"""Every way of spreading a run over processes gives the numbers of one process: 20 steps, uneven masks, two batches a step.

What there is to compare stands in ``modes.py``.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from parallel.equality import MARK, TOLERANCE, check, shown, tables
from parallel.modes import ALONE, OPTIONS, PACKED, PRODUCTS, SECTIONS, SLICED, WEIGHTED
from spread import MODELS, spread_over, together, train

MODES = {**ALONE, **PRODUCTS, **OPTIONS, **SLICED, **PACKED, **WEIGHTED}
#: That the compiler looks at.
gradient_of_no_leaf = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")


@pytest.mark.parametrize("name", [name for name, mode in MODES.items() if mode.quick])
def test_a_mode(name: str, record_property: pytest.RecordProperty) -> None:
    check(name, MODES[name].quick, record_property)


@gradient_of_no_leaf
@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, mode in MODES.items() if mode.slow])
def test_a_mode_on_every_other_model(name: str, record_property: pytest.RecordProperty) -> None:
    check(name, MODES[name].slow, record_property)


def test_half_precision_is_that_of_one_process() -> None:
    exact, alone = train(MODELS["llama"], None, 1), train(MODELS["llama"], None, 1, bf16=True)
    result = together(MODELS["llama"], 2, spread_over(dp_shard=2, param_dtype="bfloat16"), 2)[0]
    assert [loss for _, loss in result.losses] == pytest.approx([loss for _, loss in alone.losses], rel=2e-3)
    assert result.losses != exact.losses
    assert all(weight.dtype is torch.float32 for weight in result.weights.values())


def test_the_document_shows_every_mode_and_no_other() -> None:
    page = Path(__file__).parents[2].joinpath("docs/equality.md").read_text(encoding="utf-8")
    rows = shown(page)
    assert all(float(value) < TOLERANCE for noted in rows.values() for value in noted.split())
    assert list(rows) == [f"{name} | {model}" for modes in SECTIONS.values() for name, mode in modes.items() for model in mode.models]
    assert page.partition(MARK)[2] == tables(rows)
