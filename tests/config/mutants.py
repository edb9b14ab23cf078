"""Wrong configurations made from right ones: one mistake each, and what a message about it must say."""

import ast
import random
import re
import string
from collections.abc import Iterator
from dataclasses import dataclass

import yaml

from ironloom import configs
from ironloom.config.source import Loader
from ironloom.settings.base import field_names
from ironloom.settings.groups import GROUPS, PRESET, DataFile, DatasetEntry
from ironloom.settings.model import ModelConfig, PositionalEmbedding
from ironloom.settings.training import TrainingArguments

LETTERS = string.ascii_lowercase + "_"
NUMBER = re.compile(r"[-+]?[\d.]+(e[-+]?\d+)?\Z")


@dataclass(frozen=True)
class Mutant:
    """A text with one mistake.

    Attributes:
        kind: What was done to it.
        what: The key or value it was done to, for messages.
        text: The text.
        line: The line of the mistake, from 1; 0 if another one is named: a value that is shared, or a variable's, stands where it is set.
        meant: What the hint must say: the right key in quotes, or with its group; ``""`` if none can be asked for.
    """

    kind: str
    what: str
    text: str
    line: int
    meant: str = ""


@dataclass(frozen=True)
class Entry:
    """A key of a YAML file and its value, with their nodes."""

    path: tuple
    key: yaml.Node
    value: yaml.Node

    @property
    def group(self):
        return self.path[0]


def grouped(text: str, group: str = "", spellings: int = 6, seed: int = 0) -> Iterator[Mutant]:
    """Mutants of a grouped configuration, or with ``group`` of a preset of that group.

    Args:
        text: The configuration.
        group: The group whose keys stand at the top.
        spellings: Misspellings of each key.
        seed: Seed of the misspellings.
    """
    rng = random.Random(seed)
    front = (group,) if group else ()
    entries = list(_entries(yaml.compose(text, Loader), front))
    for entry in entries:
        yield from _misspelt(text, entry, rng, spellings)
        if isinstance(entry.value, yaml.ScalarNode):
            yield from _wrong_values(text, entry.key.value, entry.value)
        elif isinstance(entry.value, yaml.SequenceNode):
            yield _put("type", text, entry.key.value, entry.value, "7")
            for item in entry.value.value:
                if isinstance(item, yaml.ScalarNode):
                    yield from _wrong_values(text, f"item of {entry.key.value}", item)
    if not group:
        yield from _misplaced(text, entries)
        yield from _on_nothing(text, entries)


def one_edit(word: str, rng: random.Random) -> str:
    """The word with a letter inserted, left out, replaced, or swapped with its neighbour."""
    place = rng.randrange(len(word))
    letter = rng.choice(LETTERS)
    return rng.choice(
        [
            word[:place] + letter + word[place:],
            word[:place] + word[place + 1 :],
            word[:place] + letter + word[place + 1 :],
            word[:place] + word[place + 1 : place + 2] + word[place] + word[place + 2 :],
        ]
    )


def _entries(node: yaml.Node, path: tuple) -> Iterator[Entry]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield Entry((*path, key.value), key, value)
            yield from _entries(value, (*path, key.value))
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            yield from _entries(item, (*path, index))


def _valid(path: tuple) -> list[str]:
    """The keys that are valid where ``path`` stands."""
    if len(path) == 1:
        return list(GROUPS)
    if len(path) == 2:
        return [*field_names(GROUPS[path[0]]), PRESET, *(field_names(DataFile) if path[0] == "data" else ())]
    return field_names(PositionalEmbedding if path[1] == "positional_embedding" else DatasetEntry)


def _misspelt(text: str, entry: Entry, rng: random.Random, count: int) -> Iterator[Mutant]:
    key, wrong = entry.key.value, set()
    while len(wrong) < count:
        word = one_edit(key, rng)
        if re.fullmatch(r"[a-z_]\w*", word) and word not in (*_valid(entry.path), "null", "true", "false"):
            wrong.add(word)
    for word in sorted(wrong):
        yield _put("spelling", text, f"{key} as {word}", entry.key, word, meant=repr(key))


def _wrong_values(text: str, what: str, node: yaml.ScalarNode) -> Iterator[Mutant]:
    value = node.value
    if node.style is None and NUMBER.match(value):
        yield _put("type", text, what, node, "many")
        yield _put("type", text, what, node, "[1]")
        yield _put("range", text, what, node, "-7")
        if value.isdecimal():
            yield _put("type", text, what, node, "2.5")
    elif value in ("true", "false"):
        yield _put("type", text, what, node, "maybe")
        yield _put("type", text, what, node, "2")
    else:
        yield _put("type", text, what, node, "[1]")
        yield _put("type", text, what, node, "{a: 1}")
    yield _put("variable", text, what, node, '"${NO_SUCH_VARIABLE}"')


def _put(kind: str, text: str, what: str, node: yaml.Node, new: str, meant: str = "") -> Mutant:
    """The text with another one in place of a node."""
    start, end = node.start_mark.index, node.end_mark.index
    old = text[start:end]
    end = start + len(old.rstrip())  # a block ends where the next begins
    return Mutant(kind, f"{what}: {new}", text[:start] + new + text[end:], node.start_mark.line + 1, meant)


def _misplaced(text: str, entries: list[Entry]) -> Iterator[Mutant]:
    """Every key of a group in each other group that does not know it."""
    present = {entry.group for entry in entries}
    for entry in entries:
        if len(entry.path) != 2 or not isinstance(entry.value, yaml.ScalarNode) or entry.key.value in (PRESET,):
            continue
        start, end = entry.key.start_mark.index, entry.value.end_mark.index
        for group in GROUPS:
            if group in present or entry.key.value in _valid((group, "")):
                continue
            moved = f"{text.rstrip()}\n{group}: {{{text[start:end]}}}\n"
            yield Mutant("group", f"{entry.key.value} in {group}", moved, moved.count("\n"), f"{entry.group}.{entry.key.value}")


def _on_nothing(text: str, entries: list[Entry]) -> Iterator[Mutant]:
    """Every group on a preset that does not exist."""
    for entry in entries:
        if len(entry.path) == 1 and isinstance(entry.value, yaml.ScalarNode):
            yield _put("preset", text, entry.group, entry.value, "no-such-preset")
        elif len(entry.path) == 1 and not entry.value.flow_style:
            place = entry.value.start_mark.index
            indent = " " * entry.value.start_mark.column
            changed = f"{text[:place]}preset: no-such-preset\n{indent}{text[place:]}"
            yield Mutant("preset", entry.group, changed, entry.value.start_mark.line + 1)


# Blocks of a template whose keys are arguments that are checked, and those whose values are checked too.
ARGUMENTS = ("trainer_args", "optimizer", "lr_scheduler", "trainer_callbacks", "data_definition", "model_definition")
SETTINGS = ("trainer_args",)


def templated(text: str, spellings: int = 6, seed: int = 0) -> Iterator[Mutant]:
    """Mutants of a template: of the arguments in its blocks, of the templates it names, of the variables it uses."""
    rng = random.Random(seed)
    lines, block, known = text.splitlines(), "", [*field_names(TrainingArguments), *field_names(ModelConfig)]

    def changed(kind: str, number: int, start: int, end: int, new: str, meant: str = "") -> Mutant:
        line = lines[number][:start] + new + lines[number][end:]
        spoilt = "\n".join([*lines[:number], line, *lines[number + 1 :]]) + "\n"
        place = 0 if kind == "spelling" and re.search("!var|: [*]", line) else number + 1
        return Mutant(kind, f"{lines[number].strip()}: {new}", spoilt, place, meant)

    for number, line in enumerate(lines):
        statement = re.match(r"\s*-- (endblock|block|extends|include)\s+'?([^\s']*)'?", line)
        if statement:
            block = statement[2] if statement[1] == "block" else "" if statement[1] == "endblock" else block
            if statement[1] in ("extends", "include"):
                for name in sorted({one_edit(statement[2], rng) for _ in range(spellings)} - {statement[2]}):
                    yield changed("include", number, *statement.span(2), name)
            continue
        entry = re.match(r"\s*([a-z_]\w*): (.+)", line)
        if not entry or block not in ARGUMENTS:
            continue
        for _ in range(spellings):
            word = one_edit(entry[1], rng)
            if re.fullmatch(r"[a-z_]\w*", word) and word not in (*known, entry[1]):
                yield changed("spelling", number, *entry.span(1), word, repr(entry[1]))
        yield changed("variable", number, *entry.span(2), "{{ no_such_name }}")
        yield changed("variable", number, *entry.span(2), '!var "no_such_name"')
        if block in SETTINGS:
            yield changed("type", number, *entry.span(2), "[1, {a: 1}]")
            if entry[2][0].isdigit() or entry[2].startswith("{{"):
                yield changed("type", number, *entry.span(2), "many")
                yield changed("range", number, *entry.span(2), "-7")


def coded(text: str, spellings: int = 6, seed: int = 0) -> Iterator[Mutant]:
    """Mutants of a configuration in Python: of the keywords and values of its settings."""
    rng = random.Random(seed)
    lines = text.splitlines(keepends=True)
    starts = [sum(map(len, lines[:number])) for number in range(len(lines) + 1)]

    def put(kind: str, what: str, node: ast.keyword | ast.expr, new: str, meant: str = "", length: int | None = None) -> Mutant:
        start = starts[node.lineno - 1] + node.col_offset
        end = start + length if length is not None else starts[node.end_lineno - 1] + node.end_col_offset
        return Mutant(kind, f"{what}: {new}", text[:start] + new + text[end:], node.lineno, meant)

    for call in ast.walk(ast.parse(text)):
        name = ast.unparse(call.func) if isinstance(call, ast.Call) else ""
        if not hasattr(configs, name):
            continue
        known = field_names(getattr(configs, name))
        for keyword in call.keywords:
            wrong = {word for word in (one_edit(keyword.arg, rng) for _ in range(spellings)) if word.isidentifier() and word not in known}
            for word in sorted(wrong):
                yield put("spelling", f"{keyword.arg} as {word}", keyword, word, repr(keyword.arg), len(keyword.arg))
            if isinstance(keyword.value, ast.Constant):
                number = isinstance(keyword.value.value, (int, float)) and not isinstance(keyword.value.value, bool)
                for value in ("[1]", "{1: 2}", *(('"many"',) if number else ("7.5",))):
                    yield put("type", keyword.arg, keyword.value, value)
                if number:
                    yield put("range", keyword.arg, keyword.value, "-7")
            yield put("variable", keyword.arg, keyword.value, "no_such_name")
