"""How a configuration is recognised, and that a template is a configuration like the others."""

import pathlib
import subprocess
import sys

import pytest

from ironloom import config
from ironloom.config import tagged
from ironloom.errors import ConfigError

ROOT = pathlib.Path(__file__).parents[3]


@pytest.mark.parametrize(
    ("text", "style"),
    [
        ("# Ironloom: a resolved configuration\nmain: '{{ x }}'\n", "tagged"),
        ("-- extends 'x.yaml'\n\n[config]\n    a: 1\n", "templates"),
        ("  -- set a = 1\n", "templates"),
        ("{% set a = 1 %}\na: 1\n", "templates"),
        ("a: {{ x }}\n", "templates"),
        ("main: !call:a:b {}\n", "templates"),
        ("model: 1\nmain: 2\n", "templates"),
        ("trainer_args: {}\ndata: 1\n", "templates"),
        ("a: !dlist {}\n", "templates"),
        ("main: [1\n", "templates"),
        ("model: gpt2-small\n", "groups"),
        ("trainer: {a: 1}\nothers: 2\n", "groups"),
        ("modle: {}\n", "groups"),
        ("data:\n  x: |\n    -- no statement\n    == text ==\n", "groups"),
        ("model: gpt2\n# {{ a comment }}\n", "groups"),
    ],
)
def test_what_a_file_is(folder, text, style):
    assert config.style(folder.write(text)) == style


@pytest.mark.parametrize("name", ["config.py", "config.py:tiny", "a folder/config.py:tiny"])
def test_python_is_code(name):
    assert config.style(name) == "code"


@pytest.mark.parametrize("text", ["just words\n", "- a\n", "x: 1\n"])
def test_anything_else_is_explained(folder, shown, text):
    with pytest.raises(ConfigError, match=r"its groups are model, .* or it extends a template, or has a target main") as caught:
        config.style(folder.write(text))
    assert shown(caught.value).startswith("main.yaml:1:1: is not a configuration")


def test_a_syntax_error_without_signs_of_a_template_is_one(folder, shown):
    with pytest.raises(ConfigError, match="is not valid YAML"):
        config.style(folder.write("a: [1\n"))


def test_a_template_is_loaded_with_arguments_and_overrides(folder):
    folder.write("main: !call:dict\n-- block b\n-- endblock\n", "base.yaml")
    file = folder.write("-- extends 'base.yaml'\n[b]\n  a: {{ size | default(1) }}\n  b: 2\n")
    graph = config.load(file, ["main.b=3"], {"size": 7})
    assert config.build(graph) == {"a": 7, "b": 3}
    folder.write(tagged.dump(graph), "run.yaml")
    again = config.load(folder.path / "run.yaml", ["main.a=8"])
    assert config.build(again) == {"a": 8, "b": 3}


def test_trainer_arguments_are_built_without_torch_and_fast(folder):
    file = folder.write("-- extends 'trainers/trainer.yaml'\n-- block trainer_args\n    output_dir: here\n-- endblock\n")
    code = f"""
import sys
from ironloom import config
graph = config.load({str(file)!r})
assert config.build(graph, "trainer_args").output_dir == "here"
assert config.check(graph) == []
heavy = {{"torch", "numpy", "transformers", "datasets"}} & set(sys.modules)
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_a_misspelt_argument_suggests_the_right_one(folder, shown):
    text = "-- extends 'trainers/trainer.yaml'\n-- block trainer_args\n    logging_stps: 5\n    num_train_epochs: many\n-- endblock\n"
    found = [shown(problem) for problem in config.check(config.load(folder.write(text)))]
    assert found == [
        "main.yaml:3:19: trainer_args.logging_stps: unknown key of ironloom.settings:TrainingArguments (did you mean 'logging_steps'?)",
        "main.yaml:4:23: trainer_args.num_train_epochs: expected a number greater than 0, found 'many'",
    ] or [line.partition(" expected")[0] for line in found] == [
        "main.yaml:3:19: trainer_args.logging_stps: unknown key of ironloom.settings:TrainingArguments (did you mean 'logging_steps'?)",
        "main.yaml:4:23: trainer_args.num_train_epochs:",
    ]
