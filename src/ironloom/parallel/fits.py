"""Whether a configuration fits the processes that it is to run on, before any of them starts. Never imports torch.

What only the number of processes decides is said by :class:`~ironloom.settings.dream.device.DeviceParameters`; here both the
processes and the model, its data or its pipeline are looked at.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import math
import pathlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from ironloom.config.graph import Graph, Node, Path, is_plain, walk
from ironloom.config.prepared import data_nodes
from ironloom.config.processes import argument, device_parameters, pipeline_size
from ironloom.config.validate import as_path
from ironloom.errors import ConfigError, Problem
from ironloom.parallel.context import length_problem
from ironloom.parallel.mesh import Degrees, degrees_of
from ironloom.settings.dream.device import DeviceParameters
from ironloom.settings.dream.world import fitting, nearest_divisors
from ironloom.settings.model import ModelConfig, padded_size
from ironloom.settings.pipeline import PipelineTrainingArguments, pipeline_problems
from ironloom.settings.training import TrainingArguments

DEVICES = "device_parameters"
_NAMES = {"tp": "tensor_parallel_size", "pp": "pipeline_parallel_size", "cp": "context_parallel_size"}
# Names of the same number in the configurations of transformers.
_HEADS = ("num_attention_heads", "n_head")
_GROUPS = ("num_key_value_heads",)
_WIDTHS = ("intermediate_size", "n_inner")
_LAYERS = ("num_hidden_layers", "n_layer")


@dataclass(frozen=True)
class Shape:
    """What the configuration tells of a model.

    Attributes:
        counts: What tensor parallelism divides, by name.
        layers: How many there are; None: not known.
        vocabulary: Rows of the embedding; None: not known, or of no account.
        without_plan: Name of a class whose layers nobody knows how to split; None: one that is known, or not looked into.
    """

    counts: Mapping[str, int] = field(default_factory=dict)
    layers: int | None = None
    vocabulary: int | None = None
    without_plan: str | None = None


def problems(graph: Graph, world: int | None) -> list[Problem]:
    """Everything that can be known of a run of so many processes, each with the nearest setting that would work.

    Args:
        graph: Without a mistake of its own.
        world: Processes; None: not known, only the sizes that the configuration names count.
    """
    found = [*_pipeline_world(graph, world)]
    degrees = None if found else _degrees(graph, world)
    if degrees is not None:
        shape = _shape(graph)
        found += [*_tensor(shape, degrees.tp), *_stages(graph, shape, degrees.pp), *_lengths(graph, degrees.cp)]
        found += _precision(graph, degrees)
    return [_placed(graph, problem) for problem in found]


def _placed(graph: Graph, problem: Problem) -> Problem:
    """The problem at the place of its value, under the name that the user knows."""
    path: Path = as_path(problem.path)
    names = graph.keys.get(path, ())
    return dataclasses.replace(problem, path=names[0] if names else problem.path, origin=graph.origin(path))


def _pipeline_world(graph: Graph, world: int | None) -> Iterator[Problem]:
    """Pipelines of a size that the processes cannot be parted into."""
    size = pipeline_size(graph, world)
    if world is None or size is None or device_parameters(graph) is not None or world % size == 0:
        return
    yield Problem(f"{world} processes cannot be pipelines of {size}", "trainer_args.pipeline_parallel_size", hint=fitting(size, 1, world))


def _degrees(graph: Graph, world: int | None) -> Degrees | None:
    """The degrees of parallelism; without a number of processes, those that the configuration names."""
    parameters = device_parameters(graph)
    if parameters is None:
        size = pipeline_size(graph, world)
        return None if size is None else Degrees(pp=size)
    if world is not None:
        try:
            return degrees_of(parameters, world)
        except ConfigError:  # the settings have said it already
            return None
    return Degrees(**{axis: _known(parameters, name) for axis, name in {**_NAMES, "dp_shard": "dp_shard"}.items()})


def _known(parameters: DeviceParameters, name: str) -> int:
    size = getattr(parameters, name)
    return size if isinstance(size, int) else 1


def _tensor(shape: Shape, size: int) -> Iterator[Problem]:
    """Layers that cannot be divided among ``size`` processes."""
    path = f"{DEVICES}.{_NAMES['tp']}"
    if size == 1:
        return
    if shape.without_plan is not None:
        message = f"there is no plan by which the layers of a {shape.without_plan} could be split over {size} processes"
        yield Problem(message, path, hint="set it to 1, and share the weights with dp_shard instead")
        return
    wrong = [f"{name} {count}" for name, count in shape.counts.items() if count % size]
    if wrong:
        near = nearest_divisors(size, math.gcd(*shape.counts.values()))
        yield Problem(f"{size} processes cannot divide {', '.join(wrong)} of the model equally", path, hint=f"{near} would fit")
    if shape.vocabulary is not None and shape.vocabulary % size:
        message = f"{size} processes cannot divide a vocabulary of {shape.vocabulary:,} rows equally"
        yield Problem(message, path, hint=f"vocab_padding_unit {size} pads it to {padded_size(shape.vocabulary, size):,}")


def _stages(graph: Graph, shape: Shape, ranks: int) -> Iterator[Problem]:
    """A pipeline whose schedule, chunks or stages do not fit."""
    if ranks == 1:
        return
    node = argument(graph, "args")
    plain = {name: value for name, value in node.kwargs.items() if is_plain(value)} if isinstance(node, Node) else {}
    has_factory = argument(graph, "pipe_schedule_factory") is not None
    if isinstance(node, Node) and node.target.endswith(":PipelineTrainingArguments") and not has_factory:
        try:
            args = PipelineTrainingArguments(**plain)
        except ConfigError:  # told by the settings
            return
        layers = None if args.split_spec else shape.layers
        for problem in pipeline_problems(args, ranks, layers):
            yield dataclasses.replace(problem, path=f"trainer_args.{problem.path}")
    elif shape.layers is not None and ranks > shape.layers:
        message = f"{ranks} stages are more than the {shape.layers} layers of the model"
        yield Problem(message, f"{DEVICES}.{_NAMES['pp']}", hint=f"at most {shape.layers}")


def _lengths(graph: Graph, size: int) -> Iterator[Problem]:
    """Sequences that cannot be shared by ``size`` processes."""
    if size == 1:
        return
    for node in data_nodes(graph):
        length = node.kwargs.get("seq_length")
        found = length_problem(length, size) if isinstance(length, int) else None
        if found is not None:
            message, _, hint = found.partition("; ")
            yield Problem(message, "data.seq_length" if graph.root.get("data") is node else DEVICES, hint=hint)


def _precision(graph: Graph, degrees: Degrees) -> Iterator[Problem]:
    """The loss scaler of float16 needs whole gradients."""
    node = argument(graph, "args")
    fp16 = isinstance(node, Node) and node.kwargs.get("fp16", TrainingArguments.fp16) is True
    if fp16 and (degrees.dp_shard > 1 or degrees.tp > 1):
        yield Problem("float16 needs whole weights in every process", "trainer_args.fp16", hint="use bfloat16, or dp_replicate alone")


def _nodes(graph: Graph, target: str) -> Iterator[Node]:
    for _, value in walk(graph.root):
        if isinstance(value, Node) and value.target == target:
            yield value


def _shape(graph: Graph) -> Shape:
    """The model of the run, as far as its configuration is one that is known here."""
    model = argument(graph, "model_init") or argument(graph, "model")
    for _, value in walk(model):
        if not isinstance(value, Node):
            continue
        if value.target == "ironloom.models:build_decoder":
            return _decoder(graph, value)
        if value.target == "ironloom.models:load_pretrained" and value.kwargs.get("lora") is not None:
            return Shape(without_plan="model with adapters")
        module, _, name = value.target.partition(":")
        if module.partition(".")[0] == "transformers" and name.endswith("Config"):
            return _of_transformers(value, name)
    return Shape()


def _decoder(graph: Graph, node: Node) -> Shape:
    config = node.kwargs.get("config", node.args[0] if node.args else None)
    if not (isinstance(config, Node) and is_plain(config.kwargs)):
        return Shape()
    shape = ModelConfig(**config.kwargs)
    counts = {name: getattr(shape, name) for name in ("num_attention_heads", "num_key_value_heads", "d_ffn")}
    rows = next((data.kwargs.get("vocab_size") for data in data_nodes(graph)), None)
    unit = node.kwargs.get("vocab_padding_unit", 128)
    padded = padded_size(rows, unit) if isinstance(rows, int) and isinstance(unit, int) else None
    return Shape(counts, shape.num_layers, padded, "decoder with qk_norm" if shape.qk_norm else None)


def _of_transformers(node: Node, name: str) -> Shape:
    given = {key: value for key, value in node.kwargs.items() if type(value) is int}
    first = [next((key for key in keys if key in given), None) for keys in (_HEADS, _GROUPS, _WIDTHS)]
    layers = next((given[key] for key in _LAYERS if key in given), None)
    counts = {key: given[key] for key in first if key is not None}
    return Shape(counts, layers, None, None if name == "GPT2Config" or _has_plan(name) else name)


@functools.cache
def _has_plan(name: str) -> bool:
    """Whether the source of a configuration class of transformers states a plan of split layers; true as well where it is not found."""
    spec = importlib.util.find_spec("transformers")
    folders = spec.submodule_search_locations or () if spec is not None else ()
    for file in (file for folder in folders for file in pathlib.Path(folder).glob("models/*/configuration_*.py")):
        text = file.read_text(encoding="utf-8")
        found = re.search(rf"^class {name}\((\w+)\):\n(?:[ \t].*\n|\n)*", text, re.MULTILINE)
        if found is not None:
            return "base_model_tp_plan" in found[0] or found[1].lower() != "pretrainedconfig"
    return True
