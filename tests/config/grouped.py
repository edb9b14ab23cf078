"""What tests of grouped configurations share."""

import pytest

from ironloom import config
from ironloom.errors import ConfigError

DATA = "data: {train_datasets: [python-docs]}\n"


def problems(path, overrides=()):
    with pytest.raises(ConfigError) as caught:
        config.load(path, overrides)
    return [str(problem) for problem in caught.value.problems]


def kwargs(graph, name):
    return graph.root[name].kwargs
