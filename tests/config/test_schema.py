"""The JSON Schema accepts what the settings accept and refuses what they refuse."""

import copy
import json
import pathlib
import re

import pytest
import yaml

from ironloom import config
from ironloom.config import schema, source
from ironloom.errors import ConfigError
from ironloom.settings.groups import GROUPS

ROOT = pathlib.Path(__file__).parents[2]
VALID = yaml.load((ROOT / "examples/quickstart.yaml").read_text(), source.Loader)
KINDS = {"object": dict, "array": list, "string": str, "null": type(None), "boolean": bool}
NOTES = {"$schema", "title", "description", "default"}


def is_kind(value, kind):
    if kind in ("integer", "number"):
        return isinstance(value, (int, float) if kind == "number" else int) and not isinstance(value, bool)
    return isinstance(value, KINDS[kind])


def accepts(rule, value):
    """Whether a JSON value satisfies a schema; every keyword that our schemas use is here, others fail the test."""
    unknown = set(rule) - NOTES - {
        "type", "properties", "additionalProperties", "required", "anyOf", "enum", "const", "items", "pattern",
        "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "minItems", "maxItems",
    }  # fmt: skip
    assert not unknown, unknown
    if "anyOf" in rule and not any(accepts(part, value) for part in rule["anyOf"]):
        return False
    if "enum" in rule and value not in rule["enum"]:
        return False
    if "const" in rule and (value != rule["const"] or type(value) is not type(rule["const"])):
        return False
    if "type" in rule:
        kinds = rule["type"] if isinstance(rule["type"], list) else [rule["type"]]
        if not any(is_kind(value, kind) for kind in kinds):
            return False
    if isinstance(value, dict):
        extra = rule.get("additionalProperties", True)
        for key, part in value.items():
            if key in rule.get("properties", {}):
                if not accepts(rule["properties"][key], part):
                    return False
            elif extra is False or (isinstance(extra, dict) and not accepts(extra, part)):
                return False
        return set(rule.get("required", [])) <= set(value)
    if isinstance(value, list):
        return all(accepts(rule.get("items", {}), part) for part in value)
    if isinstance(value, str):
        return "pattern" not in rule or re.search(rule["pattern"], value) is not None
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        bounds = [
            ("minimum", value.__ge__),
            ("maximum", value.__le__),
            ("exclusiveMinimum", value.__gt__),
            ("exclusiveMaximum", value.__lt__),
        ]
        return all(compare(rule[name]) for name, compare in bounds if name in rule)
    return True


def changed(path, value):
    made = copy.deepcopy(VALID)
    holder = made
    for key in path[:-1]:
        holder = holder.setdefault(key, {})
    holder[path[-1]] = value
    return made


@pytest.fixture(scope="module")
def groups():
    made = schema.groups_schema()
    return json.loads(json.dumps(made))


def test_every_shipped_configuration_in_groups_is_accepted(groups):
    files = [file for file in sorted((ROOT / "examples").rglob("*.yaml")) if file.name != "meta.yaml" and config.style(file) == "groups"]
    assert files
    for file in files:
        assert accepts(groups, yaml.load(file.read_text(), source.Loader)), file


def test_every_preset_is_accepted(groups):
    files = [
        (group, file) for group in GROUPS for file in sorted((ROOT / "src/ironloom/library" / group).glob("*.yaml")) if group == "model"
    ]
    assert len(files) >= 6
    for group, file in files:
        assert accepts(groups, {group: yaml.load(file.read_text(), source.Loader)}), file


def test_every_key_is_there_with_its_line_and_default(groups):
    for name, cls in GROUPS.items():
        inline = groups["properties"][name]["anyOf"][0]["properties"]
        for key, field in cls.__dataclass_fields__.items():
            assert inline[key]["description"].startswith(field.metadata["doc"].rstrip(".")), (name, key)
            assert "default" in inline[key], (name, key)
        assert set(inline) == {"preset", *cls.__dataclass_fields__}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("optim", "max_lr"), 1e-3),
        (("optim", "max_lr"), 1),
        (("optim", "max_lr"), "${RATE:0.1}"),
        (("model",), "gpt2-small"),
        (("model",), {"preset": "gpt2-small", "dropout_attn": 0.0}),
        (("utils",), None),
        (("trainer", "eval_batch_size"), None),
        (("data", "train_datasets"), ["a.txt", {"dataset_path": "b.jsonl", "text_column": "story"}]),
        (("model", "positional_embedding"), {"type": "rope", "base": 1000}),
    ],
)  # fmt: skip
def test_what_is_right_is_accepted(groups, path, value):
    assert accepts(groups, changed(path, value))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("optim", "max_lrr"), 1e-3),
        (("optim", "max_lr"), "high"),
        (("optim", "max_lr"), 0),
        (("optim", "adam_beta1"), 1),
        (("operation", "train_steps"), 0),
        (("operation", "train_steps"), 1.5),
        (("operation", "train_steps"), True),
        (("operation", "no_save"), "yes"),
        (("optim", "lr_scheduler"), "cosin"),
        (("trainer", "train_steps"), 5),
        (("model", "positional_embedding"), {"type": "rop"}),
        (("data", "train_datasets"), [{"dataset_pth": "b.jsonl"}]),
        (("optimizer",), {}),
        (("model",), 3),
    ],
)  # fmt: skip
def test_what_is_wrong_is_refused_as_the_settings_do(groups, path, value, write):
    assert not accepts(groups, changed(path, value))
    with pytest.raises(ConfigError):
        config.load(write(yaml.safe_dump(changed(path, value)), "wrong.yaml"))


def test_a_key_that_is_not_available_yet_has_its_default_only(groups):
    planned = [
        (name, key, field)
        for name, cls in GROUPS.items()
        for key, field in cls.__dataclass_fields__.items()
        if field.metadata.get("planned")
    ]
    for name, key, field in planned:
        rule = groups["properties"][name]["anyOf"][0]["properties"][key]
        assert accepts(rule, field.default)
        assert not accepts(rule, "something else")
        assert "Not available yet" in rule["description"]


class _Untagged(source.Loader):
    """What an editor sees of tagged YAML: the values without their tags."""


def _plain(loader, suffix, node):
    if isinstance(node, yaml.MappingNode):
        return loader.construct_mapping(node, deep=True)
    if isinstance(node, yaml.SequenceNode):
        return loader.construct_sequence(node, deep=True)
    return loader.construct_scalar(node)


_Untagged.add_multi_constructor("!", _plain)


def test_a_run_is_accepted_and_its_mistakes_are_not():
    from ironloom.config import tagged

    made = json.loads(json.dumps(schema.run_schema()))
    text = tagged.dump(config.load(ROOT / "examples/quickstart.yaml"))
    assert accepts(made, yaml.load(text, _Untagged))
    for right, wrong in (
        ("max_steps: 400", "max_stepz: 400"),
        ("max_steps: 400", "max_steps: many"),
        ("log_level: INFO", "log_level: LOUD"),
    ):
        assert right in text
        assert not accepts(made, yaml.load(text.replace(right, wrong), _Untagged)), wrong
    assert not accepts(made, {"trainer_args": {}})


def test_the_tags_for_editors_are_those_that_a_run_has():
    from ironloom.config import tagged

    text = tagged.dump(config.load(ROOT / "examples/quickstart.yaml"))
    for tag in ("!call:ironloom.settings:TrainingArguments", "!call:ironloom.settings:ModelConfig"):
        assert tag in text
        assert f"{tag} mapping" in schema.tags()
