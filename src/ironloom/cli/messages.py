"""The package's messages on the terminal."""

from __future__ import annotations

import logging

from ironloom.config.graph import Graph


def show_messages(graph: Graph) -> None:
    """Show them from the level that the configuration asks for, unless the user's own code says how messages are shown.

    Other libraries show their own: with a handler of all messages these would come twice.
    """
    logger = logging.getLogger("ironloom")
    logger.setLevel(graph.root.get("log_level", "INFO"))
    if not logger.hasHandlers():
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(message)s"))
        logger.addHandler(handler)
