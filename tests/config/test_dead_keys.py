"""No argument of the trainers is declared and never read. The keys of the groups: groups/test_keys.py, groups/test_data_files.py."""

import ast
import dataclasses
import pathlib

import ironloom
from ironloom.settings import TrainingArguments
from ironloom.settings.model import ModelConfig, PositionalEmbedding

SOURCE = pathlib.Path(ironloom.__file__).parent
# Names of variables that hold the arguments; an attribute of anything else is another thing of the same name.
HOLDERS = {"args", "arguments", "self", "training_args"}


def attributes(*, without, holders=None):
    """Every attribute that is read in the package outside of some folders, of variables with these names."""
    read, files = set(), 0
    for file in SOURCE.rglob("*.py"):
        if file.relative_to(SOURCE).parts[0] in without:
            continue
        files += 1
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load) and (holders is None or _name(node.value) in holders):
                read.add(node.attr)
    assert files > 40
    return read


def _name(node):
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", None)


def through_methods(read, file):
    """What is read, and what the settings' own methods read of themselves where such a method is read."""
    tree, methods = ast.parse((SOURCE / "settings" / file).read_text(encoding="utf-8")), {}
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name != "problems":
            methods[node.name] = {part.attr for part in ast.walk(node) if isinstance(part, ast.Attribute)}
    for _ in methods:  # methods that read methods
        read = read.union(*(names for method, names in methods.items() if method in read))
    return read


def test_every_argument_of_the_trainers_is_read_somewhere():
    read = through_methods(attributes(without=("settings", "config"), holders=HOLDERS), "training.py")
    assert "get_warmup_steps" in read
    fields = dataclasses.fields(TrainingArguments)
    assert len(fields) > 50
    dead = [field.name for field in fields if field.name not in read and not field.metadata["planned"]]
    assert dead == []


def test_every_part_of_a_model_is_read_somewhere():
    read = through_methods(attributes(without=("settings", "config")), "model.py")
    assert [field.name for cls in (ModelConfig, PositionalEmbedding) for field in dataclasses.fields(cls) if field.name not in read] == [
        # What a decoder does not know of itself; the graph gives them to the data and to the arguments.
        "precision",
        "tokenizer_type",
        "vocab_name_or_path",
        # Arguments of the function that loads a model.
        "from_scratch",
        "lora",
    ]
