"""``ironloom pp``: the text between the configuration file and its graph. Never imports torch."""

from __future__ import annotations

from ironloom.cli.configuration import ConfigurationWords, split
from ironloom.cli.viewing import show


def pp(words: ConfigurationWords) -> None:
    """Show the preprocessed text: a template as rendered, groups with their presets and overrides merged.

    A target's or group's name shows that part alone.

    Example: ironloom pp examples/quickstart.yaml trainer
    """
    from ironloom.config.preprocessed import preprocessed

    found = split(words, others=1)
    show(preprocessed(found.path, found.overrides, found.arguments, found.others[0] if found.others else None))
