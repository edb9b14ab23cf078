"""What is allowed in templates but hardly meant: blocks that override nothing, documents that nothing uses."""

from __future__ import annotations

from ironloom.config.templates.environment import TemplateEnvironment
from ironloom.config.templates.files import MISSING
from ironloom.errors import Origin, Problem
from ironloom.settings.base import nearest


def notices(environment: TemplateEnvironment) -> list[Problem]:
    """The warnings of a rendering that is done."""
    return [*_idle_blocks(environment), *_unused_documents(environment)]


def bases(environment: TemplateEnvironment) -> dict[str, set[str]]:
    """For each file the files that its templates build on: what they extend, and what that uses in turn."""
    table: dict[str, set[str]] = {}
    for key in environment.facts:
        file = environment.files.get(key).file
        used = [part for base in _ancestors(environment, key) for part in _parts(environment, base)]
        table.setdefault(file, set()).update(environment.files.get(part).file for part in used)
        table[file].discard(file)
    return table


def _parts(environment: TemplateEnvironment, key: str) -> list[str]:
    """A template and everything that it asked for."""
    found: list[str] = []
    waiting = [key]
    while waiting:
        part = waiting.pop()
        if part in environment.facts and part not in found:
            found.append(part)
            waiting += environment.edges.get(part, [])
    return found


def _ancestors(environment: TemplateEnvironment, key: str) -> list[str]:
    """The templates that a template extends, nearest first."""
    found: list[str] = []
    while True:
        facts = environment.facts[key]
        asked = [base for base in environment.edges.get(key, []) if base in environment.facts and base not in found]
        names = [environment.files.key(name, key) for name in facts.extends]
        includes = [environment.files.key(name, key) for name in facts.includes]
        parents = [base for base in asked if base in names] or [base for base in asked if facts.is_dynamic and base not in includes]
        if not parents:
            return found
        key = parents[0]
        found.append(key)


def _idle_blocks(environment: TemplateEnvironment) -> list[Problem]:
    """Blocks of a template that extends another one, which has no such block."""
    problems = []
    for key, facts in environment.facts.items():
        ancestors = _ancestors(environment, key)
        if not ancestors:
            continue
        known = {block for base in ancestors for block in environment.facts[base].blocks}
        for block, line in facts.outer.items():
            if block not in known:
                origin = Origin(environment.files.get(key).file, line, route=environment.routes[key])
                problems.append(
                    Problem(f"the block {block!r} overrides nothing", origin=origin, hint=_hint(environment, block, known, key))
                )
    return problems


def _hint(environment: TemplateEnvironment, block: str, known: set[str], key: str) -> str:
    elsewhere = [other for other, facts in environment.facts.items() if other != key and block in facts.blocks]
    near = nearest(block, known)
    if elsewhere:
        name = environment.files.get(elsewhere[-1]).name
        return f"it is a block of {name!r}, which is only included: include a document that extends it"
    return f"did you mean {near!r}?" if near else "there are " + ", ".join(sorted(known))


def _unused_documents(environment: TemplateEnvironment) -> list[Problem]:
    """Inline documents that no template of their file names."""
    problems = []
    for file in {environment.files.get(key).file for key in environment.facts}:
        parts = [facts for key, facts in environment.facts.items() if environment.files.get(key).file == file]
        if any(facts.is_dynamic for facts in parts):
            continue
        named = {name for facts in parts for name in (*facts.extends, *facts.includes)}
        for document in environment.files.inline(file):
            if document.name not in named and document.key not in environment.facts:
                near = nearest(document.name, {name for name in named if environment.files.key(name, file).startswith(MISSING)})
                hint = f"did you mean {near!r}?" if near else f"write -- include '{document.name}' where it belongs, or remove it"
                origin = Origin(file, document.line - 1)
                problems.append(Problem(f"nothing uses the document {document.name!r}", origin=origin, hint=hint))
    return problems
