"""A group inline, by name, or by name with changes; names of names; where they are looked for."""

import pytest

from ironloom import config
from ironloom.config import groups
from ironloom.config.groups import presets
from ironloom.errors import ConfigError

DATA = "data: {train_datasets: [python-docs]}\n"


def shape(path, overrides=()):
    return groups.load(path, overrides).root["model"].kwargs["config"].kwargs


def problems(path, overrides=()):
    with pytest.raises(ConfigError) as caught:
        groups.load(path, overrides)
    return [str(problem) for problem in caught.value.problems]


def test_a_name_with_changes(write):
    path = write(DATA + "model: {preset: gpt2-small, dropout_attn: 0.0, positional_embedding: {type: rope}}\n")
    assert (shape(path)["d_model"], shape(path)["dropout_attn"], shape(path)["dropout_mlp"]) == (768, 0.0, 0.1)
    assert shape(path)["positional_embedding"]["type"] == "rope"
    graph = groups.load(path)
    places = {key: graph.origin(("model", "config", key)) for key in ("d_model", "dropout_attn")}
    assert (places["d_model"].route, places["dropout_attn"].route) == ("preset", "file")
    assert str(places["dropout_attn"]) == f"{path}:2:43"


def test_changes_reach_into_a_nested_mapping_and_leave_the_rest(write):
    path = write(DATA + "model: {preset: llama, positional_embedding: {scaling_factor: 2.0}}\n")
    positions = shape(path)["positional_embedding"]
    assert (positions["type"], positions["base"], positions["scaling_factor"], positions["offset"]) == ("rope", 500000.0, 2.0, 0)


def test_a_preset_builds_on_another(write):
    write("preset: small\nd_model: 96\n", "model/big.yaml")
    write("preset: gpt2-small\nnum_layers: 3\nd_model: 64\n", "model/small.yml")
    path = write(DATA + "model: {preset: big, d_ffn: 5}\n")
    assert [shape(path)[key] for key in ("d_model", "num_layers", "d_ffn", "num_attention_heads")] == [96, 3, 5, 12]


def test_a_preset_may_change_the_one_of_the_same_name_in_the_package(write):
    write("preset: gpt2-small\nnum_layers: 3\n", "model/gpt2-small.yaml")
    path = write(DATA + "model: gpt2-small\n")
    assert (shape(path)["num_layers"], shape(path)["d_model"]) == (3, 768)


def test_presets_that_name_each_other_are_refused(write):
    write("preset: b\n", "model/a.yaml")
    second = write("preset: a\n", "model/b.yaml")
    assert problems(write(DATA + "model: a\n")) == [f"{second}:1:9: model: the presets name each other: a -> b -> a"]
    alone = write("preset: c\n", "model/c.yaml")
    assert problems(write(DATA + "model: c\n")) == [f"{alone}:1:9: model: the presets name each other: c -> c"]


@pytest.mark.parametrize("place", ["model/mine.yaml", "mine.yaml", "mine.yml", "configs/model/mine.yml", "../configs/model/mine.yaml"])
def test_places_where_a_name_is_looked_for(write, place, tmp_path):
    write("d_model: 24\n", f"runs/{place}")
    path = write(DATA + "model: mine\n", "runs/run.yaml")
    assert shape(path)["d_model"] == 24


def test_nearer_places_come_first_and_a_folder_with_spaces_is_one(write):
    for number, place in enumerate(["a b/model/mine.yaml", "a b/mine.yaml", "a b/configs/model/mine.yaml", "configs/model/mine.yaml"]):
        write(f"d_model: {8 * number + 8}\n", place)
    path = write(DATA + "model: mine\n", "a b/run.yaml")
    assert shape(path)["d_model"] == 8


def test_the_configs_of_the_project_are_found_from_deep_inside(write):
    write("", "project/meta.yaml")
    write("d_model: 40\n", "project/configs/model/mine.yaml")
    assert shape(write(DATA + "model: mine\n", "project/runs/deep/run.yaml"))["d_model"] == 40


def test_a_whole_configuration_beside_is_no_preset(write):
    write(DATA + "model: {d_model: 8}\n", "gpt2-small.yaml")
    assert shape(write(DATA + "model: gpt2-small\n"))["d_model"] == 768
    assert shape(write(DATA + "model: gpt2-small\n", "gpt2-small.yaml"))["d_model"] == 768


def test_the_error_lists_where_it_looked(write, tmp_path):
    write("d_model: 8\n", "model/tiny.yaml")
    path = write(DATA + "model: {preset: tinny}\n")
    assert problems(path) == [
        f"{path}:2:17: model: there is no preset 'tinny' in {tmp_path}/model, {tmp_path}, {tmp_path}/configs/model, the package "
        "(did you mean 'tiny'?)"
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("model: {preset: 5}\n", "2:17: model: 5 is not the name of a preset"),
        ("model: {preset: [a]}\n", "2:17: model: ['a'] is not the name of a preset"),
        ("model: {preset: ../a}\n", "is not the name of a preset (a name, not a path)"),
        ("model: {presett: gpt2-small}\n", "2:9: model.presett: unknown key (did you mean 'preset'?)"),
        ("model: 5\n", "2:8: model: expected a mapping of keys or the name of a preset, found 5"),
    ],
)
def test_wrong_names(write, text, expected):
    (problem,) = problems(write(DATA + text))
    assert expected in problem


def test_overrides_choose_and_change(write):
    path = write(DATA + "model: {d_model: 64, dropout_attn: 0.5}\n")
    assert shape(path, ["model=gpt2-small"])["dropout_attn"] == 0.1  # the whole group is another
    chosen = shape(path, ["model.preset=gpt2-small"])
    assert (chosen["d_model"], chosen["dropout_attn"], chosen["num_layers"]) == (64, 0.5, 12)
    assert shape(path, ["model.num_layers=1", "model=gpt2-small"])["num_layers"] == 1
    named = write(DATA + "model: llama\n", "other.yaml")
    assert shape(named, ["model.preset=gpt2-small"])["d_model"] == 768
    assert shape(write(DATA, "none.yaml"), ["model.preset=gpt2-small"])["d_model"] == 768
    assert shape(path, ["model={preset: gpt2-small, d_ffn: 7}"])["d_ffn"] == 7
    (problem,) = problems(path, ["model.preset=gpt2-smal"])
    assert problem.startswith("command line: model: there is no preset 'gpt2-smal' in ")


def test_every_preset_of_the_package_is_right(write):
    for file in (presets.LIBRARY / "data").glob("*.yaml"):
        path = write(f"data: {file.stem}\nmodel: {{preset: gpt2-small, max_seq_len: 2048}}\n")
        assert config.check(groups.load(path)) == []
    assert len(list((presets.LIBRARY / "data").glob("*.yaml"))) == 6
