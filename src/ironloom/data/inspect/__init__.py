"""Looking at prepared data before a run is paid for: lengths, what is trained, duplicates, leaks, broken records.

Knows stores and sources, and prints nothing: ``cli/inspecting.py`` does, and :mod:`ironloom.data.inspect.page` makes a page of it.
"""

from ironloom.data.inspect.build import inspect_data
from ironloom.data.inspect.page import page
from ironloom.data.inspect.report import Report

__all__ = ["Report", "inspect_data", "page"]
