"""A part of a model: its own forward, entered and left in the middle.

Every stage runs the forward that the model's author wrote. What lies before the stage's first module is replaced for the
time of the call by stand-ins that compute nothing, the tensor from the previous stage takes its place, and the forward is
left behind the stage's last module. So masks, positions and rotary angles are made where they are needed and need not be
sent, and no code of the model has to be known or changed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ironloom.objectives import logits_of
from ironloom.parallel.pipeline.trace import Shape, first_tensor

Numerics = Callable[[], contextlib.AbstractContextManager[Any]]


@dataclass(frozen=True)
class Cut:
    """A place between two stages.

    Attributes:
        path: Path of a module.
        side: Whether the later stage begins with this module (``beginning``) or behind it (``end``).
        width: Length of the tuple that the module returns, 0 for a single tensor.
        shape: Shape of what passes.
    """

    path: str
    side: str
    width: int
    shape: Shape


@dataclass(frozen=True)
class StagePlan:
    """One stage.

    Attributes:
        index: Its number.
        entry: Where it begins; None: with the model.
        exit: Where it ends; None: with the model.
        before: Modules before it that are not run, with the widths of their results.
        layers: Modules of the stage that can be computed again in the backward pass, as paths.
        parameters: Names of the parameters it uses, by their first name in the model.
    """

    index: int
    entry: Cut | None
    exit: Cut | None
    before: Mapping[str, int]
    layers: tuple[str, ...]
    parameters: tuple[str, ...]


class StageModule(nn.Module):
    """A stage as a module: ``(hidden states, **inputs of the model)`` to hidden states, or logits at the end.

    Its parameters are those that the stage uses. It has no submodules: they belong to the model.

    Args:
        model: The whole model; what this process does not use may be missing.
        plan: Which part it is.
        recompute: Whether to keep only the inputs of layers for the backward pass.
        numerics: Makes the context that the forward runs in.
    """

    _model: nn.Module
    _slot: _Slot
    _places: list[tuple[str, dict[str, nn.Parameter | None], str]]
    _stand_ins: list[tuple[dict[str, Any], str, nn.Module]]

    def __init__(self, model: nn.Module, plan: StagePlan, recompute: bool = False, numerics: Numerics = contextlib.nullcontext):
        super().__init__()
        self.plan = plan
        self.numerics = numerics
        self.__dict__["_model"] = model  # not a submodule: several stages of a process share it
        self._slot = _Slot()
        self._stand_ins = _stand_ins(model, plan, self._slot, recompute)
        names = set(plan.parameters)
        self.__dict__["_places"] = [_place(model, name) for name, _ in model.named_parameters() if name in names]

    def named_parameters(self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True) -> Iterator[tuple[str, nn.Parameter]]:
        """The parameters that the stage uses, under their names in the model: those that are there now, in parts or gathered."""
        for name, table, key in self._places:
            parameter = table[key]
            assert parameter is not None, "the process keeps what its stages use"
            yield (f"{prefix}.{name}" if prefix else name), parameter

    def forward(self, *hidden: torch.Tensor, **inputs: Any) -> torch.Tensor:
        """Run the stage.

        Args:
            hidden: What the previous stage gave; nothing for the first.
            inputs: Arguments of the model's forward, the same for every stage.
        """
        self._slot.hidden = hidden[0] if hidden else None
        try:
            with _replaced(self._stand_ins), self.numerics():
                output = self._model(**inputs)
        except _Reached as reached:
            output = reached.value
        finally:
            self._slot.hidden = None
        result = logits_of(output)
        assert result is not None, "a model without logits was refused when it was cut"
        if torch.is_grad_enabled() and not result.requires_grad:
            return result.detach().requires_grad_()  # everything so far is frozen, but the schedule expects a gradient
        return result


def _place(model: nn.Module, name: str) -> tuple[str, dict[str, nn.Parameter | None], str]:
    """Where a parameter stands: its name, its module's table of parameters, its key there."""
    path, _, key = name.rpartition(".")
    return name, model.get_submodule(path)._parameters, key


class _Slot:
    """Where the stand-ins of a stage find the tensor that was received."""

    hidden: torch.Tensor | None = None


class _Reached(Exception):  # noqa: N818 - no error: it carries the result out of the forward
    """The end of the stage."""

    def __init__(self, value: torch.Tensor):
        super().__init__()
        self.value = value


class _StandIn(nn.Module):
    """Takes the place of a module; shows its attributes."""

    def __init__(self, module: nn.Module):
        super().__init__()
        self.__dict__["_module"] = module

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_module"], name)


class _Skip(_StandIn):
    """Gives the received tensor instead of what the module would compute."""

    def __init__(self, module: nn.Module, slot: _Slot, width: int):
        super().__init__(module)
        self.__dict__["_slot"], self.__dict__["_width"] = slot, width

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        hidden = self._slot.hidden
        return (hidden, *[None] * (self._width - 1)) if self._width > 0 else hidden


class _Enter(_StandIn):
    """Runs the module on the received tensor."""

    def __init__(self, module: nn.Module, slot: _Slot):
        super().__init__(module)
        self.__dict__["_slot"] = slot

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        received = self._slot.hidden
        for index, value in enumerate(args):
            if first_tensor([value]) is not None:
                return self._module(*args[:index], received, *args[index + 1 :], **kwargs)
        name = next(name for name, value in kwargs.items() if first_tensor([value]) is not None)
        return self._module(*args, **{**kwargs, name: received})


class _Recompute(_StandIn):
    """Runs the module and keeps only its inputs for the backward pass."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        from torch.utils.checkpoint import checkpoint

        if not torch.is_grad_enabled():
            return self._module(*args, **kwargs)
        return checkpoint(self._module, *args, use_reentrant=False, **kwargs)


class _LeaveBehind(_StandIn):
    """Runs the module and ends the stage with what it returned."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        result = first_tensor([self._module(*args, **kwargs)])
        assert result is not None, "a cut behind a module without a tensor was refused"
        raise _Reached(result)


class _LeaveBefore(_StandIn):
    """Ends the stage with what the module would have been given."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        result = first_tensor((*args, *kwargs.values()))
        assert result is not None, "a cut before a module without a tensor was refused"
        raise _Reached(result)


def _stand_ins(model: nn.Module, plan: StagePlan, slot: _Slot, recompute: bool) -> list[tuple[dict[str, Any], str, nn.Module]]:
    """What is replaced while the stage runs: the parent's table of modules, the name there, the replacement."""
    stand_ins: dict[str, nn.Module] = {path: _Skip(model.get_submodule(path), slot, width) for path, width in plan.before.items()}
    if recompute:
        stand_ins |= {path: _Recompute(model.get_submodule(path)) for path in plan.layers}
    if plan.entry is not None:
        module = stand_ins.get(plan.entry.path, model.get_submodule(plan.entry.path))
        stand_ins[plan.entry.path] = _Skip(module, slot, plan.entry.width) if plan.entry.side == "end" else _Enter(module, slot)
    if plan.exit is not None:
        module = stand_ins.get(plan.exit.path, model.get_submodule(plan.exit.path))
        stand_ins[plan.exit.path] = _LeaveBehind(module) if plan.exit.side == "end" else _LeaveBefore(module)
    places = []
    for path, stand_in in stand_ins.items():
        parent, _, name = path.rpartition(".")
        places.append((model.get_submodule(parent)._modules, name, stand_in))
    return places


@contextlib.contextmanager
def _replaced(places: list[tuple[dict[str, Any], str, nn.Module]]) -> Iterator[None]:
    originals = [table[name] for table, name, _ in places]
    for table, name, stand_in in places:
        table[name] = stand_in
    try:
        yield
    finally:
        for (table, name, _), original in zip(places, originals, strict=True):
            table[name] = original
