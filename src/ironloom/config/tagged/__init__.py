"""A graph as tagged YAML text, and back: the one serialisation.

The text begins with the line :data:`HEADER`. ``!call:module:attr@name``, ``!factory:...``, ``!partial:...``,
``!meta:...`` are nodes: a sequence holds positional arguments, a mapping keywords, a mapping of just
``args`` and ``kwargs`` both. ``!var name`` or ``!var {name: n, default: v}`` is a variable, ``!calc text`` a
calculation, ``!tuple [...]`` a tuple. What is shared has an anchor. ``dump(load(dump(graph))) == dump(graph)``.
"""

from ironloom.config.tagged.read import is_tagged, load
from ironloom.config.tagged.write import HEADER, dump

__all__ = ["HEADER", "dump", "is_tagged", "load"]
