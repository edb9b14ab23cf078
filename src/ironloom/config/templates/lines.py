"""The line form of templates: from a file's text to Jinja, one line for each line.

A file is split into its own template and inline documents (``#---- name ----``). In each, line statements
(``--``, ``<<``, ``>>``, ``==``, ``=>``), ``##`` comments and ``[block]`` headers become Jinja. Knows no Jinja itself.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_DOCUMENT = re.compile(r"#[ \t]*-{3,}[ \t]*(\w[\w./-]*?)[ \t]*-{3,}[ \t]*")
_COMMENT = re.compile(r"\s*##")
_STATEMENT = re.compile(r"\s*(--|<<|>>|==|=>)\s(.*)")
_HEADER = re.compile(r"(\s*)\[(\w+)(!?)\]\s*")
_FORMS = {
    "--": "{{% {} %}}",
    "<<": "{{%- {} %}}",
    ">>": "{{% {} -%}}",
    "==": "{{{{ {} }}}}",
    "=>": "{{{{ {}|trim('\\n') }}}}",
}


@dataclass(frozen=True)
class Document:
    """A template inside a file.

    Attributes:
        name: Its name; None for the file's own template.
        line: Line of the file where its text begins, from 1.
        text: The text as written.
    """

    name: str | None
    line: int
    text: str


def documents(text: str) -> list[Document]:
    """The templates of a file: its own, then the inline documents in their order. Each ends with a line end."""
    found: list[Document] = []
    name, start = None, 1
    held: list[str] = []
    for number, line in enumerate(_unix(text).split("\n"), start=1):
        header = _DOCUMENT.fullmatch(line)
        if header is None:
            held.append(line)
            continue
        found.append(Document(name, start, "\n".join([*held, ""])))
        name, start, held = header[1], number + 1, []
    last = "\n".join(held)
    return [*found, Document(name, start, last if last.endswith("\n") or not last else f"{last}\n")]


@dataclass(frozen=True)
class _Block:
    """A block that a header opened and nothing has closed yet."""

    name: str
    indent: int
    trimmed: bool

    def end(self, line: str) -> str:
        """What closes the block after its last line."""
        if self.trimmed:
            return f"{line}{{% endfilter %}}{{{{'\\n'}}}}{{% endblock {self.name} %}}"
        newline = "" if not line or line.endswith(("%}", "#}")) else "{{'\\n'}}"
        return f"{line}{newline}{{% endblock {self.name} %}}"


def rewrite(text: str) -> str:
    """The Jinja text of a template; every line keeps its number."""
    lines: list[str] = []
    opened: list[_Block] = []
    for line in _unix(text).split("\n"):
        header = _HEADER.fullmatch(_code(line, "##", False))
        if header is None:
            lines.append(_line(line))
            continue
        block = _Block(header[2], len(header[1]), bool(header[3]))
        while opened and opened[-1].indent >= block.indent:
            lines[-1] = opened.pop().end(lines[-1])
        opened.append(block)
        lines.append(f"{{% block {block.name} %}}" + ("{% filter trim %}" if block.trimmed else ""))
    while opened:
        lines[-1] = opened.pop().end(lines[-1])
    return "\n".join(lines)


def _unix(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _line(line: str) -> str:
    if _COMMENT.match(line):
        return "{# #}"
    statement = _STATEMENT.fullmatch(line)
    if statement is None:
        return _code(line, "##", False)
    return _FORMS[statement[1]].format(_code(statement[2], "#", True).strip())


def _code(line: str, mark: str, escapes: bool) -> str:
    """A line up to a comment: ``mark`` after white space, outside quotes.

    Args:
        line: The line.
        mark: What begins a comment.
        escapes: Whether a backslash escapes a single quote too, as in Jinja; not in YAML.
    """
    if mark not in line:
        return line
    at = 0
    while at < len(line):
        character = line[at]
        if character in "\"'" and _opens(line, at):
            at = _closing(line, at, escapes or character == '"')
        elif line.startswith(mark, at) and (at == 0 or line[at - 1].isspace()):
            return line[:at].rstrip()
        at += 1
    return line


def _opens(line: str, at: int) -> bool:
    """Whether a quote begins a text: it does not stand in a word, as in ``don't``."""
    return at == 0 or not (line[at - 1].isalnum() or line[at - 1] in "_\"'")


def _closing(line: str, at: int, escapes: bool) -> int:
    """Where the text that begins at ``at`` ends; ``at`` itself if it does not end in this line."""
    quote, end = line[at], at + 1
    while end < len(line):
        if escapes and line[end] == "\\":
            end += 2
        elif line[end] != quote:
            end += 1
        elif not escapes and line[end : end + 2] == quote * 2:
            end += 2
        else:
            return end
    return at
