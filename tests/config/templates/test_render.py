"""Rendering: inheritance, where every line came from, what fails and where, and what templates cannot do."""

import datetime
import os
import pathlib
import platform

import pytest

from ironloom.errors import ConfigError


def places(rendered, shown):
    """Text and template line of every line that is not blank."""
    lines = rendered.text.split("\n")
    assert len(lines) == len(rendered.origins)
    return [(line, shown(origin), origin.route) for line, origin in zip(lines, rendered.origins, strict=True) if line.strip()]


BASE = """\
## the base
args: !call:dict
-- block args
    a: 1
    b: 2
-- endblock args

-- block extra
x: 1
-- endblock extra
main: 1
"""


def test_every_line_knows_the_template_line_that_wrote_it(folder, shown):
    folder.write(BASE, "base.yaml")
    folder.write("y: 3\n-- for i in range(2)\n'{{ i }}': {{ i }}\n-- endfor\n", "part.yaml")
    text = """\
    -- extends 'base.yaml'
    -- block args
        == super()
        b: {{ 1 + 1 }}  ## two
    -- endblock

    -- block extra
    -- include 'part.yaml'
    -- include 'inline-part'
    -- endblock
    #---- inline-part ----

    == 'one: 1\\ntwo: 2'
    """
    assert places(folder.render(text), shown) == [
        ("args: !call:dict", "base.yaml:2", "template"),
        ("    a: 1", "base.yaml:4", "template"),
        ("    b: 2", "base.yaml:5", "template"),
        ("    b: 2", "main.yaml:4", "file"),
        ("y: 3", "part.yaml:1", "include"),
        ("'0': 0", "part.yaml:3", "include"),
        ("'1': 1", "part.yaml:3", "include"),
        ("one: 1", "main.yaml:13", "file"),
        ("two: 2", "main.yaml:13", "file"),
        ("main: 1", "base.yaml:11", "template"),
    ]


def test_trimming_and_macros_keep_the_places(folder, shown):
    folder.write("-- macro pair(key)\n{{ key }}:\n  deep: 1\n-- endmacro\n", "macros.yaml")
    text = """\
    -- from 'macros.yaml' import pair
    -- filter trim()


    a: 1

    -- endfilter

    b: {{ 'x' }} {{ 'y' }}
    == pair('c')|upper
    """
    rendered = folder.render(text)
    assert [line for line in rendered.text.split("\n") if line] == ["a: 1", "b: x y", "C:", "  DEEP: 1"]
    assert [place for _, place, _ in places(rendered, shown)] == ["main.yaml:5", "main.yaml:9", "macros.yaml:2", "macros.yaml:3"]


def test_a_template_that_looks_at_its_own_text_still_has_places(folder, shown):
    text = """\
    -- set seen
    abc
    -- endset
    -- if seen|trim == 'abc'
    a: 1
    b: 2
    -- endif
    c: {{ seen|trim|length }}
    """
    rendered = folder.render(text)
    assert [line for line in rendered.text.split("\n") if line] == ["a: 1", "b: 2", "c: 3"]


def test_line_separators_in_values_do_not_shift_places(folder, shown):
    rendered = folder.render("a: 'x\u2028y'\nmain: [\n")
    assert shown(rendered.origins[3]) == "main.yaml:2"


def test_inline_documents_belong_to_their_file(folder):
    folder.write("b:\n-- include 'part'\n#---- part ----\n  of: base\n", "base.yaml")
    folder.write("of: file\n", "part")
    text = "-- include 'base.yaml'\nm:\n-- include 'part'\n#---- part ----\n  of: main\n"
    assert folder.render(text).text == "b:\n  of: base\nm:\n  of: main\n"
    assert folder.render("m:\n-- include 'part'\n").text == "m:\nof: file\n"


def test_the_first_folder_that_has_a_template_wins(folder, tmp_path):
    from ironloom.config import templates

    folder.write("a: 1\n", "one/x.yaml")
    folder.write("a: 2\n", "two/x.yaml")
    main = folder.write("-- include 'x.yaml'\n")
    assert templates.render(main, [folder.path / "none", folder.path / "two", folder.path / "one"]).text.strip() == "a: 2"


def test_templates_that_were_used_are_listed(folder):
    folder.write(BASE, "base.yaml")
    rendered = folder.render("-- extends 'base.yaml'\n-- block args\n-- include 'doc'\n-- endblock\n#---- doc ----\n    a: 5\n")
    main = str(folder.path / "main.yaml")
    assert rendered.templates == [("main.yaml", main), ("base.yaml", str(folder.path / "base.yaml")), ("doc", main)]


def test_text_outside_blocks_stands_in_front_of_the_base(folder):
    folder.write(BASE, "base.yaml")
    rendered = folder.render("# a comment\n-- extends 'base.yaml'\nshared: &shared [{{ v }}]\n-- set v = 1\n", {"v": 0})
    assert rendered.text.split("\n")[0] == "shared: &shared [0]"
    assert "# a comment" not in rendered.text


def message(folder, shown, text, **given):
    with pytest.raises(ConfigError) as caught:
        folder.render(text, **given)
    return shown(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: 1\nmain: {{ foo }}\n", "main.yaml:2: 'foo' is undefined"),
        ("-- set max_steps = 3\n\nmain: {{ max_stps }}\n", "main.yaml:3: 'max_stps' is undefined (did you mean 'max_steps'?)"),
        ("-- set ns = namespace(steps=3)\nmain: {{ ns.step }}\n", "no attribute 'step' (did you mean 'steps'?)"),
        ("main: {{ joinpth('a') }}\n", "main.yaml:1: 'joinpth' is undefined (did you mean 'joinpath'?)"),
        ("main: {{ joinpath('a', b) }}\n", "main.yaml:1: 'b' is undefined"),
        ("main: {{ 'x'|trimm }}\n", "main.yaml:1: is not a valid template: No filter named 'trimm' (did you mean 'trim'?)"),
        ("a: 1\n-- if x\nb: 2\n", "main.yaml:3: is not a valid template: Unexpected end of template"),
        ("a: 1\n-- set x %\n", "main.yaml:2: is not a valid template: expected token"),
        ("a: 1\n#---- d ----\nb: 2\n-- set x %\n", None),
        ("a: 1\n-- include 'd'\n#---- d ----\nb: 2\n-- set x %\n", "main.yaml:5: is not a valid template: expected token"),
        ("a: 1\n-- include 'd'\n#---- d ----\nb: 2\nc: {{ foo }}\n", "main.yaml:5: 'foo' is undefined"),
        ("-- extends 'bse.yaml'\n", "main.yaml:1: there is no template 'bse.yaml' (did you mean 'base.yaml'?)"),
        ("a: 1\n-- include 'prt'\n#---- part ----\n", "main.yaml:2: there is no template 'prt' (did you mean 'part'?)"),
        ("-- import 'nowhere_at_all' as x\n", "there is no template 'nowhere_at_all' (it is looked up in"),
        ("-- include '../secret.yaml'\n", "there is no template '../secret.yaml' (a template is named from a folder of the search path"),
        ("-- include '/etc/hostname'\n", "there is no template '/etc/hostname' (a template is named from a folder"),
        ("-- extends 'main.yaml'\n", "main.yaml:1: templates need each other without end (main.yaml -> main.yaml)"),
        ("a: 1\n-- include 'circle.yaml'\n", "without end (main.yaml -> circle.yaml -> main.yaml)"),
        ("main: {{ 1/0 }}\n", "main.yaml:1: the expression fails: division by zero"),
        ("main: {{ 9**(9**9) }}\n", "main.yaml:1: the expression fails: 9 ** 387420489 is too large"),
        ("main: {{ 'a' * 10**9 }}\n", "main.yaml:1: the expression fails: a repetition is too long"),
        ("-- block a\n-- endblock\n-- block a\n-- endblock\n", "main.yaml:3: is not a valid template: block 'a' defined twice"),
    ],
)
def test_what_fails_names_file_and_line(folder, shown, text, expected):
    folder.write(BASE, "base.yaml")
    folder.write("-- include 'main.yaml'\n", "circle.yaml")
    if expected is None:
        folder.render(text)
    else:
        assert expected in message(folder, shown, text)


def test_an_error_in_a_base_or_macro_names_its_own_file(folder, shown):
    folder.write("a: 1\n-- block b\nc: {{ nope }}\n-- endblock\n", "base.yaml")
    assert message(folder, shown, "-- extends 'base.yaml'\n-- block b\n== super()\n-- endblock\n") == "base.yaml:3: 'nope' is undefined"


def test_a_template_that_is_no_text_is_named(folder, shown):
    (folder.path).mkdir(parents=True)
    (folder.path / "binary.yaml").write_bytes(b"\0\1")
    assert message(folder, shown, "-- include 'binary.yaml'\n") == "binary.yaml: is a binary file, not a configuration"


def test_an_empty_part_is_fine(folder):
    folder.write("", "empty.yaml")
    assert folder.render("a: 1\n-- include 'empty.yaml'\n").text.strip() == "a: 1"


# What templates may and may not do


@pytest.mark.parametrize(
    "expression",
    [
        "''.__class__",
        "''['__class__']",
        "''|attr('__class__')",
        "os.__class__",
        "os.environ._data",
        "joinpath.__globals__",
        "'{0.__class__}'.format(1)",
        "namespace.__init__",
    ],
)
def test_attributes_with_underscores_are_refused(folder, shown, expression):
    text = message(folder, shown, f"main: {{{{ {expression} }}}}\n")
    assert text.startswith("main.yaml:1: ")
    assert "unsafe" in text or "undefined" in text or "has no attribute" in text or "is not set" in text


@pytest.mark.parametrize("expression", ["os.environ.pop('HOME')", "os.environ.update({'A': 1})", "os.environ.setdefault('A', 1)"])
def test_the_environment_cannot_be_written(folder, shown, expression):
    before = dict(os.environ)
    assert "main.yaml:1: the environment is there to be read" in message(folder, shown, f"main: {{{{ {expression} }}}}\n")
    assert dict(os.environ) == before


def test_the_module_os_is_no_more_than_its_environment(folder, shown):
    assert "has no attribute 'system'" in message(folder, shown, "main: {{ os.system('true') }}\n")
    assert "has no attribute 'format'" in message(folder, shown, "main: {{ str.format('{0.__class__}', 1) }}\n")


def test_the_environment_is_read(folder, shown, monkeypatch):
    monkeypatch.setenv("BATCH_SIZE", "32")
    monkeypatch.delenv("NOT_SET", raising=False)
    text = "-- set b = int(os.environ.get('BATCH_SIZE', '16'))\n"
    text += "{{ b + 1 }} {{ os.environ['BATCH_SIZE'] }} {{ os.environ.get('NOT_SET', 'x') }}"
    assert folder.render(text).text.strip() == "33 32 x"
    text = message(folder, shown, "{{ os.environ['BATCH_SIZ'] }}")
    assert text == "main.yaml:1: the environment variable 'BATCH_SIZ' is not set (did you mean 'BATCH_SIZE'?)"
    assert folder.render("{{ 'NOT_SET' in os.environ }} {{ os.environ.get('NOT_SET') is none }}").text.strip() == "False True"


def test_a_secret_is_not_shown(folder, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "very secret")
    rendered = folder.render("a: {{ os.environ.HF_TOKEN }}\n-- set b = os.environ['HF_TOKEN']\n")
    assert rendered.text == "a: <HF_TOKEN>\n"
    assert rendered.variables == {"b": "<HF_TOKEN>"}
    assert rendered.secrets == {"HF_TOKEN"}


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("int('3') + float('1e-3')", "3.001"),
        ("min(3, 2) + max([1, 2]) + len('abc') + round(2.6) + abs(-1)", "11"),
        ("bool(0)", "False"),
        ("str(5) + 'x'", "5x"),
        ("joinpath('a', 'b')", "a/b"),
        ("normpath('a/../b')", "b"),
        ("dirname('a/b') + basename('a/b')", "ab"),
        ("relpath('/a/b', '/a')", "b"),
        ("splitext('a.b')[1]", ".b"),
        ("abspath('/a/./b')", "/a/b"),
        ("repr('x')", "'x'"),
        ("modname_from_path('/a/my_model.py')", "my_model"),
        ("versions.python", platform.python_version()),
        ("user_home_dir()", str(pathlib.Path.home())),
        ("getcwd()", str(pathlib.Path.cwd())),
        ("hostname", platform.node()),
        ("utcnow().year", str(datetime.datetime.now(datetime.UTC).year)),
        ("isotime()|length", "19"),
        ("utcisotime()|length", "25"),
        ("filetime()|length", "19"),
        ("utcfiletime()[4]", "-"),
    ],
)
def test_functions_of_expressions(folder, expression, value):
    assert folder.render(f"{{{{ {expression} }}}}").text.strip() == value


def test_the_project_is_the_nearest_folder_with_a_meta_file(folder):
    folder.write("", "meta.yaml")
    folder.write("", "deep/here.txt")
    from ironloom.config import templates

    main = folder.write("{{ project_dir }} {{ workspace_root }}", "deep/er/main.yaml")
    assert templates.render(main, []).text.strip() == f"{folder.path} {folder.path}"


def test_folders_of_the_desktop(folder, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", "/conf")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", "/home/x")
    text = "{{ user_config_dir('app') }} {{ ironloom_config_dir() }} {{ forgather_config_dir() }} {{ user_cache_dir() }} "
    text += "{{ site_config_dir('a') }}"
    assert folder.render(text).text.strip() == "/conf/app /conf/ironloom /conf/ironloom /home/x/.cache /etc/xdg/a"


@pytest.mark.parametrize(
    ("expression", "text"),
    [
        ("1e-5", "1e-05"),
        ("none", "null"),
        ("true", "true"),
        ("3", "3"),
        ("'yes'", "yes"),
        ("'1e-3'", "'1e-3'"),
        ("'a: b'", "'a: b'"),
        ("[1, (2, none), {'a': 'b'}]", "[1, [2, null], {a: b}]"),
        ("{'b': 1, 'a': []}", "{b: 1, a: []}"),
        ("'x' * 200", "x" * 200),
    ],
)
def test_to_yaml_writes_one_line_that_is_read_as_the_same(folder, expression, text):
    assert folder.render(f"a: {{{{ ({expression})|toyaml }}}}").text.strip() == f"a: {text}"


def test_to_yaml_of_an_undefined_value(folder, shown):
    assert folder.render("a: {{ nope|toyaml([1]) }}").text.strip() == "a: [1]"
    assert message(folder, shown, "a: {{ nope|toyaml }}") == "main.yaml:1: 'nope' is undefined"


# Warnings


def warnings(folder, shown, text):
    return [shown(problem) for problem in folder.render(text).warnings]


def test_a_block_that_overrides_nothing_is_warned_about(folder, shown):
    folder.write(BASE, "base.yaml")
    assert warnings(folder, shown, "-- extends 'base.yaml'\n\n-- block agrs\n-- endblock\n-- block extra\n-- endblock\n") == [
        "main.yaml:3: the block 'agrs' overrides nothing (did you mean 'args'?)"
    ]


def test_blocks_inside_blocks_and_of_grandparents_are_fine(folder, shown):
    folder.write(BASE, "base.yaml")
    folder.write("-- extends 'base.yaml'\n-- block args\n-- block inner\n-- endblock\n-- endblock\n", "middle.yaml")
    assert warnings(folder, shown, "-- extends 'middle.yaml'\n[inner]\n[extra]\n") == []
    assert warnings(folder, shown, "-- set base = 'middle.yaml'\n-- extends base\n[inner]\n[extra]\n") == []
    assert warnings(folder, shown, "-- set base = 'middle.yaml'\n-- extends base\n[iner]\n") == [
        "main.yaml:3: the block 'iner' overrides nothing (did you mean 'inner'?)"
    ]


def test_a_block_of_an_included_template_cannot_be_overridden_from_outside(folder, shown):
    folder.write("-- block outer\n-- include 'inner.yaml'\n-- endblock\n", "base.yaml")
    folder.write("-- block args\n-- endblock\n", "inner.yaml")
    hint = "it is a block of 'inner.yaml', which is only included: include a document that extends it"
    assert warnings(folder, shown, "-- extends 'base.yaml'\n[args]\n  a: 1\n") == [
        f"main.yaml:2: the block 'args' overrides nothing ({hint})"
    ]
    good = "-- extends 'base.yaml'\n[outer]\n  -- include 'mine'\n#---- mine ----\n-- extends 'inner.yaml'\n[args]\n  a: 1\n"
    assert warnings(folder, shown, good) == []


def test_a_document_that_nothing_uses_is_warned_about(folder, shown):
    text = "a: 1\n-- if false\n-- include 'used'\n-- endif\n#---- used ----\n#---- usd ----\n"
    assert warnings(folder, shown, text) == [
        "main.yaml:6: nothing uses the document 'usd' (write -- include 'usd' where it belongs, or remove it)"
    ]
    assert warnings(folder, shown, "-- set name = 'usd'\n-- include name\n#---- used ----\n#---- usd ----\n") == []
