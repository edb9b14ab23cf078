"""Cutting a model into stages: at given places, or where the work is halved, thirded, and so on."""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from ironloom.errors import ConfigError, Problem
from ironloom.objectives import logits_of
from ironloom.parallel.pipeline.balance import balanced
from ironloom.parallel.pipeline.stage import Cut, StageModule, StagePlan
from ironloom.parallel.pipeline.trace import PROBES, Call, Trace, layer_chain, sample, shape_of, trace, used_parameters, watched

#: How near the stages together must come to the whole model.
_SAME = 1e-5


def plan_stages(
    model: nn.Module, inputs: Mapping[str, Any], num_stages: int, split_spec: Mapping[str, str] | None = None
) -> list[StagePlan]:
    """Cut a model.

    The model is run on a few tokens to see what happens in it, and its stages once more to see that they give the same.

    Args:
        model: The whole model, with weights.
        inputs: A batch: arguments of its forward.
        num_stages: How many stages to make.
        split_spec: Module path -> ``beginning`` or ``end``; None or empty: stages of equal work.

    Raises:
        ConfigError: If the model cannot be cut so, naming where it can be.
    """
    plans = find_stages(model, inputs, num_stages, split_spec)
    check_stages(model, inputs, plans)
    return plans


def find_stages(
    model: nn.Module, inputs: Mapping[str, Any], num_stages: int, split_spec: Mapping[str, str] | None = None
) -> list[StagePlan]:
    """The stages of :func:`plan_stages`, without a look at what they compute: tensors need no content."""
    with watched(model):
        batches = [sample(inputs, *probe) for probe in PROBES]
        traces = [trace(model, batch) for batch in batches]
        logits = logits_of(traces[0].outputs)
        if logits is None:
            raise ConfigError("pipeline parallelism needs a model that returns logits")
        if getattr(traces[0].outputs, "aux_loss", None) is not None:
            raise ConfigError(
                "pipeline parallelism cannot add up the load-balancing loss of a mixture of experts: set output_router_logits to False"
            )
        chain = layer_chain(model, traces[0])
        if not split_spec:
            split_spec = _automatic(model, batches[0], traces, chain, num_stages)
        if len(split_spec) + 1 != num_stages:
            raise ConfigError(f"split_spec: {len(split_spec)} cuts make {len(split_spec) + 1} stages, not {num_stages}")
        cuts = _ordered([_cut(path, side, traces) for path, side in split_spec.items()], traces[0])
        return _plans(model, batches[0], traces[0], cuts, chain)


def _automatic(model: nn.Module, batch: Mapping[str, Any], traces: list[Trace], chain: list[str], num_stages: int) -> dict[str, str]:
    """Cuts behind layers, so that the stage with most work has as little as possible."""
    if num_stages == 1:
        return {}
    if num_stages > max(1, len(chain)):
        found = f"the {len(chain)} layers of the model" if chain else "the model, in which no chain of layers was found"
        raise ConfigError(
            Problem(
                f"{num_stages} stages are more than {found}",
                path="pipeline_parallel_size",
                hint=f"make at most {max(1, len(chain))} stages in all, or name other cuts in split_spec",
            )
        )
    costs = [sum(parameter.numel() for parameter in model.get_submodule(path).parameters()) for path in chain]
    # Looking up embeddings is no work; scoring the vocabulary is as much as any matrix of that size.
    last = _plans(model, batch, traces[0], [_cut(chain[-1], "end", traces)], chain)[-1]
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    costs[-1] += sum(sizes[name] for name in last.parameters)
    return {chain[index - 1]: "end" for index in balanced(costs, num_stages)}


def _cut(path: str, side: str, traces: list[Trace]) -> Cut:
    calls = [record.calls.get(path, []) for record in traces]
    if side not in ("beginning", "end"):
        raise ConfigError(
            Problem(f"a model is cut at the 'beginning' or the 'end' of a module, not at {side!r}", path=f"split_spec.{path}")
        )
    if not calls[0]:
        near = difflib.get_close_matches(path, traces[0].calls, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(_shown(traces[0].calls))}"
        raise ConfigError(Problem("the model calls no such module", path=f"split_spec.{path}", hint=hint))
    if len(calls[0]) > 1:
        raise ConfigError(Problem(f"the module is called {len(calls[0])} times: a cut there is not one place", path=f"split_spec.{path}"))
    both = [call[0].result if side == "end" else call[0].given for call in calls]
    tensors = [tensor for tensor in both if tensor is not None]
    shape = shape_of(tensors) if len(tensors) == len(traces) else None
    # The length of a tuple is known, but not what else in it is needed: only an empty rest is left out.
    if shape is None or not any(dim in ("rows", "both") for dim in shape.dims) or (side == "end" and calls[0][0].width < 0):
        what = "returns" if side == "end" else "takes"
        raise ConfigError(Problem(f"the module {what} no tensor that could be sent to another process", path=f"split_spec.{path}"))
    return Cut(path, side, calls[0][0].width, shape)


def _shown(paths: Iterable[str]) -> list[str]:
    return [path for path in paths if path.count(".") < 3][:12]


def _ordered(cuts: list[Cut], record: Trace) -> list[Cut]:
    cuts = sorted(cuts, key=lambda cut: _event(cut, record))
    for one, other in itertools.pairwise(cuts):
        if _tensor(one, record) is _tensor(other, record):
            raise ConfigError(f"split_spec: nothing lies between the {one.side} of {one.path} and the {other.side} of {other.path}")
    return cuts


def _call(cut: Cut, record: Trace) -> Call:
    return record.calls[cut.path][0]


def _event(cut: Cut, record: Trace) -> int:
    return _call(cut, record).end if cut.side == "end" else _call(cut, record).begin


def _tensor(cut: Cut, record: Trace) -> torch.Tensor | None:
    return _call(cut, record).result if cut.side == "end" else _call(cut, record).given


def _plans(model: nn.Module, batch: Mapping[str, Any], record: Trace, cuts: list[Cut], chain: list[str]) -> list[StagePlan]:
    """The stages between cuts. Which parameters a stage uses is seen in the graph of its own pass."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    ends = [None, *cuts, None]
    used: list[set[str]] = []
    rows, length = PROBES[0]
    for index, (entry, leave) in enumerate(itertools.pairwise(ends)):
        bare = StageModule(model, StagePlan(index, entry, leave, {}, (), ()))
        hidden = [] if entry is None else [torch.ones(entry.shape.of(rows, length), dtype=entry.shape.dtype, device=_device(model))]
        used.append({names[key] for key in used_parameters(bare(*[each.requires_grad_() for each in hidden], **batch)) if key in names})
    for name in sorted(set(names.values()) - set().union(*used)):
        used[_place(name, record, cuts)].add(name)
    plans = []
    for index, (entry, leave) in enumerate(itertools.pairwise(ends)):
        first, last = (-1 if entry is None else _event(entry, record)), (2**62 if leave is None else _event(leave, record))
        inside = tuple(path for path in chain if first < record.calls[path][0].end <= last and record.calls[path][0].begin >= first)
        before = {}
        if entry is not None:
            _refuse_side_paths(model, record, entry, chain, used[index])
            before = _before(model, record, first, used[index])
        plans.append(StagePlan(index, entry, leave, before, inside, tuple(name for name in names.values() if name in used[index])))
    return plans


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


def _place(name: str, record: Trace, cuts: list[Cut]) -> int:
    """The stage of a parameter that the loss does not depend on: where its module is called, else the first."""
    path = name.rpartition(".")[0]
    while path and path not in record.calls:
        path = path.rpartition(".")[0]
    if not path:
        return 0
    begin = record.calls[path][0].begin
    return sum(_event(cut, record) <= begin for cut in cuts)


def _refuse_side_paths(model: nn.Module, record: Trace, cut: Cut, chain: list[str], used: set[str]) -> None:
    """Refuse a cut behind which something else than the one tensor is needed of earlier layers: they would be computed twice."""
    event = _event(cut, record)
    later = {id(parameter) for path, calls in record.calls.items() if calls[-1].end > event for parameter in _own(model, path)}
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    for path in chain:
        if record.calls[path][0].end <= event:
            held = {names[id(parameter)] for parameter in model.get_submodule(path).parameters() if id(parameter) not in later}
            if held & used:
                raise ConfigError(
                    Problem(
                        f"besides the tensor at the {cut.side} of {cut.path}, what {path} computed is used behind it",
                        path=f"split_spec.{cut.path}",
                        hint="cut between whole layers",
                    )
                )


def _own(model: nn.Module, path: str) -> Iterable[nn.Parameter]:
    return model.get_submodule(path).parameters(recurse=False)


def _before(model: nn.Module, record: Trace, event: int, used: set[str]) -> dict[str, int]:
    """Outermost modules that have done their work before an event and hold nothing that the stage uses."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    skipped: dict[str, int] = {}
    for path, module in model.named_modules():
        calls = record.calls.get(path)
        if not calls or any(path.startswith(f"{outer}.") for outer in skipped):
            continue
        held = {names[id(parameter)] for parameter in module.parameters()}
        if held and not held & used and calls[-1].end <= event and calls[0].width >= 0:
            skipped[path] = calls[0].width
    return skipped


def check_stages(model: nn.Module, inputs: Mapping[str, Any], plans: list[StagePlan]) -> None:
    """Refuse cuts past which more than one tensor goes: the stages would not be the model.

    Args:
        model: The whole model, or a narrower one of the same modules.
        inputs: A batch: arguments of its forward.
        plans: All stages.

    Raises:
        ConfigError: If the stages one after the other do not compute what the model computes.
    """
    hidden: tuple[torch.Tensor, ...] = ()
    with watched(model), torch.no_grad():
        batch = sample(inputs, *PROBES[0])
        logits = logits_of(model(**batch))
        assert logits is not None, "a model without logits was refused when it was cut"
        for plan in plans:
            hidden = (StageModule(model, plan)(*hidden, **batch),)
    if not torch.allclose(hidden[0], logits, rtol=_SAME, atol=_SAME * float(logits.abs().max())):
        places = ", ".join(f"{plan.exit.side} of {plan.exit.path}" for plan in plans if plan.exit)
        raise ConfigError(
            f"split_spec: the stages cut at {places} do not compute what the model computes: "
            "something besides one tensor passes there; cut between whole layers"
        )


def keep_stages(model: nn.Module, plans: Sequence[StagePlan]) -> None:
    """Drop the parameters of a model that none of these stages uses; the others keep their names and what they are tied to."""
    kept = {name for plan in plans for name in plan.parameters}
    keep = {id(parameter) for name, parameter in model.named_parameters() if name in kept}
    for module in model.modules():
        for name, parameter in list(module._parameters.items()):
            if parameter is not None and id(parameter) not in keep:
                module._parameters[name] = None
