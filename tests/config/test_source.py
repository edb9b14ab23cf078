"""Files that cannot be configurations are refused with their name; what a file is decides how it is read."""

import os
import pathlib

import pytest

from ironloom import config
from ironloom.errors import ConfigError

GROUPS = "data: {train_datasets: [python-docs]}\n"


def message(path, overrides=()):
    with pytest.raises(ConfigError) as caught:
        config.load(path, overrides)
    return str(caught.value)


def test_a_missing_file_names_its_neighbour(write, tmp_path):
    write(GROUPS, "quickstart.yaml")
    assert message(tmp_path / "quikstart.yaml") == (
        f"{tmp_path}/quikstart.yaml: there is no such file (did you mean '{tmp_path}/quickstart.yaml'?)"
    )
    assert "there is no folder" in message(tmp_path / "nowhere" / "a.yaml")


def test_a_folder_says_what_it_holds(write, tmp_path):
    write(GROUPS, "folder/a.yaml")
    assert message(tmp_path / "folder") == f"{tmp_path}/folder: is a folder, not a configuration file (it holds a.yaml)"


@pytest.mark.parametrize("text", ["", "  \n\n", "\ufeff"])
def test_an_empty_file(write, text):
    path = write(text)
    assert message(path).startswith(f"{path}: is empty")


@pytest.mark.parametrize("text", ["# nothing\n", "just words\n", "- a\n- b\n"])
def test_a_file_without_keys(write, text):
    path = write(text)
    assert message(path).startswith(f"{path}:1:1: is not a configuration (its groups are model, ")


def test_a_binary_file(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"\x08\0\0\0{}")
    assert message(path) == f"{path}: is a binary file, not a configuration"


def test_a_file_in_another_encoding_says_where(tmp_path):
    path = tmp_path / "latin.yaml"
    path.write_bytes("trainer:\n  model_name: caf\u00e9\n".encode("latin-1"))
    assert message(path) == f"{path}:2:18: is not UTF-8 text"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_file(write):
    path = write(GROUPS)
    pathlib.Path(path).chmod(0)
    assert "cannot be read: Permission denied" in message(path)


def test_a_syntax_error_says_where(write):
    path = write("trainer:\n  log_interval: [1\noptim: {}\n")
    assert message(path).startswith(f"{path}:3:")


def test_a_tagged_file_is_a_graph_and_takes_overrides(write):
    path = write("main: !call:a:b {x: 1, deep: {y: [1, 2]}}\n")
    graph = config.load(path, ["main.x=1e-3", "main.deep.y.1=null", "main.new=[a]"])
    assert graph.root["main"].kwargs == {"x": 0.001, "deep": {"y": [1, None]}, "new": ["a"]}
    assert str(graph.origins["main", "x"]) == "command line"
    assert graph.origins["main", "deep", "y", 0].line == 1


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("mian.x=1", "no such target in the configuration (did you mean 'main'?)"),
        ("main.deep.y.5=1", "cannot be set: main.deep.y is a list of 2"),
        ("main.x.z=1", "cannot be set: main.x is 1, not a mapping"),
        ("main.nothing.z=1", "main.nothing: there is nothing of this name to go into"),
        ("main.x", "expected key=value, found 'main.x'"),
    ],
)
def test_overrides_that_lead_nowhere(write, override, expected):
    assert expected in message(write("main: !call:a:b {x: 1, deep: {y: [1, 2]}}\n"), [override])
