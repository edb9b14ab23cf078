"""``generate`` and ``chat`` of a small model, in this process."""

from __future__ import annotations

import io
import json

import pytest
import torch
from transformers import AutoTokenizer

from ironloom.data.tokenizer import Tokenizer
from ironloom.models.cache import Reader
from ironloom.models.decoder import Decoder
from ironloom.models.generate import generate
from models.twins import randomize, small

TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% if m.role == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


@pytest.fixture
def folder(tmp_path):
    model = Decoder(small(max_seq_len=128), 257, eos_token_id=256)
    randomize(model)
    model.save_pretrained(tmp_path / "model")
    Tokenizer.bytes().with_chat_template(TEMPLATE).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def talk(ironloom, folder, monkeypatch):
    """Run ``chat`` with lines on standard input."""

    def talk(*lines, options=("--max-new-tokens", 12)):
        monkeypatch.setattr("sys.stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
        return ironloom("chat", folder, *options)

    return talk


def answers(folder, *turns, temperature=0.0):
    """What the model says to each of the turns, by the tokenizer of transformers and a plain call."""
    tokenizer, model = AutoTokenizer.from_pretrained(folder), Decoder.from_pretrained(folder)
    messages, found = [], []
    for turn in turns:
        messages.append({"role": "user", "content": turn})
        ids = torch.tensor([tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)])
        written = generate(model, ids, max_new_tokens=12, eos_token_id=256)[0, ids.shape[1] :].tolist()
        found.append(Tokenizer.bytes().decode(written, skip_special_tokens=True))
        messages.append({"role": "assistant", "content": found[-1]})
    return found


# generate


def test_prompts_do_not_depend_on_each_other(ironloom, folder, tmp_path):
    prompts = ["Some", "A longer text", "x", "Some"]
    (tmp_path / "prompts.txt").write_text("\n".join(prompts) + "\n")
    options = ("--max-new-tokens", 9, "--seed", 3, "--top-k", 40, "--repetition-penalty", 1.2, "--json")
    together = ironloom("generate", folder, "--file", tmp_path / "prompts.txt", "--batch-size", 3, *options)
    assert (together.code, together.err) == (0, "")
    records = [json.loads(line) for line in together.out.splitlines()]
    assert [record["prompt"] for record in records] == prompts
    for record in records:
        assert json.loads(ironloom("generate", folder, "-p", record["prompt"], *options).out) == record
    stop = records[1]["text"][2:4]
    ended = json.loads(ironloom("generate", folder, "-p", prompts[1], *options, "--stop", stop).out)
    assert (ended["text"], ended["ended"]) == (records[1]["text"].split(stop)[0], "stop")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--top-p", "0"], "--top-p must be above 0"),
        (["--repetition-penalty", "0"], "--repetition-penalty must be above 0"),
        (["--stop", ""], "--stop needs"),
        (["--file", "prompts.txt"], "give one of them"),
    ],
)
def test_generate_refuses_what_cannot_be(ironloom, folder, options, said):
    result = ironloom("generate", folder, "-p", "a", *options)
    assert (result.code, said in result.err) == (2, True)


def test_files_of_prompts_have_one_on_each_line(ironloom, folder, tmp_path):
    file = tmp_path / "prompts.txt"
    assert ironloom("generate", folder, "--file", file).code == 3
    file.write_text("one\n\nthree\n")
    result = ironloom("generate", folder, "--file", file)
    assert (result.code, "line 2 is empty" in result.err) == (2, True)


# chat


def test_a_conversation_is_rendered_as_transformers_does(talk, folder):
    result = talk("Hello", "", "And now?", options=("--max-new-tokens", 12, "--temperature", 0))
    assert (result.code, result.err) == (0, "")
    assert result.out == "".join(f"{answer}\n" for answer in answers(folder, "Hello", "And now?"))


def test_commands_of_a_conversation(talk, folder, tmp_path):
    file = tmp_path / "talk.jsonl"
    lines = [
        "Hello",
        "/reset",
        "Hello",
        "/system Be brief.",
        "Hello",
        f"/save {file}",
        "/nonsense",
        '"""/one',
        'two"""',
        f"/save {file}",
        "/quit",
        "no",
    ]
    result = talk(*lines)
    assert result.code == 0
    first, second = (json.loads(line)["messages"] for line in file.read_text().splitlines())
    assert [turn["role"] for turn in first] == ["system", "user", "assistant"]
    assert first[0]["content"] == "Be brief."
    assert second[:3] == first
    assert second[3]["content"] == "/one\ntwo"
    said = [turn["content"] for turn in second if turn["role"] == "assistant"]
    assert result.out.startswith(answer := talk("Hello").out)
    assert result.out == answer * 2 + "".join(f"{text}\n" for text in said), "after /reset it is as in the beginning"
    assert "there is no such command" in result.err


def test_an_interrupt_ends_the_answer_only(talk, folder, tmp_path, monkeypatch):
    whole = talk("Hello", options=("--temperature", 0)).out
    original, calls = Reader.logits, []

    def logits(reader):
        calls.append(0)
        if len(calls) == 9:
            raise KeyboardInterrupt
        return original(reader)

    monkeypatch.setattr(Reader, "logits", logits)
    result = talk("Hello", f"/save {tmp_path}/talk.jsonl", "Go on", options=("--temperature", 0))
    assert (result.code, result.err.splitlines()[0]) == (0, "stopped")
    answer = json.loads((tmp_path / "talk.jsonl").read_text())["messages"][1]["content"]
    assert 0 < len(answer) < len(whole)
    assert whole.startswith(answer)
    assert result.out.startswith(f"{answer}\n")
    assert len(result.out) > len(answer) + 2, "the conversation goes on"


def test_the_oldest_turns_are_forgotten(talk):
    result = talk(*["A message of some length"] * 4)
    assert (result.code, result.out.count("\n")) == (0, 4)
    assert "forgotten" in result.err
    long = talk("x" * 200)
    assert (long.code, "too long" in long.err) == (3, True)


def test_a_turn_ends_at_the_token_that_the_template_writes(talk, folder):
    """Not only at the token that ends a text: here it is any byte, as if it were a control token."""
    from ironloom.cli.conversing import Conversation
    from ironloom.cli.loading import load
    from ironloom.models.sampling import Sampling

    loaded = load(str(folder), "cpu")
    conversation = Conversation(loaded, None, Sampling(), 5, 0)
    conversation.turns = [{"role": "user", "content": "a"}]
    assert conversation._end_of_turn() == {256}
    plain = Conversation(loaded, TEMPLATE.replace("{{ eos_token }}", "!"), Sampling(), 5, 0)
    plain.turns = conversation.turns
    assert plain._end_of_turn() == set()


def test_without_a_template_it_is_said_what_to_do(ironloom, folder, monkeypatch):
    Tokenizer.bytes().save_pretrained(folder)
    monkeypatch.setattr("sys.stdin", io.StringIO("Hello\n"))
    result = ironloom("chat", folder)
    assert (result.code, result.out) == (2, "")
    assert "--chat-template" in result.err
    assert "plain" in result.err
    assert ironloom("chat", folder, "--chat-template", "plain", "--max-new-tokens", 3).code == 0
