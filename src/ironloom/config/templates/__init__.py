"""The template language: YAML with tags, written with Jinja in a line form, to a graph.

``lines`` turns the line form into Jinja, ``environment`` and ``render`` make the text and know for each of its lines the
template line that wrote it, ``read`` makes the graph, ``variables`` puts in what ``!var`` and ``!calc`` stand for.
Templates run in Jinja's sandbox; tags name code, which runs when the graph is built.
"""

from ironloom.config.templates.load import load
from ironloom.config.templates.render import Rendered, render

__all__ = ["Rendered", "load", "render"]
