"""Data in a file of its own: its keys, what they mean for the other groups, and older forms."""

import json

import pytest

from ironloom import config
from ironloom.config import groups, tagged
from ironloom.errors import ConfigError
from ironloom.settings.base import field_names
from ironloom.settings.data import DataFile, DatasetEntry


def problems(path, overrides=()):
    with pytest.raises(ConfigError) as caught:
        groups.load(path, overrides)
    return [str(problem) for problem in caught.value.problems]


def data(path, overrides=()):
    return groups.load(path, overrides).root["data"].kwargs


@pytest.fixture
def with_file(write):
    """Write a data file and a configuration that names it; returns the paths of both."""

    def with_file(text, rest=""):
        return write(text, "data.yaml"), write(f"data: {{config_path: data.yaml}}\n{rest}")

    return with_file


def test_a_file_stands_below_the_group_and_the_command_line(with_file):
    file, path = with_file("train_datasets: [a.txt]\nsplits: [1.0, 0.0, 0.0]\nvocab_size: 300\n")
    graph = groups.load(path, ["data.train_datasets=[b.txt]"])
    assert graph.root["data"].kwargs["train_datasets"] == ["b.txt"]
    assert graph.root["data"].kwargs["splits"] == [1.0, 0.0, 0.0]
    assert (str(graph.origin(("data", "splits", 0))), graph.origin(("data", "splits", 0)).route) == (f"{file}:2:10", "include")


def test_every_place_of_a_file(write, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write("train_datasets: [beside]\n", "p/runs/beside.yaml")
    write("train_datasets: [project]\n", "p/configs/data/mine.yaml")
    write("train_datasets: [current]\n", "here/mine.yml")
    path = write("data: {}\n", "p/runs/run.yaml")
    for name, expected in [
        ("beside.yaml", "beside"),
        ("configs/data/mine.yaml", "project"),
        ("here/mine", "current"),
        (f"{tmp_path}/here/mine.yml", "current"),
        ("configs/data/pretrain_example.yaml", "Skylion007/openwebtext"),
    ]:
        (entry,) = data(path, [f"data.config_path={name}", "model.max_seq_len=1024"])["train_datasets"]
        assert expected == (entry if isinstance(entry, str) else entry["dataset_path"])
    (problem,) = problems(path, ["data.config_path=here/mime.yml"])
    assert problem.startswith("command line: data.config_path: there is no file 'here/mime.yml' in ")
    assert problem.endswith("(did you mean 'here/mine.yml'?)")


def test_the_command_line_chooses_the_file(with_file, write):
    _, path = with_file("train_datasets: [a.txt]\n")
    write("train_datasets: [b.txt]\n", "other.yaml")
    assert data(path, ["data.config_path=other.yaml"])["train_datasets"] == ["b.txt"]
    (problem,) = problems(path, ["data.config_path=null"])
    assert "nothing to train on" in problem


def test_a_preset_of_data_may_have_the_same_keys(write):
    write("train_datasets: [a.txt]\nseq_length: 64\n", "data/mine.yaml")
    assert data(write("data: {preset: mine, splits: [1.0, 0.0, 0.0]}\n"))["seq_length"] == 64


def test_overrides_reach_into_the_datasets_of_a_file(with_file):
    _, path = with_file("train_datasets:\n  - dataset_path: a.txt\n")
    overrides = ["data.train_datasets.0.dataset_path=b.txt", "+data.train_datasets.1=c.txt", "data.train_datasets.0.max_samples=5"]
    assert data(path, overrides)["train_datasets"] == [{"dataset_path": "b.txt", "max_samples": 5}, "c.txt"]
    assert "+data.train_datasets.1=... adds to it" in problems(path, ["data.train_datasets.1=c.txt"])[0]


# Every key: a value that is not its default, and whether it works.
WORKS = {
    "datasets": ["b.txt"],
    "seq_length": 64,
    "max_seq_len": 64,
    "tokenizer_type": "byte",
    "vocab_name_or_path": "folder",
    "preprocessed_dir": "cache",
    "num_workers": 8,
    "special_tokens_config_path": "special.json",
}
REFUSED = {"cache_dir": "downloads", "preprocessing": {"lower": True}}
ENTRY_WORKS = {"split": "test", "subset": "main", "text_column": "body", "max_samples": 5, "dataset_path": "b.txt", "source": "b.txt"}
ENTRY_REFUSED = {"output_path": "o"}


ENTRY_CONVERSATIONS = {"messages_column": "m", "chat_template": "plain"}
ENTRY_PREFERENCES = {"chosen_column": "c", "rejected_column": "r"}


def test_these_lists_cover_every_key():
    assert {*WORKS, *REFUSED} == set(field_names(DataFile))
    assert {
        *ENTRY_WORKS,
        *ENTRY_REFUSED,
        *ENTRY_CONVERSATIONS,
        *ENTRY_PREFERENCES,
        "name",
        "ratio",
        "task_type",
    } == set(field_names(DatasetEntry))


@pytest.mark.parametrize("key", WORKS)
def test_every_working_key_of_a_file_changes_the_graph(with_file, key):
    lists = {} if key == "datasets" else {"train_datasets": ["a.txt"]}
    _, path = with_file("train_datasets: [a.txt]\n")
    before = tagged.dump(groups.load(path))
    _, path = with_file(json.dumps({**lists, key: WORKS[key]}))
    assert tagged.dump(groups.load(path)) != before


@pytest.mark.parametrize("key", REFUSED)
def test_every_other_key_of_a_file_is_refused_by_name(with_file, key):
    file, path = with_file(f"train_datasets: [a.txt]\n{key}: {json.dumps(REFUSED[key])}\n")
    (problem,) = problems(path)
    assert problem.startswith(f"{file}:2:{len(key) + 3}: data.{key}: ")
    assert "not available yet" in problem


@pytest.mark.parametrize("key", ENTRY_WORKS)
def test_every_working_key_of_an_entry_reaches_the_reading(key):
    from ironloom.data.entries import Corpus

    entry = {key: ENTRY_WORKS[key]}
    base = {} if key in ("source", "dataset_path") else {"dataset_path": "a.txt"}
    assert Corpus.of([{**base, **entry}]).sources != Corpus.of([{"dataset_path": "a.txt"}]).sources


@pytest.mark.parametrize("key", ENTRY_REFUSED)
def test_every_other_key_of_an_entry_is_refused_by_name(with_file, key):
    _, path = with_file(f"train_datasets: [{{dataset_path: a.txt, {key}: {ENTRY_REFUSED[key]}}}]\n")
    (problem,) = problems(path)
    assert f"data.train_datasets.0.{key}: " in problem
    assert "not available yet" in problem


@pytest.mark.parametrize("key", ENTRY_CONVERSATIONS)
def test_every_key_of_conversations_belongs_to_their_task(with_file, key):
    entry = f"train_datasets: [{{dataset_path: a.jsonl, {key}: {ENTRY_CONVERSATIONS[key]}}}]\n"
    _, path = with_file(entry)
    (problem,) = problems(path)
    assert f"data.train_datasets.0.{key}: has no effect on pretrain" in problem
    _, path = with_file(f"task_type: sft\n{entry}")
    config.load(path)
    _, path = with_file("task_type: sft\ntrain_datasets: [{dataset_path: a.jsonl, text_column: body}]\n")
    (problem,) = problems(path)
    assert "data.train_datasets.0.text_column: has no effect on sft" in problem


@pytest.mark.parametrize("task", ["pretrain", "sft", "dpo"])
def test_a_ratio_is_one_of_training_data(with_file, task):
    pair = "[{dataset_path: a.jsonl, ratio: 0.5}, b.jsonl]"
    _, path = with_file(f"task_type: {task}\ntrain_datasets: {pair}\n")
    assert config.check(config.load(path)) == []
    for key in ("eval_datasets", "test_datasets"):
        file, path = with_file(f"task_type: {task}\ntrain_datasets: [a.jsonl]\n{key}: {pair}\n")
        (problem,) = problems(path)
        assert problem == f"{file}:3:48: data.{key}.0.ratio: has no effect: each set is evaluated by itself (leave the key out)"
    _, path = with_file(f"task_type: {task}\ntrain_datasets: [{{dataset_path: a.jsonl, ratio: 0.5}}, a.txt]\n")
    (problem,) = problems(path)
    assert "data.train_datasets.1: is called 'a' like entry 0" in problem
    for wrong in ("0", "-1", ".inf", "many"):
        _, path = with_file(f"task_type: {task}\ntrain_datasets: [{{dataset_path: a.jsonl, ratio: {wrong}}}]\n")
        (problem,) = problems(path)
        assert "data.train_datasets.0.ratio: expected" in problem


@pytest.mark.parametrize("key", ENTRY_PREFERENCES)
def test_every_key_of_preferences_belongs_to_their_task(with_file, key):
    entry = f"train_datasets: [{{dataset_path: a.jsonl, {key}: {ENTRY_PREFERENCES[key]}}}]\n"
    for task in ("pretrain", "sft"):
        _, path = with_file(f"task_type: {task}\n{entry}")
        (problem,) = problems(path)
        assert f"data.train_datasets.0.{key}: has no effect on {task}" in problem
    _, path = with_file(f"task_type: dpo\n{entry}")
    assert config.load(path).root["data"].kwargs["train_datasets"][0][key] == ENTRY_PREFERENCES[key]


def test_the_name_of_an_entry_is_in_what_goes_wrong_with_it(tmp_path):
    from ironloom.data.entries import Corpus
    from ironloom.errors import DataError

    with pytest.raises(DataError, match=r"^stories: .*no such file"):
        list(Corpus.of([{"name": "stories", "dataset_path": str(tmp_path / "a.txt")}]).texts())


def test_keys_of_a_file_do_not_stand_in_the_group(write):
    path = write("data: {train_datasets: [a.txt], seq_length: 64}\n")
    assert problems(path) == [
        f"{path}:1:33: data.seq_length: seq_length belongs to the file of data.config_path (write it in the file of data.config_path)"
    ]


def test_a_misspelt_key_of_a_file(with_file):
    file, path = with_file("train_datasets: [a.txt]\nseq_lenght: 64\nsplit: [1, 0, 0]\n")
    found = problems(path)
    assert found[0] == f"{file}:2:1: data.seq_lenght: unknown key (did you mean 'seq_length'?)"
    assert found[1].startswith(f"{file}:3:1: data.split: ")


def test_samples_longer_than_the_model_takes(with_file):
    file, path = with_file("train_datasets: [a.txt]\nseq_length: 1024\n")
    assert problems(path) == [
        f"{file}:2:13: data.seq_length: samples of 1024 tokens are longer than model.max_seq_len 512 "
        "(raise model.max_seq_len or lower seq_length)"
    ]
    assert data(path, ["model.max_seq_len=2048"])["seq_length"] == 1024


def test_a_tokenizer_is_said_in_one_place(with_file):
    file, path = with_file("train_datasets: [a.txt]\ntokenizer_type: bbpe\nvocab_name_or_path: folder\n")
    graph = groups.load(path)
    assert graph.root["model"].kwargs["config"].kwargs["vocab_name_or_path"] == "folder"
    assert graph.origin(("data", "tokenizer_type")).line == 2
    (problem,) = problems(path, ["model.vocab_name_or_path=other"])
    assert f"'other' is not the tokenizer of the data, 'folder' ({file}:3:21)" in problem
    _, path = with_file("train_datasets: [a.txt]\ntokenizer_type: bbpe\nvocab_name_or_path: gpt2\n", "model: gpt2-small\n")
    assert data(path)["tokenizer_type"] == "gpt2"  # two names of loading gpt2


def test_two_names_of_one_key(with_file):
    file, path = with_file("datasets: [a]\ntrain_datasets: [b]\nmax_seq_len: 4\nseq_length: 5\n")
    assert problems(path) == [
        f"{file}:1:1: data.datasets: is train_datasets under another name, which is given too (keep one of them)",
        f"{file}:3:1: data.max_seq_len: is seq_length under another name, which is given too (keep one of them)",
    ]


def test_older_forms_are_explained(with_file):
    file, path = with_file("train:\n  - openwebtext: [column: text, ratio: 1.0]\n  - c4: [ratio: 0.5]\ntrain_datasets: [a]\n")
    assert problems(path) == [
        f"{file}:1:1: data.train: is the older form of a list of datasets (write train_datasets: "
        "[{dataset_path: openwebtext, text_column: text, ratio: 1.0}, {dataset_path: c4, ratio: 0.5}])"
    ]
    file, path = with_file("train_datasets:\n  - openwebtext:\n      - column: text\n      - max_samples: 5\n")
    assert problems(path) == [
        f"{file}:2:5: data.train_datasets.0: is the older form of a dataset "
        "(write {dataset_path: openwebtext, text_column: text, max_samples: 5})"
    ]


# The specification's complete example.


def test_the_complete_example(tmp_path, monkeypatch):
    import pathlib

    path = pathlib.Path(__file__).parent / "example.yaml"
    assert problems(path) == [
        f"{path}:3:21: trainer.train_batch_size: 480 is not micro_batch_size 4 x gradient_accumulation_steps 60 x data-parallel size 1 "
        "= 240 (the three agree at data-parallel size 2; leave out gradient_accumulation_steps to derive it)"
    ]
    alone = groups.load(path, ["trainer.gradient_accumulation_steps=null"])
    assert alone.root["trainer_args"].kwargs["gradient_accumulation_steps"] == 120
    monkeypatch.setenv("WORLD_SIZE", "2")
    graph = groups.load(path)
    assert config.check(graph) == []
    assert graph.root["trainer_args"].kwargs["gradient_accumulation_steps"] == 60
    assert [entry["dataset_path"] for entry in graph.root["data"].kwargs["train_datasets"]] == ["Skylion007/openwebtext"]


def test_mistakes_in_the_group_and_in_its_entries_are_reported_together(write):
    path = write(
        "data:\n  train_datasets:\n    - {dataset_pth: a}\n    - {source: b, splitt: x}\n"
        "  splits: [1]\n  vocab_sise: 5\n  eval_datasets: 5\n"
    )
    assert [problem.partition(": data.")[2].partition(": ")[0] for problem in problems(path)] == [
        "train_datasets.0.dataset_pth",
        "train_datasets.1.splitt",
        "vocab_sise",
        "eval_datasets",
    ]
