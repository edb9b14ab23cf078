"""A model in stages trains as it does in one process: 20 steps, uneven masks and lengths, two batches a step.

What there is to compare stands in ``modes.py``.
"""

from __future__ import annotations

import pytest

from parallel.equality import check
from parallel.modes import PIPELINES


@pytest.mark.parametrize("name", [name for name, mode in PIPELINES.items() if mode.quick])
def test_a_schedule(name: str, record_property: pytest.RecordProperty) -> None:
    check(name, PIPELINES[name].quick, record_property)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, mode in PIPELINES.items() if mode.slow])
def test_a_schedule_on_every_other_model(name: str, record_property: pytest.RecordProperty) -> None:
    check(name, PIPELINES[name].slow, record_property)
