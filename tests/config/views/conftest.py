"""Targets for generated graphs, and how to compare what was built."""

import importlib
import sys

import pytest

TOYS = """
LOG = []

class Thing:
    def __init__(self, *args, **kwargs):
        self.args, self.kwargs = args, kwargs
        LOG.append(type(self).__name__)

    @staticmethod
    def make(*args, **kwargs):
        return Thing(*args, **kwargs)

class sum(Thing):
    pass

class construct(Thing):
    pass

class UNSET(Thing):
    pass
"""


@pytest.fixture(scope="module")
def toys(tmp_path_factory):
    """A module ``viewtoys`` of targets; some have the names of builtins or of what generated code uses."""
    folder = tmp_path_factory.mktemp("a folder")
    (folder / "viewtoys.py").write_text(TOYS)
    sys.path.insert(0, str(folder))
    sys.modules.pop("viewtoys", None)
    importlib.invalidate_caches()
    yield importlib.import_module("viewtoys")
    sys.path.remove(str(folder))
    sys.modules.pop("viewtoys", None)
