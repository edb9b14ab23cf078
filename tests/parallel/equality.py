"""How far a run that is spread over processes is from one process, and the document that says so."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch

from parallel.modes import MODES, SECTIONS, Mode, model_of
from parallel.pipelines import numbers, one_process, pipeline_trainer
from spawned import run
from spread import Errors, distance, errors, spread_over, together, train, whole

TOLERANCE = 1e-5

#: A run: what it logged, and its weights.
Outcome = tuple[list[dict[str, float]], dict[str, torch.Tensor]]


def measure(mode: Mode, models: Iterable[str]) -> dict[str, Errors]:
    """The largest errors over all processes, by model."""
    return _pipelines(mode, tuple(models)) if mode.schedule else {model: _spread(mode, model) for model in models}


def check(name: str, models: Iterable[str], note: Callable[[str, object], None]) -> None:
    """Measure, note it for the document, and fail if one process would have given something else."""
    judge(name, measure(MODES[name], models), note)


def judge(name: str, found: Mapping[str, Errors], note: Callable[[str, object], None]) -> None:
    """Note errors that were measured, by model, and fail if one is too large."""
    for model, error in found.items():
        note(f"{name} | {model}", " ".join(f"{value:.1e}" for value in error))
    assert all(value < TOLERANCE for error in found.values() for value in error), found


def largest(all_errors: Iterable[Errors]) -> Errors:
    """Of each kind the largest."""
    return Errors(*map(max, zip(*all_errors, strict=True)))


@functools.cache
def _alone(model: str, reference: tuple[tuple[str, Any], ...]) -> Any:
    return train(model_of(model), None, 1, **dict(reference))


def _spread(mode: Mode, model: str) -> Errors:
    parameters = None if mode.sizes is None else spread_over(**mode.sizes)
    options = {**mode.args, "data": mode.data, **({"cls": mode.cls} if mode.cls else {})}
    results = together(model_of(model), mode.nproc, parameters, mode.data_size, timeout=120, **options)
    expected = _alone(model, (("data", mode.data), *sorted(mode.reference.items())))
    # Where the layers are on several processes, each has some of the weights; together they have all.
    assert set().union(*(result.weights for result in results)) == set(expected.weights)
    return largest(errors(expected, result) for result in results)


@functools.cache
def _alone_deep(model: str) -> Outcome:
    weights: dict[str, torch.Tensor] = {}
    history = one_process(model.removeprefix("deep "), weights)
    return history, weights


def _pipelines(mode: Mode, models: tuple[str, ...]) -> dict[str, Errors]:
    """One start of processes for all models."""
    expected = {model: _alone_deep(model) for model in models}
    with tempfile.TemporaryDirectory() as folder:
        found = run(_trained, mode.nproc, models, folder, mode.schedule, mode.args)
    for model in models:
        assert set().union(*(outcomes[model][1] for outcomes in found)) == set(expected[model][1])
    return {model: largest(differences(expected[model], outcomes[model]) for outcomes in found) for model in models}


def _trained(models: tuple[str, ...], folder: str, schedule: str, args: Mapping[str, Any]) -> dict[str, Outcome]:
    outcomes = {}
    for model in models:
        trainer = pipeline_trainer(model.removeprefix("deep "), folder, schedule, **args)
        trainer.train()
        outcomes[model] = (numbers(trainer), {name: whole(weight) for name, weight in trainer.model.named_parameters()})
    return outcomes


def differences(expected: Outcome, found: Outcome, norm: str = "grad_norm") -> Errors:
    """How far logs and weights are from others; ``norm`` is what the norms are logged as."""
    (wanted, weights), (history, held) = expected, found
    assert [record.keys() for record in wanted] == [record.keys() for record in history]

    def farthest(*keys: str) -> float:
        pairs = [(one[key], other[key]) for one, other in zip(wanted, history, strict=True) for key in keys if key in one]
        return max(abs(one - other) / abs(one) for one, other in pairs)

    return Errors(farthest("loss", "eval_loss"), farthest(norm), distance(weights, held))


#: Behind it the tables stand in the document.
MARK = "<!-- written by make equality -->\n\n"
HEAD = ("| mode | processes | model | losses | norms | weights |", "|---|---:|---|---:|---:|---:|")


def tables(measured: Mapping[str, str]) -> str:
    """The sections of the document, from what the tests noted.

    Raises:
        KeyError: If something was not measured.
    """
    parts = []
    for title, modes in SECTIONS.items():
        rows = [
            f"| {name} | {mode.nproc} | {model} | {_cells(measured[f'{name} | {model}'])} |"
            for name, mode in modes.items()
            for model in mode.models
        ]
        parts.append("\n".join([f"## {title}", "", *HEAD, *rows]))
    return "\n\n".join(parts) + "\n"


def shown(page: str) -> dict[str, str]:
    """What the tables of a document show, as the tests would have noted it."""
    rows = [line.strip("| ").split(" | ") for line in page.partition(MARK)[2].splitlines() if line.startswith("| ")]
    return {f"{row[0]} | {row[2]}": " ".join(row[3:]) for row in rows if row[0] != "mode"}


def _cells(noted: str) -> str:
    """Rounded to one digit, so that the document does not change with each processor."""
    return " | ".join(f"{float(value):.0e}".replace("e-0", "e-") if float(value) else "0" for value in noted.split())
