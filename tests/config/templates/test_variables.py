"""What ``!var`` and ``!calc`` stand for, who wins, and where a value came from."""

import pytest

from ironloom import config
from ironloom.config import calculate, tagged
from ironloom.config.graph import Calc, Var
from ironloom.errors import ConfigError

ARGS = "trainer_args: &args !call:ironloom.settings:TrainingArguments\n"


def test_set_variables_reach_the_graph(folder, shown):
    graph = folder.load("-- set base_lr = 1e-3\n-- set sizes = [1, (2, 3)]\nmain: {lr: !var base_lr, sizes: !var 'sizes'}\n")
    assert graph.root["main"] == {"lr": 0.001, "sizes": [1, [2, 3]]}
    assert shown(graph.origins["main", "lr"]) == "main.yaml:1"
    assert [(step.value, shown(step.origin)) for step in graph.earlier["main", "lr"]] == [("!var base_lr", "main.yaml:3:12")]
    assert shown(graph.variables["base_lr"]) == "main.yaml:1"


def test_the_branch_that_ran_has_set_it(folder, shown):
    text = "-- set env = 'b'\n-- if env == 'a'\n-- set n = 1\n-- else\n-- set n = 2\n-- endif\nmain: !var n\n"
    graph = folder.load(text)
    assert graph.root["main"] == 2
    assert shown(graph.origins["main",]) == "main.yaml:5"


def test_variables_of_bases_and_included_documents_count_and_those_in_blocks_do_not(folder, shown):
    folder.write("-- set of_base = 1\nmain:\n-- block b\n-- endblock\n", "base.yaml")
    text = "-- extends 'base.yaml'\n-- set of_main = 2\n[b]\n-- include 'doc'\n-- set of_block = 4\n  d: !var of_block\n"
    text += "#--- doc ---\n-- set of_doc = 3\n  a: !var of_base\n  b: !var of_main\n  c: !var of_doc\n"
    graph = folder.load(text)
    assert {key: value for key, value in graph.root["main"].items() if key != "d"} == {"a": 1, "b": 2, "c": 3}
    assert [shown(problem) for problem in config.check(graph)] == [
        "main.yaml:6:6: main.d: variable 'of_block' has no value (did you mean 'of_doc'?)"
    ]


def test_the_trainers_arguments_count_where_they_are_set(folder):
    graph = folder.load(f"{ARGS}  max_steps: 10\nmain: {{args: *args, steps: !var max_steps, warm: !calc 'max_steps // 4'}}\n")
    assert (graph.root["main"]["steps"], graph.root["main"]["warm"]) == (10, 2)


def test_a_default_of_the_trainers_arguments_does_not_count(folder, shown):
    graph = folder.load(f"{ARGS}  output_dir: x\nmain: {{args: *args, steps: !var max_steps}}\n")
    assert [shown(problem) for problem in config.check(graph)] == [
        "main.yaml:3:28: main.steps: variable 'max_steps' has no value (write -- set max_steps = ..., or give 'max_steps' in trainer_args)"
    ]


def test_arguments_that_follow_from_each_other(folder, shown):
    text = f"-- set rate = 0.5\n{ARGS}"
    text += "  max_steps: 10\n  warmup_steps: !calc 'int(max_steps * rate)'\n  eval_steps: !var warmup_steps\nmain: !var eval_steps\n"
    graph = folder.load(text)
    assert graph.root["main"] == 5
    assert graph.root["trainer_args"].kwargs["eval_steps"] == 5
    assert graph.origins["trainer_args", "warmup_steps"].route == "derived"


def test_arguments_that_need_themselves_have_no_value(folder):
    graph = folder.load(f"{ARGS}  max_steps: !var eval_steps\n  eval_steps: !calc 'max_steps + 1'\nmain: *args\n")
    assert [problem.message for problem in config.check(graph)] == [
        "variable 'eval_steps' has no value",
        "variable 'max_steps' has no value",
    ]


@pytest.mark.parametrize("text", ["max_steps=7", "trainer_args.max_steps=7", "main.args.max_steps=7"])
def test_an_override_wins_over_what_is_set(folder, text):
    template = f"-- set max_steps = 5\n{ARGS}  max_steps: !var max_steps\n"
    template += "main: {args: *args, steps: !var max_steps, more: !calc 'max_steps + 1'}\n"
    graph = folder.load(template, overrides=[text])
    assert (graph.root["trainer_args"].kwargs["max_steps"], graph.root["main"]["steps"], graph.root["main"]["more"]) == (7, 7, 8)
    assert str(graph.origins["main", "steps"]) == "command line"


def test_an_override_of_a_variable_reaches_jinja_too(folder):
    template = "-- set n = 5\n-- if n > 6\nmain: big {{ n }} {{ n + 1 }}\n-- else\nmain: small\n-- endif\n"
    assert folder.load(template).root["main"] == "small"
    assert folder.load(template, overrides=["n=7"]).root["main"] == "big 7 8"
    assert folder.load("main: {{ n | default(1) }}\n", overrides=["n=[1, null]"]).root["main"] == [1, "None"]


def test_arguments_are_variables(folder):
    text = "main: [{{ steps | default(3) }}, !var {name: steps, default: 4}]\n"
    assert folder.load(text).root["main"][0] == 3
    assert folder.load(text, arguments={"steps": 9}).root["main"] == [9, 9]
    assert str(folder.load(text, arguments={"steps": 9}).origins["main", 1]) == "command line"


def test_overrides_that_lead_nowhere(folder, shown):
    with pytest.raises(ConfigError) as caught:
        folder.load("-- set steps = 1\nmain: {a: !var rate}\nb: {{ steps }}\n", overrides=["stps=1", "rat=2", "mian.a=3", "x", "b=5"])
    assert [str(problem) for problem in caught.value.problems] == [
        "command line: stps: no such target or variable in the configuration (did you mean 'steps'?)",
        "command line: rat: no such target or variable in the configuration (did you mean 'rate'?)",
        "command line: expected key=value, found 'x'",
        "command line: mian.a: no such target in the configuration (did you mean 'main'?)",
    ]


def test_what_is_not_known_stays(folder):
    main = folder.load("main: [!var {name: a, default: [!var b]}, !calc 'c + 1']\n-- set b = 2\n").root["main"]
    assert isinstance(main[0], Var) and main[0].default == [2]
    assert isinstance(main[1], Calc)
    text = tagged.dump(folder.load("main: [!var {name: a, default: 1}, !calc 'c + 1']\n"))
    assert config.build(tagged.load(text, "f"), variables={"c": 2}) == [1, 3]


def test_each_unknown_name_is_one_problem(folder, shown):
    graph = folder.load("-- set steps = 1\nmain: [!var stps, !calc 'steps * rat + rtio', !var {name: d, default: 1}]\n")
    assert [problem.message for problem in config.check(graph)] == [
        "variable 'stps' has no value",
        "variable 'rat' has no value",
        "variable 'rtio' has no value",
    ]
    assert config.check(graph)[0].hint == "did you mean 'steps'?"


def test_calculations_that_cannot_be_made_are_reported_with_the_rest(folder, shown):
    graph = folder.load(
        "-- set t = 'x'\nmain: [!calc '9**9**9', !calc 't + 1', !calc '1 +', !calc '().__class__', !calc '1 / 0', !var q]\n"
    )
    assert [problem.path for problem in config.check(graph)] == [f"main.{index}" for index in range(6)]


def test_what_is_shared_stays_shared(folder):
    root = folder.load("-- set v = 1\na: &a !call:dict {x: !var v, y: &y [!var v]}\nmain: [*a, *a, *y]\n").root
    assert root["main"][0] is root["main"][1] is root["a"]
    assert root["main"][2] is root["a"].kwargs["y"] == [1] or root["main"][2] == [1]
    assert root["main"][2] is root["a"].kwargs["y"]


def test_a_variable_can_stand_for_a_node(folder):
    graph = folder.load(f"{ARGS}  output_dir: !call:str [x]\nmain: {{a: *args, b: !var output_dir}}\n")
    assert graph.root["main"]["b"] is graph.root["trainer_args"].kwargs["output_dir"]


def test_values_from_the_environment_say_so(folder, monkeypatch):
    monkeypatch.setenv("BATCH_SIZE", "32")
    graph = folder.load("-- set n = int(os.environ.get('BATCH_SIZE', '16'))\nmain: !var n\n")
    assert graph.root["main"] == 32
    assert graph.origins["main",].route == "environment"


# The arithmetic


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("int(max_steps * 0.1)", 10),
        ("1 + 2 * 3 - 4 / 2", 5.0),
        ("7 // 2 + 7 % 4 + 2 ** 3", 14),
        ("-max_steps + +1", -99),
        ("round(2.5) + round(2.567, 2)", 4.57),
        ("min(3, 1) + max(1, 2, 3) + abs(-4)", 8),
        ("len('abc') + len([1, 2])", 5),
        ("sqrt(16) + ceil(1.2) + floor(1.8)", 7.0),
        ("float('1e-3')", 0.001),
        ("1 if max_steps > 10 else 2", 1),
        ("1 < 2 <= 2 != 3", True),
        ("not (1 == 2) and (0 or 5)", 5),
        ("False or None", None),
        (" 1 ", 1),
    ],
)
def test_arithmetic(expression, value):
    found = calculate.calculate(expression, {"max_steps": 100}.__getitem__)
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    "expression",
    [
        "9**9**9",
        "2**-10**9 ** 9",
        "10**400 * 10**4000",
        "'a' * 10**9",
        "[0] * 10**9",
        "'%0999999999d' % 1",
        "().__class__",
        "x.real",
        "open('f')",
        "__import__('os')",
        "len.__call__('a')",
        "(lambda: 1)()",
        "[i for i in range(3)]",
        "{1: 2}",
        "f'{1}'",
        "max(*[1])",
        "round(number=1)",
        "int('1', base=2)",
        "1 if",
        "",
        "a := 1",
        "1; 2",
        "1 << 100000000",
        "(" * 500 + ")" * 500,
        "-" * 5000 + "1",
        "int('x')",
        "1 / 0",
        "1 + 'x'",
        "0.0 ** -1",
        "sqrt(-1)",
        "b'x'",
        "1j",
        "...",
    ],
)
def test_what_is_no_arithmetic_is_refused_at_once(expression):
    with pytest.raises(ValueError):
        calculate.calculate(expression, {"x": 1}.__getitem__)


def test_names_are_those_of_variables():
    assert calculate.names("int(a * b) if c else a + min(d, 1)") == ["a", "b", "c", "d"]
