"""``ironloom templates``: the files that a configuration is made from. Never imports torch."""

from __future__ import annotations

from ironloom.cli.configuration import ConfigurationWords, split
from ironloom.cli.viewing import show


def templates(words: ConfigurationWords) -> None:
    """List the templates, or presets, that a configuration uses: name and file, in the order of use.

    Example: ironloom templates examples/quickstart.yaml
    """
    from ironloom.config.preprocessed import files_used

    found = split(words)
    used = files_used(found.path, found.overrides, found.arguments)
    width = max(len(name) for name, _ in used)
    show("".join(f"{name:<{width}}  {file}\n" for name, file in used))
