"""Options that a configuration declares: what may be declared, and what is understood on the command line."""

import pytest

from ironloom.config.projects.options import Declarations
from ironloom.config.projects.words import guess, take
from ironloom.errors import ConfigError, Origin

DECLARED = {
    "steps": {"names": ["--max-steps", "-m"], "type": "int", "help": "How long.", "default": 100},
    "rate": {"names": "--rate", "type": "float"},
    "where": {"names": "--where", "type": "path"},
    "kind": {"names": "--kind", "choices": ["a", "b"]},
    "sizes": {"names": "--sizes", "type": "int", "nargs": "+"},
    "pair": {"names": "--pair", "type": "int", "nargs": 2},
    "maybe": {"names": "--maybe", "nargs": "?", "const": "bare"},
    "deep": {"names": "--deep", "action": "store_true"},
    "shallow": {"names": "--shallow", "action": "store_false"},
    "tag": {"names": "--tag", "action": "append"},
    "loud": {"names": ["--loud", "-v"], "action": "count"},
    "exact": {"names": "--exact", "type": "bool"},
    "gone": None,
}


def declarations():
    return Declarations(lambda path: Origin("config.yaml", 7))


def options(declared=DECLARED):
    found = declarations()
    made = found.options(declared)
    assert found.problems == []
    return made


def given(*words):
    return take(words, options())[0]


def refused(*words, declared=DECLARED, own=()):
    with pytest.raises(ConfigError) as error:
        take(words, options(declared), own)
    return [str(problem) for problem in error.value.problems]


def test_values_have_the_declared_type():
    assert given("--max-steps", "10", "--rate", "1e-3", "--exact", "true") == {"max_steps": 10, "rate": 1e-3, "exact": True}
    assert given("-m", "10") == given("-m10") == given("--max-steps=10") == {"max_steps": 10}
    assert given("--where", "~/x")["where"].endswith("/x") and "~" not in given("--where", "~/x")["where"]


def test_what_is_not_given_is_not_there_so_that_the_templates_default_holds():
    assert given() == {}


def test_a_flag_has_three_states():
    assert given("--deep") == {"deep": True}
    assert given("--no-deep") == {"deep": False}
    assert "deep" not in given("--shallow")
    assert given("--shallow") == {"shallow": False}


def test_several_values():
    assert given("--sizes", "1", "2", "--tag", "x", "--tag", "y", "-v", "-v") == {"sizes": [1, 2], "tag": ["x", "y"], "loud": 2}
    assert given("--pair", "1", "2") == {"pair": [1, 2]}
    assert given("--maybe") == {"maybe": "bare"}
    assert given("--maybe", "x") == {"maybe": "x"}


def test_options_and_overrides_stand_in_any_order():
    words = ["a.b=1", "--sizes", "1", "2", "c.d=2", "--deep", "config.yaml", "--max-steps", "3"]
    assert take(words, options()) == ({"sizes": [1, 2], "deep": True, "max_steps": 3}, ["a.b=1", "c.d=2", "config.yaml"])


def test_one_value_may_look_like_anything():
    assert given("--kind=a", "--tag", "a.b=1", "--tag", "-x", "--rate", "-2.5") == {"kind": "a", "tag": ["a.b=1", "-x"], "rate": -2.5}


def test_a_wrong_option_is_named_with_the_nearest_one():
    assert refused("--max-stpes", "3") == ["command line: there is no option '--max-stpes' (did you mean '--max-steps'?)"]
    assert refused("--frsh", own=["--fresh"]) == ["command line: there is no option '--frsh' (did you mean '--fresh'?)"]
    assert "key=value" in refused("--zzz", declared=None)[0]
    assert len(refused("--rat", "1", "--max-stepz", "2")) == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--max-steps", "many"], "argument --max-steps/-m: expected a whole number, found 'many'"),
        (["--max-steps", "1.5"], "expected a whole number, found '1.5'"),
        (["--max-steps"], "expected one argument"),
        (["--exact", "yes"], "expected true or false, found 'yes'"),
        (["--kind", "c"], "invalid choice"),
        (["--pair", "1"], "expected 2 arguments"),
        (["--sizes"], "expected at least one argument"),
        (["--deep=yes"], "ignored explicit argument"),
    ],
)
def test_a_wrong_value_is_named(words, message):
    (problem,) = refused(*words)
    assert message in problem and problem.startswith("command line: ")


@pytest.mark.parametrize(
    ("entry", "message", "hint"),
    [
        ("--x", "expected a mapping with names", ""),
        ({"type": "int"}, "expected names", ""),
        ({"names": "x"}, "'x' is no name of an option", "--max-steps"),
        ({"names": "-x"}, "one of the names is a long one", ""),
        ({"names": "--help"}, "an option of every command", "another name"),
        ({"names": "--x", "typ": "int"}, "unknown key", "did you mean 'type'?"),
        ({"names": "--x", "type": "integer"}, "expected one of int, str", "did you mean 'int'?"),
        ({"names": "--x", "action": "store_treu"}, "expected one of store,", "did you mean 'store_true'?"),
        ({"names": "--x", "action": "store_true", "type": "bool"}, "takes no value", "leave it out"),
        ({"names": "--x", "choices": "ab"}, "expected a list of values", ""),
        ({"names": "--x", "choices": [1, 2]}, "expected values of the type str", "set type"),
        ({"names": "--x", "nargs": 0}, "expected ?, *, + or", ""),
        ({"names": "--x", "const": 1}, "nargs: '?' only", ""),
        ({"names": "--x", "required": "yes"}, "expected true or false", ""),
        ({"names": "--x", "dest": "a b"}, "expected a name for the value", ""),
        ({"names": "--max-steps"}, "the name of first too", "another name"),
    ],
)
def test_a_wrong_declaration_is_refused_with_its_place(entry, message, hint):
    found = declarations()
    found.options({"first": {"names": "--max-steps"}, "second": entry})
    (problem,) = found.problems
    assert message in problem.message and hint in problem.hint
    assert problem.path.startswith("dynamic_args.second") and problem.origin.line == 7


def test_help_shows_names_choices_and_defaults():
    shown = dict(option.help() for option in options())
    assert shown["--max-steps, -m INT"] == "How long. [default: 100]"
    assert "--deep, --no-deep" in shown
    assert "--kind [a|b]" in shown


def test_what_options_may_mean_before_they_are_known():
    assert guess(["--no-x"]) == {"no_x": True, "x": False}
    assert guess(["--max-steps", "3", "--deep", "--rate=1e-3", "-x", "--kind", "a"]) == {
        "max_steps": 3,
        "deep": True,
        "rate": 1e-3,
        "kind": "a",
    }
