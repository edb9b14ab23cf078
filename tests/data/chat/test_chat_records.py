"""Records of the four kinds become the same conversations; what is wrong is named with its place."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chats import TOOLS, TWO, answer, call, system, tool, user
from ironloom.data.chat.records import conversation_of
from ironloom.data.chat.sources import Conversations
from ironloom.errors import DataError

ONE = [user("Hi"), answer("Hello!")]
SAID = [system("Be brief."), *ONE]


@pytest.mark.parametrize(
    ("record", "messages"),
    [
        ({"messages": TWO}, TWO),
        ({"messages": json.dumps(TWO)}, TWO),
        ({"messages": [{**message, "tool_calls": None, "name": None} for message in TWO]}, TWO),
        (
            {
                "messages": [
                    user("Hi"),
                    {"role": "assistant", "content": [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo!"}]},
                ]
            },
            ONE,
        ),
        ({"conversations": ONE}, ONE),
        ({"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello!"}], "system": "Be brief."}, SAID),
        (
            {
                "conversations": [
                    {"from": "system", "value": "Be brief."},
                    {"from": "human", "value": "Hi"},
                    {"from": "gpt", "value": "Hello!"},
                ]
            },
            SAID,
        ),
        ({"prompt": "Hi", "completion": "Hello!"}, ONE),
        ({"prompt": SAID[:2], "completion": SAID[2:]}, SAID),
        ({"instruction": "Hi", "input": "", "output": "Hello!"}, ONE),
        ({"instruction": "Hi", "output": "Hello!", "system": "Be brief."}, SAID),
        ({"instruction": "Hi", "input": "all", "output": "Hello!"}, [user("Hi\n\nall"), answer("Hello!")]),
        ({"instruction": "Hi", "context": "all", "response": "Hello!", "category": "x"}, [user("Hi\n\nall"), answer("Hello!")]),
        ({"instruction": "Bye", "output": "See you.", "history": [["Hi there", "Hello!"]]}, TWO),
        ({"question": "Hi", "answer": "Hello!"}, ONE),
        ({"system_prompt": "Be brief.", "question": "Hi", "response": "Hello!", "id": "1"}, SAID),
        ({"query": "Hi", "response": "Hello!"}, ONE),
    ],
)
def test_the_four_kinds(record, messages):
    assert conversation_of(record, "here").messages == messages


def test_tools():
    arguments = json.dumps({"a": 2})
    spelled = {"role": "assistant", "tool_calls": [{"type": "function", "function": {"name": "add", "arguments": arguments}}]}
    messages = [user("2?"), call("add", "", a=2), tool("5"), answer("5")]
    for record in (
        {"messages": [user("2?"), spelled, tool("5"), answer("5")], "tools": TOOLS},
        {
            "conversations": [
                {"from": "human", "value": "2?"},
                {"from": "function_call", "value": '{"name": "add", "arguments": {"a": 2}}'},
                {"from": "observation", "value": "5"},
                {"from": "gpt", "value": "5"},
            ],
            "tools": json.dumps(TOOLS),
        },
    ):
        conversation = conversation_of(record, "here")
        assert conversation.messages == messages
        assert conversation.tools == TOOLS


@pytest.mark.parametrize(
    ("record", "what"),
    [
        ([], "expected an object, found list"),
        ({"text": "Hi"}, "no conversation: expected a list of messages in 'messages'.*found text"),
        ({"messages": []}, "without messages"),
        ({"messages": "Hi"}, "messages: expected a list, found a text that is no JSON"),
        ({"messages": 3}, "messages: expected a list, found int"),
        ({"messages": ["Hi"]}, "messages, message 0: expected an object"),
        ({"messages": [user("a"), {"content": "b"}]}, "message 1: no 'role'"),
        ({"messages": [user("a"), {"role": "assistant"}]}, "message 1: no 'content'"),
        ({"messages": [user("a"), {"role": "assistant", "content": 3}]}, "message 1, 'content': expected a text, found int"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}, answer("b")]}, "only text can be trained on, not 'image'"),
        ({"messages": [answer("b")]}, "without a user turn"),
        ({"messages": [user("a"), answer("\ud800")]}, "half of a surrogate pair"),
        ({"messages": [user("a"), answer("b", train="yes")]}, "'train' is true or false, not 'yes'"),
        ({"messages": [user("a"), answer("b", weight=-0.5)]}, "'weight' is 0 or a number from 1e-30 to 1e.30, not -0.5"),
        ({"messages": [user("a"), answer("b", weight=float("nan"))]}, "not nan"),
        ({"messages": [user("a"), answer("b", weight=1e39)]}, "not 1e.39"),
        ({"messages": [user("a"), answer("b", weight="1")]}, "not '1'"),
        ({"messages": [user("a"), answer("b", weight=0.5, train=False)]}, "contradict each other"),
        ({"messages": [user("a"), answer("b", weight=0, train=True)]}, "contradict each other"),
        ({"conversations": [{"from": "alien", "value": "a"}]}, "message 0: unknown speaker 'alien'"),
        (
            {"conversations": [{"from": "human", "value": "a"}, {"from": "function_call", "value": "b"}]},
            "message 1: a function call is a JSON",
        ),
        ({"prompt": "a", "completion": 3}, "completion: expected a list, found int"),
        ({"instruction": "a", "output": None}, "no conversation"),
        ({"instruction": "a", "output": "b", "history": [["c"]]}, "list of pairs"),
    ],
)
def test_what_is_wrong_is_named(record, what):
    with pytest.raises(DataError, match=rf"^here: .*{what}"):
        conversation_of(record, "here")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["role", "content", "from", "value", "type", "text", "train", "weight", "tool_calls"]), inner, max_size=4
        )
    ),
    max_leaves=12,
)
FIELDS = st.sampled_from(
    ["messages", "conversations", "prompt", "completion", "instruction", "input", "output", "history", "system", "tools"]
)


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(FIELDS, JSON, max_size=4) | JSON)
def test_no_record_breaks_the_reader(record):
    try:
        conversation = conversation_of(record, "here")
    except DataError as error:
        assert str(error).startswith("here: ")
    else:
        assert all(isinstance(message["content"], str) and isinstance(message["role"], str) for message in conversation.messages)


def test_wrong_records_of_a_file_are_counted_with_their_lines(tmp_path):
    lines = [{"messages": TWO}, {"messages": []}, {"messages": TWO}, {"text": "a"}]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + "{broken\n")
    with pytest.raises(DataError) as refused:
        list(Conversations.of([{"dataset_path": str(tmp_path / "a.jsonl"), "name": "chats"}]).read(None))
    text = str(refused.value)
    assert text.startswith("chats: 3 records cannot be used:")
    assert all(f"a.jsonl:{line}: " in text for line in (2, 4, 5))


def test_reading_goes_on_at_every_mark(tmp_path):
    records = [{"messages": [user(str(number)), answer("b")]} for number in range(5)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records[:3]))
    (tmp_path / "b.json").write_text(json.dumps(records[3:]))
    source = Conversations.of([str(tmp_path), {"dataset_path": "python-docstrings", "max_samples": 3}])
    everything = list(source.read(None))
    assert len(everything) == 8
    assert everything[4][0].place == f"{tmp_path}/b.json: record 1"
    for place, (_, mark) in enumerate(everything):
        assert [record for record, _ in source.read(json.loads(json.dumps(mark)))] == [record for record, _ in everything[place + 1 :]]


def test_texts_are_no_conversations(tmp_path):
    (tmp_path / "a.txt").write_text("Hi")
    for source in (str(tmp_path), "python-docs"):
        with pytest.raises(DataError, match="no records of conversations"):
            list(Conversations.of([source]).read(None))
