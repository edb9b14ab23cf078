"""Whatever stands in a file or on the command line, the answer is a graph or a list of problems with their places."""

import pathlib
import random

import pytest

from ironloom import config
from ironloom.config import groups, tagged
from ironloom.errors import ConfigError
from ironloom.settings.base import field_names
from ironloom.settings.data import LISTS, DataFile, DatasetEntry
from ironloom.settings.groups import GROUPS

HERE = pathlib.Path(__file__).parent
TEXTS = [(HERE / "example.yaml").read_text(encoding="utf-8"), (HERE.parents[2] / "examples/quickstart.yaml").read_text(encoding="utf-8")]
SECRET = "hunter2 hunter2"
VALUES = [
    *("1", "-1", "null", "~", "[]", "{}", "[1, [2]]", "{a: {b: c}}", "x", '""', ".nan", ".inf", "true", "1e400", "!x 1", "&a [*a]", "*b"),
    *("<<", "2024-01-01", "0x1F", "- 1", "{1: 2}", "{null: 1}", "{preset: llama}", "gpt2-small", "../x", "[{source: a}]", "9" * 400),
    *("[{openwebtext: [column: x]}]", "{? [a] : b}", '"\\u0000"', "preset", "[null]", "{dataset_path: [1]}", "${HOME}", '"${NOT_THERE}"'),
    *('"${TEST_KEY}"', '[{dataset_path: "${TEST_KEY}"}]', "['a', '${TEST_KEY}']", '"${TEST_KEY:x}${}"'),
]
KEYS = [
    *(f"{group}.{key}" for group, schema in GROUPS.items() for key in [*field_names(schema), "preset", "zzz"]),
    *GROUPS,
    *(f"data.train_datasets.{index}.{key}" for index in (0, 1, "x", -1) for key in field_names(DatasetEntry)),
    *("data.splits.0", "data.train_datasets.0", "+data.train_datasets.1", "model.positional_embedding.base", "+a.b.c", "main.x", "a"),
]


def spoilt(text, rng):
    """The text with up to two lines deleted, doubled, given another value, or another character."""
    lines = text.split("\n")
    for _ in range(rng.randrange(3)):
        place = rng.randrange(len(lines))
        kind = rng.randrange(4)
        if kind == 0:
            del lines[place]
        elif kind == 1:
            lines.insert(place, rng.choice(lines))
        elif kind == 2 and ":" in lines[place]:
            lines[place] = f"{lines[place].partition(':')[0]}: {rng.choice(VALUES)}"
        elif lines[place]:
            column = rng.randrange(len(lines[place]))
            lines[place] = lines[place][:column] + rng.choice("{}[]:,#&*!|>%@` \t'\"-?$\x07\xe9") + lines[place][column + 1 :]
    return "\n".join(lines)


@pytest.mark.parametrize("seed", range(4))
def test_no_input_is_a_fault_of_the_program(tmp_path, monkeypatch, seed):
    monkeypatch.setenv("TEST_KEY", SECRET)
    rng = random.Random(seed)
    path, refused, loaded = tmp_path / "run.yaml", 0, 0
    for _ in range(60):
        path.write_text(spoilt(rng.choice(TEXTS), rng), encoding="utf-8")
        keys = rng.choices([*field_names(DataFile), *LISTS, "splits", "train"], k=3)
        (tmp_path / "data.yaml").write_text("".join(f"{key}: {rng.choice(VALUES)}\n" for key in keys), encoding="utf-8")
        overrides = [f"{rng.choice(KEYS)}={rng.choice(VALUES)}" for _ in range(rng.randrange(2))]
        overrides += rng.choice([[], ["data.config_path=data.yaml"], ["trainer.gradient_accumulation_steps=null"]])
        try:
            graph = groups.load(path, overrides)
        except ConfigError as error:
            refused += 1
            assert SECRET not in str(error)
            assert [str(problem) for problem in error.problems if problem.origin is None] == []
            continue
        loaded += 1
        text = tagged.dump(graph)
        assert SECRET not in text + repr(graph.earlier)
        assert tagged.dump(tagged.load(text, "run.yaml")) == text
        assert config.check(graph) == []
    assert refused > 20
    assert loaded > 2
