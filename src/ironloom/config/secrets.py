"""References to environment variables in texts, and which of them are secret.

``${NAME}`` stands for a variable, ``${NAME:default}`` for one that may be missing, and ``$${`` for a plain ``${``.
What a variable with a secret name holds is never written to a file: the graph keeps the reference (:func:`reference`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from ironloom.config.graph import Node
from ironloom.errors import ConfigError, Origin, Problem
from ironloom.settings.base import nearest

TARGET = "ironloom.config.targets:environment"
HIDDEN = "(secret)"
_REFERENCE = re.compile(r"\$(?P<escaped>\$\{)|\$\{(?P<inside>[^}]*)(?P<end>\}?)")
_WORDS = {"KEY", "PASS", "PASSPHRASE", "PASSWD", "PAT"}
_ENDINGS = ("TOKEN", "SECRET", "SECRETS", "PASSWORD", "PASSWORDS", "CREDENTIAL", "CREDENTIALS", "APIKEY", "ACCESSKEY", "PRIVATEKEY", "KEYS")


def is_secret(name: str) -> bool:
    """Whether the name of a variable says that it holds a secret: ``HF_TOKEN``, ``apiKey``, ``PGPASSWORD``."""
    words = re.split(r"[^A-Z0-9]+", name.upper())
    return any(word in _WORDS or word.endswith(_ENDINGS) for word in words)


def refers(text: str) -> bool:
    """Whether a text may hold references."""
    return "${" in text


def names(text: str) -> Iterator[str]:
    """The variables that a text refers to."""
    for found in _REFERENCE.finditer(text):
        if not found["escaped"]:
            yield found["inside"].partition(":")[0]


def holds_secret(text: str, environment: Mapping[str, str]) -> bool:
    """Whether a text refers to a secret that is set; a default that stands in the file is no secret."""
    return any(is_secret(name) and name in environment for name in names(text))


def substitute(text: str, environment: Mapping[str, str]) -> str:
    """The text with what its references stand for.

    Raises:
        ConfigError: With one problem for each variable that is missing, and each reference that is malformed.
    """
    problems: list[Problem] = []

    def value(found: re.Match[str]) -> str:
        if found["escaped"]:
            return "${"
        name, colon, default = found["inside"].partition(":")
        problem = _problem(found, name, default)
        if problem is None and name in environment:
            return environment[name]
        if problem is None and colon:
            return default
        problems.append(problem or _missing(name, environment))
        return ""

    made = _REFERENCE.sub(value, text)
    if problems:
        raise ConfigError(problems)
    return made


def reference(text: str, *, typed: bool, origin: Origin | None = None) -> Node:
    """The node that stands for a text with references, and reads the variables when it is built.

    Args:
        text: The text with its references.
        typed: Whether the result is read as a YAML scalar (``8`` is a number) or stays a text.
        origin: Where it stands.
    """
    return Node(TARGET, args=(text,), kwargs={} if typed else {"typed": False}, origin=origin)


def _problem(found: re.Match[str], name: str, default: str) -> Problem | None:
    """What is wrong with the form of a reference."""
    if not found["end"]:
        return Problem(f"the reference {found[0]!r} has no end", hint="write ${NAME}, or $${ for a plain ${")
    if not re.fullmatch(r"[A-Za-z_]\w*", name):
        return Problem(f"{found[0]!r} is no reference to a variable", hint="write ${NAME} or ${NAME:default}, or $${ for a plain ${")
    if default.startswith("-"):
        hint = f"write ${{{name}:{default[1:]}}}"
        return Problem(f"{found[0]!r} is how a shell spells a default", hint=hint)
    return None


def _missing(name: str, environment: Mapping[str, str]) -> Problem:
    near = nearest(name, environment)
    hint = f"did you mean {near!r}?" if near else f"set it, or give a default: ${{{name}:default}}"
    return Problem(f"the environment variable {name!r} is not set", hint=hint)
