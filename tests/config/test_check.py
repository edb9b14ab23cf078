"""Mistakes that are found without running or importing what a configuration names."""

import pathlib
import subprocess
import sys
import time

import pytest

from ironloom import config
from ironloom.config import static, tagged
from ironloom.config.graph import Graph, Node, Var
from ironloom.config.summary import summary

ROOT = pathlib.Path(__file__).parents[2]
QUICKSTART = ROOT / "examples" / "quickstart.yaml"


def found(target, *args, mode="call", **kwargs):
    problems = config.check(Graph({"main": Node(target, mode, args, kwargs)}))
    return [f"{problem.path}: {problem.message}" + (f" ({problem.hint})" if problem.hint else "") for problem in problems]


def test_arguments_that_fit_are_no_problem(toys):
    assert found("toys:plain", 1, c=3) == []
    assert found("toys:plain", a=1, c=3, d=5) == []
    assert found("toys:anything", 1, 2, 3, x=4) == []
    assert found("toys:Thing", 1, x=4) == []
    assert found("toys:positional", 1, b=2) == []
    assert found("toys:Record", 1, third=[3]) == []
    assert found("toys:Child", own=1, width=2) == []
    assert found("toys:Heir", 1) == []
    assert found("toys:Maker.make", 1) == []
    assert found("toys:cached", 1) == []
    assert found("toys:plain", mode="partial") == []
    assert found("toys:Base", width=1) == []
    assert found("toys:renamed", 1) == []


@pytest.mark.parametrize(
    ("target", "args", "kwargs", "expected"),
    [
        ("toys:plain", (), {"c": 1, "a": 1, "zeta": 1}, ["main.zeta: unknown key of toys:plain (known keys: a, b, c, d)"]),
        ("toys:plain", (1, 2, 3), {"c": 1}, ["main.2: toys:plain takes 2 positional arguments, found 3"]),
        ("toys:plain", (1,), {"c": 1, "a": 1}, ["main.a: toys:plain gets it by position too (give it once)"]),
        ("toys:plain", (1,), {}, ["main: toys:plain needs the argument 'c'"]),
        (
            "toys:positional",
            (),
            {"a": 1, "b": 2},
            ["main.a: unknown key of toys:positional (known keys: b)"],
        ),
        ("toys:Record", (), {"first": 1, "secnd": 2}, ["main.secnd: unknown key of toys:Record (did you mean 'second'?)"]),
        ("toys:Record", (1,), {"hidden": 2}, ["main.hidden: unknown key of toys:Record (known keys: first, second, third)"]),
        ("toys:Record", (), {}, ["main: toys:Record needs the argument 'first'"]),
        (
            "toys:Child",
            (1,),
            {"widht": 2},
            ["main.widht: unknown key of toys:Child (did you mean 'width'?)", "main: toys:Child needs the argument 'width'"],
        ),
        ("toys:Closed", (), {"depth": 2}, ["main: toys:Closed needs the argument 'own'"]),
        ("toys:Heir", (), {"width": 1, "deph": 2}, ["main.deph: unknown key of toys:Heir (did you mean 'depth'?)"]),
        ("toys:Maker.make", (), {"sise": 1, "size": 1}, ["main.sise: unknown key of toys:Maker.make (did you mean 'size'?)"]),
        ("toys:Maker", (1,), {}, ["main.0: toys:Maker takes 0 positional arguments, found 1"]),
        ("toyz:plain", (), {}, ["main: there is no module 'toyz' (target 'toyz:plain') (did you mean 'toys'?)"]),
        (
            "ironloom.trainr:Trainer",
            (),
            {},
            ["main: 'ironloom' has no module 'trainr' (target 'ironloom.trainr:Trainer') (did you mean 'trainer'?)"],
        ),
        (
            "ironloom.trainer:Trainr",
            (),
            {},
            ["main: 'ironloom.trainer' has no 'Trainr' (target 'ironloom.trainer:Trainr') (did you mean 'Trainer'?)"],
        ),
        ("plain", (), {}, ["main: a target has the form module:attribute, found 'plain'"]),
    ],
)
def test_arguments_that_do_not_fit(toys, target, args, kwargs, expected):
    assert found(target, *args, **kwargs) == expected


@pytest.mark.parametrize("target", ["toys:decorated", "math:sqrt", "toys:LOG", "numpy:array", "json:decoder.JSONDecoder"])
def test_what_the_source_does_not_tell_is_not_guessed(toys, target):
    assert static.signature(target) is None
    assert found(target, 1, 2, 3, unheard_of=4) == []


def test_names_that_come_with_a_star_are_followed(toys):
    assert found("toys:Base", wdth=1, width=1) == ["main.wdth: unknown key of toys:Base (did you mean 'width'?)"]
    assert found("toys:other", function=1) == []
    assert found("toys:othr") == ["main: 'toys' has no 'othr' (target 'toys:othr')"]


def test_a_required_argument_of_a_partial_may_come_later(toys):
    assert found("toys:plain", mode="partial", zeta=1) == ["main.zeta: unknown key of toys:plain (known keys: a, b, c, d)"]


def test_signatures_of_torch_are_read_without_importing_it():
    code = """
import sys
from ironloom.config.static import signature
adamw = signature("torch.optim:AdamW")
assert "weight_decay" in adamw.keyword and adamw.required == ("params",)
assert signature("torch.nn:Linear").required == ("in_features", "out_features")
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_settings_are_validated_with_their_places():
    text = (
        "args: &args !call:ironloom.settings:TrainingArguments\n"
        "  max_stps: 5\n"
        "  logging_steps: often\n"
        "  output_dir: !var {name: folder, default: runs}\n"
        "main: !call:builtins:dict {args: *args}\n"
        "shape: !call:ironloom.settings:ModelConfig {num_attention_groups: 3}\n"
    )
    assert [str(problem) for problem in config.check(tagged.load(text, "run.yaml"))] == [
        "run.yaml:2:13: args.max_stps: unknown key of ironloom.settings:TrainingArguments (did you mean 'max_steps'?)",
        "run.yaml:3:18: args.logging_steps: expected a whole number, found 'often'",
        "run.yaml:6:67: shape.num_attention_groups: 3 groups do not divide 8 heads (num_attention_heads must be a multiple of it)",
    ]


def test_targets_in_large_packages_take_no_time():
    code = """
import sys, time
from ironloom.config import static
for name in ("AutoModelForCausalLM", "AutoModelForCausalML", "GPT2LMHeadModel", "get_cosine_schedule_with_warmup"):
    static.signature("transformers:" + name)
assert time.process_time() < 5, time.process_time()
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_a_graph_without_main_says_so():
    (problem,) = config.check(Graph({"man": 1}))
    assert str(problem) == "main: there is no target 'main', the run (targets: man)"


def test_cycles_and_variables_with_a_default_do_not_disturb():
    items = [Var("x", 1)]
    items.append(items)
    assert config.check(Graph({"main": items})) == []


def test_every_example_is_without_mistakes():
    examples = sorted((ROOT / "examples").glob("*.yaml"))
    assert QUICKSTART in examples
    for example in examples:
        assert config.check(config.load(example)) == [], example


def test_every_target_of_the_groups_exists_and_takes_its_arguments():
    nodes = {value.target for _, value in config.graph.walk(config.load(QUICKSTART).root) if isinstance(value, Node)}
    assert len(nodes) == 9
    assert [target for target in nodes if static.signature(target) is None] == []


def test_a_check_never_imports_torch_and_answers_at_once():
    code = f"""
import sys
from ironloom import config
graph = config.load({str(QUICKSTART)!r}, ["optim.max_lr=1e-3"])
assert config.check(graph) == []
heavy = {{"torch", "numpy", "transformers", "datasets", "accelerate"}} & set(sys.modules)
assert not heavy, heavy
"""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    assert time.perf_counter() - start < 5


def test_the_summary_counts(tmp_path):
    line = summary(config.load(QUICKSTART, ["trainer.train_batch_size=32", "operation.train_steps=1200"]))
    assert line.endswith("8,192 tokens per step, 1,200 steps")
    import ironloom.models

    graph = config.load(QUICKSTART, ["trainer.vocab_padding_unit=1"])
    model = graph.root["model"].kwargs
    shape = config.build(model["config"])
    decoder = ironloom.models.build_decoder(shape, 4096, vocab_padding_unit=1)
    assert summary(graph).startswith(f"{sum(p.numel() for p in decoder.parameters()):,} parameters (vocabulary of 4,096)")


def test_the_summary_leaves_out_what_it_cannot_know(tmp_path):
    graph = config.load(QUICKSTART, ["model.vocab_name_or_path=someone/something"])
    assert summary(graph) == "2,048 tokens per step, 400 steps"
    assert summary(Graph({"main": 1})) == ""
    run = tagged.load("main: !call:ironloom.settings:TrainingArguments {max_steps: !var 'steps'}", "f")
    assert summary(run) == ""


@pytest.mark.parametrize(
    ("kind", "name", "size"),
    [
        ("gpt2", "gpt2", "50,257"),
        ("gpt2", "null", "50,257"),
        ("byte", "gpt2", "257"),
        ("bbpe", "gpt2", "50,257"),
        ("bbpe", "null", "4,096"),
    ],
)
def test_the_summary_knows_vocabularies_that_need_no_loading(kind, name, size):
    line = summary(config.load(QUICKSTART, [f"model.tokenizer_type={kind}", f"model.vocab_name_or_path={name}"]))
    assert f"(vocabulary of {size})" in line


def test_a_variable_without_a_value_is_a_problem():
    text = "main: !call:builtins:dict\n  a: !var steps\n  b: !calc 'rate * 2'\n  c: !var {name: x, default: 1}\n  d: !calc '1 +'\n"
    assert [str(problem).partition(" (")[0] for problem in config.check(tagged.load(text, "run.yaml"))] == [
        "run.yaml:2:6: main.a: variable 'steps' has no value",
        "run.yaml:3:6: main.b: variable 'rate' has no value",
        "run.yaml:5:6: main.d: '1 +' is not arithmetic: invalid syntax",
    ]


def test_the_default_of_a_variable_is_validated():
    text = "main: !call:ironloom.settings:TrainingArguments {max_steps: !var {name: steps, default: many}}\n"
    (problem,) = config.check(tagged.load(text, "f"))
    assert problem.path == "main.max_steps" and "expected a whole number" in problem.message


def test_builtins_and_python_files_are_looked_up(tmp_path):
    assert found("builtins:lenn") == ["main: there is no builtin 'lenn' (target 'builtins:lenn') (did you mean 'len'?)"]
    assert found("builtins:len", [1]) == []
    file = tmp_path / "my code.py"
    assert "there is no file" in found(f"{file}:make")[0]
    static.modules.find_file.cache_clear()
    file.write_text("from dataclasses import dataclass\n@dataclass\nclass Thing:\n    size: int\nraise SystemError\n")
    assert found(f"{file}:Thing", sise=1, size=2) == [f"main.sise: unknown key of {file}:Thing (did you mean 'size'?)"]
    assert found(f"{file}:Thng")[0].endswith("(did you mean 'Thing'?)")
