"""The line form: what each line becomes in Jinja, and that line numbers stay."""

import jinja2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ironloom.config.templates.lines import documents, rewrite


@pytest.mark.parametrize(
    ("line", "jinja"),
    [
        ("-- extends 'a.yaml'", "{% extends 'a.yaml' %}"),
        ("    -- if x:", "{% if x: %}"),
        ("<< endblock name", "{%- endblock name %}"),
        (">> set x = 1", "{% set x = 1 -%}"),
        ("  == super()", "{{ super() }}"),
        ("=> x", "{{ x|trim('\\n') }}"),
        ("--\tset x = 1", "{% set x = 1 %}"),
        ("== super()  # Include parent arguments", "{{ super() }}"),
        ("-- block a  # of the parent", "{% block a %}"),
        ("-- set a = '# no comment'  # one", "{% set a = '# no comment' %}"),
        ("-- set a = 'it\\'s # no comment'  # one", "{% set a = 'it\\'s # no comment' %}"),
        ("-- set a = 1  ## a comment", "{% set a = 1 %}"),
        ("## a comment with #} and %}", "{# #}"),
        ("a: 1  ## a comment", "a: 1"),
        ("a: 1  # stays", "a: 1  # stays"),
        ("a: 1## is text", "a: 1## is text"),
        ("---", "---"),
        ("<<: *merge", "<<: *merge"),
        ("--no-space", "--no-space"),
        ("- item", "- item"),
        ("a: == b", "a: == b"),
    ],
)
def test_a_line(line, jinja):
    assert rewrite(line) == jinja


@pytest.mark.parametrize(
    "line",
    [
        'a: "foo ## bar"',
        "a: 'foo ## bar'",
        "a: 'it''s ## bar'",
        'a: "a \\" ## b"',
        "a: [x, 'y ## z']",
        'a: {b: "c ## d"}',
        "- 'a ## b'",
        "a: 'C:\\' # and ' ## '",
    ],
)
def test_a_comment_mark_in_quotes_is_text(line):
    assert rewrite(line) == line
    assert rewrite(f"{line}  ## real") == line


def test_an_apostrophe_in_a_word_begins_no_quote():
    assert rewrite("a: don't ## real") == "a: don't"
    assert rewrite("a: 'unfinished ## real") == "a: 'unfinished"


def rendered(text, **parents):
    loader = jinja2.DictLoader({name: rewrite(parent) for name, parent in parents.items()} | {"main": rewrite(text)})
    return jinja2.Environment(loader=loader, trim_blocks=True, keep_trailing_newline=True).get_template("main").render()


BASE = "-- block one\nold one\n-- endblock\nbetween\n-- block two\nold two\n-- endblock\nafter\n"


def test_headers_open_blocks_that_the_next_one_closes():
    child = "-- extends 'base'\n[one]\n  a: 1\n  b: 2\n[two]\nc: 3\n"
    assert rendered(child, base=BASE).splitlines() == ["  a: 1", "  b: 2", "between", "c: 3", "after"]


def test_a_header_with_an_exclamation_mark_trims():
    child = "-- extends 'base'\n[one!]\n\n  a: 1\n\n[two]\nc: 3\n"
    assert rendered(child, base=BASE).splitlines() == ["a: 1", "between", "c: 3", "after"]


def test_an_indented_header_nests():
    base = "[outer]\nx: 1\n  [inner]\n  y: 2\n[next]\nz: 3\n"
    assert rendered(base).splitlines() == ["x: 1", "  y: 2", "z: 3"]
    assert rendered("-- extends 'base'\n[inner]\n  y: 5\n", base=base).splitlines() == ["x: 1", "  y: 5", "z: 3"]


def test_a_trimmed_block_inside_another_keeps_its_line():
    base = "[outer]\nx: 1\n  [inner!]\n  y: 2\n[next]\nz: 3\n"
    assert [line for line in rendered(base).splitlines() if line] == ["x: 1", "y: 2", "z: 3"]


def test_a_header_after_a_statement():
    base = "[one]\n-- if true\na: 1\n-- endif\n[two]\n== 'b: 2'\n[three]\nc: 3\n"
    assert rendered(base).splitlines() == ["a: 1", "b: 2", "c: 3"]


def test_lists_are_no_headers():
    for line in ("[a, b]", "x: [a]", "- [a]", "['a']"):
        assert rewrite(line) == line


@given(st.lists(st.text("ab '\"#-<>=[]!:\t\\", max_size=12)))
def test_every_line_keeps_its_number(lines):
    text = "\n".join(lines)
    assert rewrite(text).count("\n") == text.count("\n")


@given(st.text("abc: \n", max_size=60))
def test_plain_text_stays(text):
    assert rewrite(text) == text


def test_documents_have_names_and_first_lines():
    text = "a: 1\n#---- my-doc.v2/x ----\nb: 2\n# --- other ---\nc: 3\n"
    assert [(part.name, part.line, part.text) for part in documents(text)] == [
        (None, 1, "a: 1\n"),
        ("my-doc.v2/x", 3, "b: 2\n"),
        ("other", 5, "c: 3\n"),
    ]


@pytest.mark.parametrize(
    "line",
    ["#----------------", "# -- short --", "#---- two words ----", "  #---- indented ----", "#---- open", "x #---- a ----"],
)
def test_other_comments_begin_no_document(line):
    assert [part.name for part in documents(f"a: 1\n{line}\nb: 2\n")] == [None]


def test_line_ends_of_other_systems():
    (first, second) = documents("a: 1\r\n#---- b ----\r\n-- set c = 1\r\n")
    assert (first.text, second.name, second.text) == ("a: 1\n", "b", "-- set c = 1\n")
    assert rewrite("-- set c = 1\r\na: 1\r") == "{% set c = 1 %}\na: 1\n"
