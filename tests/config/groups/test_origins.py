"""Where a value came from, and what stood there before: default, preset, file, environment, command line, derived."""

from ironloom.config import groups
from ironloom.config.graph import is_leaf, walk


def history(graph, *path):
    """Value and route of every step, the last being what is there."""
    holder = graph.root
    for key in path:
        holder = (holder.kwargs if hasattr(holder, "kwargs") else holder)[key]
    return [(step.value, step.origin.route) for step in graph.earlier.get(path, [])] + [(holder, graph.origin(path).route)]


def test_every_step_from_default_to_command_line(write, monkeypatch):
    monkeypatch.setenv("LAYERS", "5")
    write("num_layers: 3\nd_ffn: 48\n", "model/base.yaml")
    write("preset: base\nnum_layers: 4\n", "model/top.yaml")
    text = "model:\n  preset: top\n  num_layers: ${LAYERS}\n  d_model: 64\ndata: {train_datasets: [python-docs]}\n"
    graph = groups.load(write(text), ["model.num_layers=6", "model.num_layers=7", "model.d_model=32"])
    layers = history(graph, "model", "config", "num_layers")
    assert layers == [(2, "default"), (3, "preset"), (4, "preset"), (5, "environment"), (6, "override"), (7, "override")]
    assert history(graph, "model", "config", "d_model") == [(512, "default"), (64, "file"), (32, "override")]
    assert history(graph, "model", "config", "d_ffn") == [(2048, "default"), (48, "preset")]
    assert history(graph, "model", "config", "head_dim") == [(128, "default")]
    places = [str(step.origin).rpartition("/")[2] for step in graph.earlier["model", "config", "num_layers"]]
    assert places == ["default", "base.yaml:1:13", "top.yaml:2:13", "run.yaml:3:15", "command line"]


def test_steps_reach_into_what_was_overridden_as_a_whole(write):
    write("positional_embedding: {type: rope, base: 5e5}\n", "model/turned.yaml")
    write("splits: [0.8, 0.1, 0.1]\ntrain_datasets: [{dataset_path: a.txt}]\n", "data.yaml")
    path = write("model: turned\ndata: {config_path: data.yaml, splits: [0.9, 0.1, 0.0]}\n")
    graph = groups.load(path, ["model.positional_embedding={type: rope, base: 7}", "data.train_datasets.0.dataset_path=b.txt"])
    assert history(graph, "data", "splits", 0) == [(0.97, "default"), (0.8, "include"), (0.9, "file")]
    assert history(graph, "model", "config", "positional_embedding", "base") == [(10000.0, "default"), (5e5, "preset"), (7.0, "override")]
    assert history(graph, "data", "train_datasets", 0, "dataset_path") == [("a.txt", "include"), ("b.txt", "override")]


def test_derived_values_name_the_keys_they_follow_from(write):
    path = write("trainer:\n  train_batch_size: 8\n  model_name: x\ndata: {train_datasets: [python-docs]}\n")
    graph = groups.load(path, ["model.precision=float32"])
    place = ("trainer_args", "gradient_accumulation_steps")
    assert (str(graph.origin(place)), graph.origin(place).route) == (f"{path}:2:21", "derived")
    assert graph.keys[place] == ("trainer.gradient_accumulation_steps", "trainer.train_batch_size", "trainer.micro_batch_size")
    assert [(step.value, step.origin.route) for step in graph.earlier[place]] == [
        ("trainer.gradient_accumulation_steps = None", "default"),
        ("trainer.train_batch_size = 8", "file"),
        ("trainer.micro_batch_size = 2", "default"),
    ]
    assert history(graph, "trainer_args", "output_dir")[-1] == ("output/x", "derived")
    assert history(graph, "trainer_args", "bf16") == [("model.precision = 'float32'", "override"), (False, "derived")]


def test_every_value_of_a_key_knows_the_key_and_every_leaf_its_origin(write):
    path = write("model: gpt2-small\ndata: pretrain_example\ntrainer: {do_eval: true}\n")
    graph = groups.load(path)
    assert graph.keys["trainer_args", "max_steps"] == ("operation.train_steps",)
    assert graph.keys["data", "seq_length"] == ("data.seq_length",)
    assert graph.keys["optimizer", "betas", 1] == ("optim.adam_beta2",)
    leaves = [place for place, value in walk(graph.root) if is_leaf(value)]
    assert len(leaves) > 70
    assert [place for place in leaves if graph.origin(place) is None] == []
    fixed = [place for place in leaves if place not in graph.keys]
    assert {graph.origin(place).route for place in fixed} == {"default"}
    assert len(fixed) < 12
