"""Names in generated Python: unique, readable, never a keyword or a builtin; and the imports they stand for."""

from __future__ import annotations

import builtins
import keyword
import re

from ironloom.config.graph import target_parts

_FORBIDDEN = {*dir(builtins), *keyword.kwlist, *keyword.softkwlist, "__debug__"}


def is_name(text: str) -> bool:
    """Whether Python takes ``text`` for a name that can be bound."""
    return text.isidentifier() and text.isascii() and not keyword.iskeyword(text) and text != "__debug__"


class Names:
    """The names of one module. All live in one namespace, so that none shadows another."""

    def __init__(self, *reserved: str):
        self._taken = {*_FORBIDDEN, *reserved}
        self._targets: dict[str, str] = {}
        self._imports: dict[str, list[str]] = {}
        self._located: list[str] = []

    def new(self, wish: str) -> str:
        """A name that nothing else has, near to ``wish``."""
        base = re.sub(r"\W+", "_", wish, flags=re.ASCII).strip("_") or "value"
        base = f"value_{base}" if base[0].isdigit() else base
        name, number = base, 1
        while name in self._taken:
            number += 1
            name = f"{base}_{number}"
        self._taken.add(name)
        return name

    def target(self, target: str) -> str:
        """The expression of a target; what it needs is imported."""
        if target not in self._targets:
            self._targets[target] = self._import(target)
        return self._targets[target]

    def _import(self, target: str) -> str:
        module, attributes = target_parts(target)
        first, *rest = attributes.split(".")
        if module == "builtins" and hasattr(builtins, first) and all(map(is_name, rest)) and not keyword.iskeyword(first):
            return attributes
        parts = module.split(".")
        if parts[0] == "__future__" or not all(map(is_name, [*parts, first, *rest])):
            locate = self.target("ironloom.config.build:locate")
            name = self.new(target.rpartition(":")[2].rpartition(".")[2])
            self._located.append(f"{name} = {locate}({target!r})")
            return name
        known = f"{module}:{first}"
        if known not in self._targets:
            name = self.new(first)
            self._imports.setdefault(module, []).append(first if name == first else f"{first} as {name}")
            self._targets[known] = name
        return ".".join([self._targets[known], *rest])

    def header(self) -> list[str]:
        """The lines that import and find everything."""
        imports = [f"from {module} import {', '.join(sorted(names))}" for module, names in sorted(self._imports.items())]
        blocks = [block for block in (imports, self._located) if block]
        return [line for block in blocks for line in (*block, "")]
