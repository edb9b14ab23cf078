"""What tests of several processes share."""

from __future__ import annotations

import sys

import pytest


@pytest.fixture(autouse=True)
def no_state_of_others() -> None:
    """Accelerate keeps one state for a whole process; tests elsewhere may have made it, as the arguments of transformers do."""
    accelerate = sys.modules.get("accelerate")
    if accelerate is not None:
        accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
