"""Adapters that are trained instead of a model's weights. Knows nothing of torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Annotated

from annotated_types import Ge, Gt, Lt
from pydantic import FiniteFloat

from ironloom.errors import Problem
from ironloom.settings.base import Settings, setting


@dataclasses.dataclass
class Lora(Settings):
    """Low-rank adapters (Hu et al. 2021, arXiv:2106.09685): a layer adds ``alpha / r * B A x`` to what it gives, A and B are trained."""

    r: Annotated[int, Ge(0)] = setting(0, "Rank of the adapters; 0: none, the whole model is trained")
    alpha: Annotated[FiniteFloat, Gt(0)] = setting(16.0, "What an adapter adds is scaled by alpha / r")
    dropout: Annotated[FiniteFloat, Ge(0), Lt(1)] = setting(0.0, "Dropout on the input of an adapter")
    target_modules: list[str] | str | None = setting(
        None, "Layers that get an adapter, by the ends of their names, or all-linear; null: queries and values, as in the paper"
    )

    def problems(self) -> Iterable[Problem]:
        """Settings of adapters that there are none of."""
        if self.r:
            if self.target_modules == []:
                yield Problem("names no layer", path="target_modules", hint="leave the key out for queries and values")
            return
        for field in dataclasses.fields(self)[1:]:
            if getattr(self, field.name) != field.default:
                yield Problem("has no effect without r", path=field.name, hint="set r, for example 8")
