"""Values of secret environment variables in what a program made: they are written as references, never as they are."""

from __future__ import annotations

import os

from ironloom.config.secrets import is_secret

# What is shorter is found in too many texts by accident; a text that is nothing else may be shorter.
SHORTEST, SHORTEST_WHOLE = 8, 4


def referring(text: str) -> str | None:
    """The text with references to the variables whose secret values stand in it; None if there are none."""
    found = text.replace("${", "$${")
    plain = found
    for name, value in sorted(os.environ.items(), key=lambda item: len(item[1]), reverse=True):
        least = SHORTEST_WHOLE if value == text else SHORTEST
        if len(value) >= least and value in found and is_secret(name):
            found = found.replace(value, f"${{{name}}}")
    return None if found == plain else found
