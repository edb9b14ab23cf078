"""References to environment variables: what they become, what is missing, and that no secret is written."""

import pytest

from ironloom import config
from ironloom.config import groups, tagged
from ironloom.config.secrets import is_secret, substitute
from ironloom.errors import ConfigError

DATA = "data: {train_datasets: [python-docs]}\n"


def problems(path, overrides=()):
    with pytest.raises(ConfigError) as caught:
        groups.load(path, overrides)
    return [str(problem) for problem in caught.value.problems]


def arguments(path, overrides=()):
    return groups.load(path, overrides).root["trainer_args"].kwargs


def test_a_reference_is_what_its_text_is_without_quotes(write, monkeypatch):
    monkeypatch.setenv("MICRO", "8")
    monkeypatch.setenv("RATE", "1e-3")
    monkeypatch.setenv("EVAL", "true")
    monkeypatch.setenv("RUN", "7")
    path = write(
        DATA
        + "trainer:\n  micro_batch_size: ${MICRO}\n  do_eval: ${EVAL}\n  model_path: 'a/${RUN}'\n  model_name: '${RUN}'\n"
        "  exit: null\n  log_interval: ${STEPS:5}\noptim:\n  max_lr: ${RATE}\n".replace("  exit: null\n", "")
    )
    graph = groups.load(path)
    args = graph.root["trainer_args"].kwargs
    assert (args["per_device_train_batch_size"], args["eval_strategy"], args["output_dir"], args["logging_steps"]) == (8, "steps", "a/7", 5)
    assert graph.root["optimizer"].kwargs["lr"] == 0.001
    origin = graph.origin(("trainer_args", "per_device_train_batch_size"))
    assert (str(origin), origin.route) == (f"{path}:3:21", "environment")


@pytest.mark.parametrize(
    ("text", "expected"),
    [("${A}${B:x}", "1x"), ("$${A}", "${A}"), ("${B:}", ""), ("${B:a:b}", "a:b"), ("$A", "$A"), ("{${A}}", "{1}"), ("$$A", "$$A")],
)
def test_texts(text, expected):
    assert substitute(text, {"A": "1"}) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("${NOT_THERE}", "the environment variable 'NOT_THERE' is not set (set it, or give a default: ${NOT_THERE:default})"),
        ("${IRONLOM_TEST}", "the environment variable 'IRONLOM_TEST' is not set (did you mean 'IRONLOOM_TEST'?)"),
        ("${A:-5}", "'${A:-5}' is how a shell spells a default (write ${A:5})"),
        ("${}", "'${}' is no reference to a variable"),
        ("${A B}", "is no reference"),
        ("${A", "the reference '${A' has no end"),
    ],
)
def test_mistakes_name_the_variable_and_the_place(write, monkeypatch, text, expected):
    monkeypatch.setenv("IRONLOOM_TEST", "1")
    path = write(DATA + f"trainer:\n  log_interval: '{text}'\n")
    (problem,) = problems(path)
    assert problem.startswith(f"{path}:3:17: trainer.log_interval: ")
    assert expected in problem


def test_two_missing_variables_are_two_problems(write):
    assert len(problems(write(DATA + "trainer: {model_name: '${NOT_A}${NOT_B}'}\n"))) == 2


def test_a_bare_reference_in_braces_is_explained(write):
    (problem,) = problems(write(DATA + "trainer: {log_interval: ${X}}\n"))
    assert "not bare inside {...} or [...]" in problem


def test_references_in_presets_overrides_lists_and_names(write, monkeypatch):
    monkeypatch.setenv("WIDTH", "64")
    monkeypatch.setenv("CORPUS", "python-stdlib")
    write("d_model: ${WIDTH}\n", "model/wide.yaml")
    graph = groups.load(write("model: ${SHAPE:wide}\ndata:\n  train_datasets:\n    - ${CORPUS}\n"), ["model.d_ffn=${WIDTH}"])
    shape = graph.root["model"].kwargs["config"].kwargs
    assert (shape["d_model"], shape["d_ffn"]) == (64, 64)
    assert graph.root["data"].kwargs["train_datasets"] == ["python-stdlib"]
    assert graph.origin(("model", "config", "d_model")).route == "environment"


def test_an_explicit_tag_types_a_quoted_reference(write):
    assert arguments(write(DATA + "trainer: {log_interval: !!int '${STEPS:7}'}\n"))["logging_steps"] == 7
    (problem,) = problems(write(DATA + "trainer: {log_interval: !!int '${STEPS:x}'}\n"))
    assert "what '${STEPS:x}' stands for is not of type int" in problem


# Secrets.


@pytest.mark.parametrize("name", ["HF_TOKEN", "API_KEY", "apikey", "PGPASSWORD", "AWS_SECRET_ACCESS_KEY", "My.Credentials", "SECRET"])
def test_secret_names(name):
    assert is_secret(name)


@pytest.mark.parametrize("name", ["HOME", "TOKENIZERS_PARALLELISM", "TOKENIZER", "MONKEY", "KEYBOARD", "MAX_TOKENS", "WORLD_SIZE"])
def test_names_that_are_not(name):
    assert not is_secret(name)


SECRET = """\
model:
  tokenizer_type: bbpe
  vocab_name_or_path: https://${HUB_TOKEN}@hub
data: {train_datasets: ['${HUB_TOKEN}', 'a${HUB_TOKEN}']}
"""


def test_a_secret_is_not_written_and_is_there_when_it_is_built(write, monkeypatch):
    monkeypatch.setenv("HUB_TOKEN", "hunter2")
    graph = groups.load(write(SECRET), ["data.eval_datasets=['${HUB_TOKEN}']"])
    assert config.check(graph) == []
    text = tagged.dump(graph)
    assert "hunter2" not in text
    assert text.count("${HUB_TOKEN}") == 5
    again = config.load(write(text, "out/run.yaml"))
    assert tagged.dump(again) == text
    for made in (graph, again):
        assert config.build(made.root["model"].kwargs["config"]).vocab_name_or_path == "https://hunter2@hub"
        assert config.build(made.root["data"].kwargs["train_datasets"]) == ["hunter2", "ahunter2"]
    monkeypatch.delenv("HUB_TOKEN")
    with pytest.raises(ConfigError, match="'HUB_TOKEN' is not set"):
        config.build(again.root["model"].kwargs["config"])


def test_a_typed_secret_stays_typed(write, monkeypatch):
    monkeypatch.setenv("HUB_TOKEN", "123")
    path = write(DATA + "model:\n  tokenizer_type: bbpe\n  vocab_name_or_path: '${HUB_TOKEN}'\n")
    node = groups.load(path).root["model"].kwargs["config"]
    assert config.build(node).vocab_name_or_path == "123"


def test_an_overridden_secret_shows_nowhere(write, monkeypatch):
    monkeypatch.setenv("HUB_TOKEN", "hunter2")
    graph = groups.load(write(SECRET), ["model.vocab_name_or_path=gpt2", "data.train_datasets=[a]"])
    assert "hunter2" not in repr(graph.earlier)
    assert "${HUB_TOKEN}" in repr(graph.earlier)


@pytest.mark.parametrize("key", ["trainer.log_interval", "optim.optimizer", "data.splits", "model.num_layers", "data.train_datasets"])
def test_no_message_shows_a_secret(write, monkeypatch, key):
    monkeypatch.setenv("HUB_TOKEN", "hunter2" * 15)
    for value in ("'${HUB_TOKEN}'", "['x', {'y': '${HUB_TOKEN}'}]", "[5, '${HUB_TOKEN}']"):
        text = "\n".join(problems(write(DATA), [f"{key}={value}"]))
        assert text
        assert "hunter" not in text


def test_a_secret_cannot_name_what_everybody_sees(write, monkeypatch):
    monkeypatch.setenv("RUN_KEY", "hunter2")
    path = write(DATA + "trainer:\n  model_path: runs/${RUN_KEY}\n")
    assert problems(path)[0].startswith(f"{path}:3:15: trainer.model_path: a secret would become part of what is shown and written")
    monkeypatch.delenv("RUN_KEY")
    assert arguments(write(DATA + "trainer:\n  model_path: runs/${RUN_KEY:x}\n"))["output_dir"] == "runs/x"  # a default is no secret
