"""Looking for mistakes in a graph without building it or importing what it names.

The arguments of every target are bound to its signature as its source states it; arguments of
settings classes are validated by these classes, which are free of torch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from ironloom.config import extras, static
from ironloom.config.build import locate
from ironloom.config.calculate import names
from ironloom.config.graph import REQUIRED, Calc, Graph, Node, Path, Var, dotted, is_plain, target_parts, walk
from ironloom.config.validate import as_path, in_order, settings_problems
from ironloom.errors import Problem
from ironloom.settings.base import Settings, field_names, nearest, unknown_key

SETTINGS = "ironloom.settings"


def check(graph: Graph) -> list[Problem]:
    """Every problem that can be seen without running the configuration; an empty list if there is none."""
    problems = list(graph.problems)
    if "main" not in graph.root:
        hint = "targets: " + ", ".join(map(str, graph.root))
        problems.append(Problem("there is no target 'main', the run", "main", hint=hint))
    for path, value in walk(graph.root):
        if isinstance(value, Node):
            problems += [_placed(graph, value, path, problem) for problem in _node_problems(value)]
        elif isinstance(value, (Var, Calc)):
            problems += [dataclasses.replace(problem, path=dotted(path)) for problem in _unknown_names(graph, value)]
    return in_order(problems)


def _unknown_names(graph: Graph, value: Var | Calc) -> Iterator[Problem]:
    """A problem for every name without a value."""
    if isinstance(value, Var):
        missing = [value.name] if value.default is REQUIRED else []
    else:
        try:
            missing = [name for name in names(value.expression) if name not in graph.variables]
        except ValueError as error:
            yield Problem(str(error), origin=value.origin)
            return
    for name in missing:
        near = nearest(name, set(graph.variables) - {name})
        hint = f"did you mean {near!r}?" if near else f"write -- set {name} = ..., or give {name!r} in trainer_args"
        yield Problem(f"variable {name!r} has no value", origin=value.origin, hint=hint)


def _placed(graph: Graph, node: Node, path: Path, problem: Problem) -> Problem:
    inner = as_path(problem.path) if problem.path else ()
    origin = graph.origins.get((*path, *inner)) or node.origin or graph.origin((*path, *inner))
    return dataclasses.replace(problem, path=dotted((*path, *inner)), origin=origin)


def _node_problems(node: Node) -> Iterator[Problem]:
    """What is wrong with one node; paths begin below it."""
    module, attributes = target_parts(node.target)
    if not module or not attributes:
        yield Problem(f"a target has the form module:attribute, found {node.target!r}")
        return
    try:
        signature = static.signature(node.target)
    except static.NotFoundError as error:
        near = nearest(error.name, error.known)
        yield Problem(f"{error} (target {node.target!r})", hint=f"did you mean {near!r}?" if near else "")
        return
    except SyntaxError as error:
        yield Problem(f"the source of {node.target!r} is not valid Python: {error}")
        return
    if signature is not None:
        yield from _binding_problems(node, signature)
    yield from extras.missing(node)
    if module == SETTINGS or module.startswith(f"{SETTINGS}."):
        yield from _settings_problems(node)


def _binding_problems(node: Node, signature: static.Signature) -> Iterator[Problem]:
    """Arguments that do not fit the signature."""
    count = len(node.args)
    if count > len(signature.positional) and not signature.variadic:
        most = len(signature.positional)
        yield Problem(f"{node.target} takes {most} positional arguments, found {count}", str(most))
    filled = signature.positional[:count]
    for name in node.kwargs:
        if name in filled:
            yield Problem(f"{node.target} gets it by position too", name, hint="give it once")
        elif name not in signature.keyword and not signature.open:
            yield unknown_key(name, signature.keyword, owner=node.target)
    if node.mode == "partial":
        return  # the rest may come with the call
    for name in signature.required:
        if name not in filled and name not in node.kwargs:
            yield Problem(f"{node.target} needs the argument {name!r}")


def _settings_problems(node: Node) -> Iterator[Problem]:
    """What a settings class says of its plain arguments; those built by other nodes are left out."""
    cls = locate(node.target)
    if not (isinstance(cls, type) and issubclass(cls, Settings)) or node.args:
        return
    known = field_names(cls)
    given = {name: value.default if isinstance(value, Var) else value for name, value in node.kwargs.items()}
    plain = {name: value for name, value in given.items() if name in known and is_plain(value) and value is not REQUIRED}
    missing = {name for name in node.kwargs if name not in plain}
    for problem in settings_problems(cls, plain):
        if problem.path not in missing:
            yield problem
