"""Templates are rendered as transformers does it, and refused where what is trained cannot be told from what is given."""

from __future__ import annotations

import pytest

from chat_cases import CASES, tokenizer
from chat_templates import BETWEEN, CHATML, ENDLESS, LLAMA2, LLAMA3, MISTRAL, THOUGHTFUL
from chats import TOOLS, TWO, answer, system, user
from ironloom.data.chat import ChatRenderer, ChatTemplate, find_template, render
from ironloom.data.chat.template import DAY, built_in
from ironloom.data.tokenizer import Tokenizer
from ironloom.errors import ConfigError, DataError


def test_rendering_is_that_of_transformers(tmp_path, monkeypatch):
    from transformers import PreTrainedTokenizerFast
    from transformers.utils import chat_template_utils

    class Today(chat_template_utils.datetime):
        @classmethod
        def now(cls):
            return DAY

    monkeypatch.setattr(chat_template_utils, "datetime", Today)
    words = tokenizer("special")
    words.save_pretrained(tmp_path)
    theirs = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    for case in CASES:
        text = find_template(case.template)
        ours = ChatTemplate.of(words, case.template, case.arguments)
        for prompt in (True, False):
            expected = theirs.apply_chat_template(
                case.messages, tools=case.tools, chat_template=text, add_generation_prompt=prompt, tokenize=False, **case.arguments
            )
            assert ours.render(case.messages, case.tools, add_generation_prompt=prompt) == expected, case.name


def test_a_prompt_that_answers_do_not_continue_is_refused_with_the_text():
    messages = [user("Hi"), answer("<think>\nGreet.</think>Hello!")]
    with pytest.raises(DataError) as refused:
        render(messages, tokenizer("bytes"), template=THOUGHTFUL)
    assert "does not continue its own prompt" in str(refused.value)
    assert "<|assistant|><think>\\n" in str(refused.value)
    assert "rendered as\n<|user|>Hi<|assistant|>Hello!</s>" in str(refused.value)


@pytest.mark.parametrize("template", [ENDLESS, BETWEEN])
def test_answers_that_nothing_ends_are_refused_with_the_text(template):
    with pytest.raises(DataError, match=r"would never stop(?s:.*)rendered as\n<\|user\|>Hi there"):
        render(TWO[:2], tokenizer("bytes"), template=template)


@pytest.mark.parametrize(
    ("template", "messages", "what"),
    [
        (LLAMA2, [user("a"), user("b"), answer("c")], r"\(user, user\): roles must alternate"),
        (MISTRAL, [system("a"), user("b"), answer("c")], r"\(system, user\): Only user and assistant roles"),
        ("{{ messages[0].content + 1 }}", TWO, r"\(user\): can only concatenate str"),
        ("{{ messages[9].content }}", TWO, r"\(user\): .* has no element 9"),
        ("{{ messages.__class__.__mro__ }}", TWO, "unsafe"),
    ],
)
def test_what_a_template_refuses_is_told_with_the_roles(template, messages, what):
    with pytest.raises(DataError, match=what):
        render(messages, tokenizer("bytes"), template=template)


@pytest.mark.parametrize(
    ("template", "what"),
    [(None, "the tokenizer has none: name a file"), ("nothing.jinja", "neither a file"), ("{% for x in y %}", "chat_template: line 1: ")],
)
def test_templates_that_are_none(template, what):
    with pytest.raises(ConfigError, match=what):
        render(TWO, tokenizer("bytes"), template=template)


def test_marks_on_what_is_given_are_refused():
    for messages, what in (
        ([{**user("a"), "train": True}, answer("b")], "message 0: 'user' is given to the model"),
        ([answer("a"), user("b")], "message 0: an answer without a question"),
    ):
        with pytest.raises(DataError, match=what):
            render(messages, tokenizer("bytes"), template=CHATML)


def test_templates_do_not_see_the_marks():
    template = "{% for m in messages %}{{ m | tojson }}{{ eos_token }}{% endfor %}"
    plain, _ = render(TWO, tokenizer("bytes"), template=template)
    marked = [TWO[0], {**TWO[1], "train": True}, TWO[2], {**TWO[3], "weight": 1}]
    assert render(marked, tokenizer("bytes"), template=template)[0] == plain


def test_one_row_is_asked_for_and_several_would_be_needed():
    from chat_templates import QWEN3

    ids, trained = render(TWO, tokenizer("special"), template=QWEN3, train_on="last")
    assert len(ids) == len(trained) and 0 < sum(trained) < len(ids)
    with pytest.raises(DataError, match="rows of their own"):
        render(TWO, tokenizer("special"), template=QWEN3)
    with pytest.raises(DataError, match="no answer that is trained"):
        render(TWO[:1], tokenizer("special"), template=QWEN3)


def test_tokens_that_reach_over_a_boundary_are_cut_there():
    """The prompt ends with a space that the tokenizer would draw into the answer's first word."""
    words = tokenizer("plain")
    template = (
        "{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
    )
    (row,) = ChatRenderer(words, template).rows([user("Hi"), answer("Hello!")])
    prompt = words.encode("user: Hi\nassistant: ")
    assert words.encode("user: Hi\nassistant: Hello!\n")[: len(prompt)] != prompt
    assert row.cuts == 1
    assert row.ids == prompt + words.encode("Hello!\n")
    assert row.trained == [0] * len(prompt) + [1] * (len(row.ids) - len(prompt))


def test_the_template_of_the_tokenizer_and_its_tools(tmp_path):
    words = tokenizer("special")
    own = Tokenizer(
        words._backend,
        {**words._config, "chat_template": [{"name": "default", "template": CHATML}, {"name": "tool_use", "template": LLAMA3}]},
    )
    template = ChatTemplate.of(own)
    assert template.render(TWO).startswith("<|im_start|>user")
    assert template.render(TWO, TOOLS).startswith("<s><|start_header_id|>")
    (tmp_path / "file").mkdir()
    own.save_pretrained(tmp_path / "file")
    (tmp_path / "file" / "chat_template.jinja").write_text(MISTRAL)
    loaded = Tokenizer.load(tmp_path / "file")
    assert ChatTemplate.of(loaded).render(TWO).startswith("<s>[INST] Hi there")
    # Another template replaces the file when the tokenizer is saved.
    loaded.with_chat_template(CHATML).save_pretrained(tmp_path / "other")
    assert ChatTemplate.of(Tokenizer.load(tmp_path / "other")).render(TWO).startswith("<|im_start|>user")


def test_templates_that_come_along():
    assert built_in() == ["chatml", "plain", "raw"]
