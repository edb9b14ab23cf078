"""From a template file to its text, with the template line that every line of the text came from."""

from __future__ import annotations

import difflib
import pathlib
import re
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jinja2
from jinja2 import TemplateNotFound, TemplateSyntaxError, UndefinedError
from jinja2.exceptions import SecurityError
from jinja2.utils import Namespace

from ironloom.config.templates import notices
from ironloom.config.templates.environment import MARK, TemplateEnvironment
from ironloom.config.templates.files import Files
from ironloom.errors import ConfigError, Origin, Problem
from ironloom.settings.base import nearest

COMMAND_LINE = Origin("command line", route="override")
# What YAML takes for the end of a line.
LINE_END = re.compile("\r\n|[\n\r\x85\u2028\u2029]")


@dataclass
class Rendered:
    """The text of a template.

    Attributes:
        text: YAML with tags.
        origins: For each line of the text the template line that wrote it; the column is not known.
        templates: Name and file of each template that was used, in order of use.
        variables: The values that templates set outside blocks, and the arguments.
        set_at: Where each of them was set.
        bases: For each file the files that it builds on, through ``extends``.
        used: The names that were given and that a template reads or sets.
        secrets: Names of secret environment variables for which ``<NAME>`` stands in the text.
        warnings: What is allowed but hardly meant: blocks that override nothing, documents that nothing uses.
    """

    text: str
    origins: list[Origin]
    templates: list[tuple[str, str]]
    variables: dict[str, Any] = field(default_factory=dict)
    set_at: dict[str, Origin] = field(default_factory=dict)
    bases: dict[str, set[str]] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)
    secrets: set[str] = field(default_factory=set)
    warnings: list[Problem] = field(default_factory=list)


def render(
    path: str | pathlib.Path,
    search: Sequence[str | pathlib.Path],
    arguments: Mapping[str, Any] | None = None,
    forced: Mapping[str, Any] | None = None,
) -> Rendered:
    """Render a template file.

    Args:
        path: The file.
        search: Folders in which templates are found by name, first one first.
        arguments: Variables that the templates see.
        forced: Variables that have these values whatever the templates set.

    Raises:
        ConfigError: For a template that is missing or not valid, or an expression that fails, with file and line.
    """
    files = Files(path, search)
    environment = TemplateEnvironment(files, forced or {})
    given = {**(arguments or {}), **(forced or {})}
    text = _run(environment, given)
    variables, set_at = _variables(environment, given)
    environment.marking = True
    try:
        marked = _run(environment, given)
    except ConfigError:  # a template that looks at its own text may fail on the marks
        marked = text
    keys = [files.main, *(key for key in environment.facts if key != files.main)]
    return Rendered(
        text,
        _origins(text, marked, environment),
        [(files.get(key).name, files.get(key).file) for key in keys],
        variables,
        set_at,
        notices.bases(environment),
        {name for name in given if any(name in facts.names for facts in environment.facts.values())},
        environment.secrets,
        notices.notices(environment),
    )


def _run(environment: TemplateEnvironment, given: Mapping[str, Any]) -> str:
    environment.contexts.clear()
    try:
        template = environment.get_template(environment.files.main)
        return "".join(template.root_render_func(template.new_context(dict(given))))
    except Exception as error:
        raise ConfigError(_problems(error, environment)) from None


def _variables(environment: TemplateEnvironment, given: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Origin]]:
    """What was set outside blocks, in the main template and its bases first, and the arguments."""
    values: dict[str, Any] = {}
    for context in environment.contexts:
        if (
            context.name == environment.files.main
            or environment.routes.get(str(context.name)) == "include"
            or _is_inline(environment, context)
        ):
            for name in context.exported_vars:
                values.setdefault(name, context.vars[name])
    values = {**given, **values}
    plain = {name: _plain(value) for name, value in values.items() if _is_plain(value)}
    return plain, {name: environment.set_at.get(name, COMMAND_LINE) for name in plain}


def _is_inline(environment: TemplateEnvironment, context: jinja2.runtime.Context) -> bool:
    return environment.files.get(str(context.name)).file == environment.files.main


def _is_plain(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return all(_is_plain(part) for item in value.items() for part in item)
    return value is None or isinstance(value, (bool, int, float, str))


def _plain(value: Any) -> Any:
    """A copy in the types of a graph."""
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    return str(value) if isinstance(value, str) else value


def _origins(text: str, marked: str, environment: TemplateEnvironment) -> list[Origin]:
    """The origin of each line: of its first mark, or of its neighbour for a line without one."""
    lines, marked_lines = LINE_END.split(text), LINE_END.split(marked)
    bare = [MARK.sub("", line) for line in marked_lines]
    found: list[Origin | None] = [None] * len(lines)
    if bare == lines:
        pairs = [(index, index) for index in range(len(lines))]
    else:
        blocks = difflib.SequenceMatcher(None, lines, bare, autojunk=False).get_matching_blocks()
        pairs = [(block.a + offset, block.b + offset) for block in blocks for offset in range(block.size)]
    for index, other in pairs:
        mark = MARK.search(marked_lines[other])
        found[index] = environment.places[int(mark[1])] if mark else None
    origins: list[Origin] = []
    last = next((origin for origin in found if origin), Origin(environment.files.main, 1))
    for origin in found:
        last = origin or last
        origins.append(last)
    return origins


def _problems(error: Exception, environment: TemplateEnvironment) -> list[Problem]:
    """What a failed rendering says, with the place in the template."""
    where = _where(error, environment)
    if isinstance(error, ConfigError):
        return [problem if problem.origin else Problem(problem.message, origin=where, hint=problem.hint) for problem in error.problems]
    if isinstance(error, TemplateSyntaxError):
        where = Origin(error.filename or environment.files.main, error.lineno)
        hint = _near_filter(error, environment) or _other_end(error)
        return [Problem(f"is not a valid template: {_sentence(error.message)}", origin=where, hint=hint)]
    if isinstance(error, TemplateNotFound):
        return [_missing(error, environment, where)]
    if isinstance(error, UndefinedError):
        return [Problem(_sentence(error.message), origin=where, hint=_near_name(error, environment))]
    if isinstance(error, SecurityError):
        return [Problem(f"is not allowed in a template: {_sentence(error.message)}", origin=where)]
    if isinstance(error, RecursionError):
        return [Problem("templates need each other without end", origin=where, hint=_circle(environment))]
    return [Problem(f"the expression fails: {error}" if str(error) else f"the expression fails: {type(error).__name__}", origin=where)]


def _sentence(message: str | None) -> str:
    return (message or "").removesuffix(".")


def _where(error: BaseException, environment: TemplateEnvironment) -> Origin:
    """The innermost template line that an error passed through."""
    found, trace = Origin(environment.files.main), error.__traceback__
    while trace is not None:
        template = trace.tb_frame.f_globals.get("__jinja_template__")
        if template is not None:
            found = Origin(template.filename, template.get_corresponding_lineno(trace.tb_lineno))
        trace = trace.tb_next
    return found


def _missing(error: TemplateNotFound, environment: TemplateEnvironment, where: Origin) -> Problem:
    asking = [key for key, asked in environment.edges.items() if f"?{error.name}" in asked]
    known = set(environment.files.known(asking[0] if asking else environment.files.main))
    known -= {pathlib.Path(environment.files.main).name}
    near = nearest(str(error.name), known)
    if ".." in pathlib.PurePath(str(error.name)).parts or pathlib.PurePath(str(error.name)).is_absolute():
        hint = "a template is named from a folder of the search path on, without '..'"
    else:
        hint = f"did you mean {near!r}?" if near else "it is looked up in the folders of the search path"
    return Problem(f"there is no template {str(error.name)!r}", origin=where, hint=hint)


def _near_filter(error: TemplateSyntaxError, environment: TemplateEnvironment) -> str:
    found = re.search(r"No (filter|test) named '(\w+)'", error.message or "")
    near = nearest(found[2], environment.filters if found[1] == "filter" else environment.tests) if found else None
    return f"did you mean {near!r}?" if near else ""


def _other_end(error: TemplateSyntaxError) -> str:
    """Where a block begins that ends under another name."""
    *before, line = (error.source or "").split("\n")[: error.lineno]
    end = re.search(r"endblock\s+(\w+)", line)
    opened: list[str] = []
    for number, text in enumerate(before, start=1):
        for kind, name in re.findall(r"\{%[-+]?\s*(endblock|block)\b\s*(\w*)", text):
            if kind == "block":
                opened.append(f"{name!r} in line {number}")
            elif opened:
                opened.pop()
    return f"the block that ends here as {end[1]!r} begins as {opened[-1]}" if end and opened else ""


def _near_name(error: UndefinedError, environment: TemplateEnvironment) -> str:
    """The defined name that an undefined one most likely stands for."""
    values: dict[str, Any] = dict(environment.globals)
    for context in environment.contexts:
        values.update(context.get_all())
    found = re.search(r"^'(\w+)' is undefined|has no attribute '(\w+)'", error.message or "")
    if found is None:
        return ""
    known = {name for name, value in values.items() if not isinstance(value, types.ModuleType)}
    if found[2]:
        spaces = [value for value in values.values() if isinstance(value, Namespace)]
        known = {name for space in spaces for name in space._Namespace__attrs}
    near = nearest(found[1] or found[2], known)
    return f"did you mean {near!r}?" if near else ""


def _circle(environment: TemplateEnvironment) -> str:
    """Templates that lead back to the first of them."""
    chain: list[str] = [environment.files.main]
    while True:
        following = environment.edges.get(chain[-1], [])
        back = next((key for key in following if key in chain), None)
        if back is not None:
            return " -> ".join(environment.files.get(key).name for key in [*chain[chain.index(back) :], back])
        if not following or len(chain) > len(environment.edges):
            return ""
        chain.append(following[-1])
