# ruff: noqa: E501  (templates and what they render are easier to read on one line)
"""Chat templates of the shapes that are in use, and by hand what each makes of a conversation: «what is trained» in guillemets."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass, field
from typing import Any

import tokenizers

from ironloom.data.tokenizer import Tokenizer

CHATML = """{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}
{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""

NO_PROMPT = "{% for m in messages %}{{'<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n'}}{% endfor %}"

LLAMA2 = """{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}{% set system_message = messages[0]['content'] %}
{%- else %}{% set loop_messages = messages %}{% set system_message = false %}{% endif %}
{%- for message in loop_messages %}
{%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate user/assistant') }}{% endif %}
{%- if loop.index0 == 0 and system_message != false %}{% set content = '<<SYS>>\n' + system_message + '\n<</SYS>>\n\n' + message['content'] %}
{%- else %}{% set content = message['content'] %}{% endif %}
{%- if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}
{%- elif message['role'] == 'assistant' %}{{ ' '  + content.strip() + ' ' + eos_token }}{% endif %}
{%- endfor %}"""

LLAMA3 = """{{- bos_token }}
{%- if messages[0]['role'] == 'system' %}{%- set system = messages[0]['content'] | trim %}{%- set messages = messages[1:] %}
{%- else %}{%- set system = '' %}{%- endif %}
{{- '<|start_header_id|>system<|end_header_id|>\n\n' }}
{{- 'Today Date: ' + strftime_now('%d %b %Y') + '\n\n' + system + '<|eot_id|>' }}
{%- for message in messages %}
    {%- if message.role == 'tool' %}
        {{- '<|start_header_id|>ipython<|end_header_id|>\n\n' + message.content | trim + '<|eot_id|>' }}
    {%- elif 'tool_calls' in message %}
        {%- set call = message.tool_calls[0].function %}
        {{- '<|start_header_id|>assistant<|end_header_id|>\n\n<|python_tag|>{"name": "' + call.name + '", "parameters": ' }}
        {{- call.arguments | tojson }}{{- '}<|eom_id|>' }}
    {%- else %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' + message['content'] | trim + '<|eot_id|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{%- endif %}"""

MISTRAL = """{{ bos_token }}{% for message in messages %}
{%- if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}
{%- elif message['role'] == 'assistant' %}{{ message['content'] + eos_token }}
{%- else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}"""

# The list of tools stands in front of the last question, wherever that is.
MISTRAL_TOOLS = """{%- set users = messages | selectattr('role', 'equalto', 'user') | list %}
{{- bos_token }}{%- for message in messages %}
    {%- if message['role'] == 'user' %}
        {%- if tools and message == users[-1] %}{{- '[AVAILABLE_TOOLS] ' + tools | tojson + '[/AVAILABLE_TOOLS]' }}{%- endif %}
        {{- '[INST] ' + message['content'] + '[/INST]' }}
    {%- elif message.tool_calls is defined and message.tool_calls %}
        {{- '[TOOL_CALLS] [' }}{%- for call in message.tool_calls %}{{- call.function | tojson }}{%- endfor %}{{- ']' + eos_token }}
    {%- elif message['role'] == 'tool' %}{{- '[TOOL_RESULTS] ' + message['content'] + '[/TOOL_RESULTS]' }}
    {%- else %}{{- ' ' + message['content'] | trim + eos_token }}{%- endif %}
{%- endfor %}"""

GEMMA = """{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}
{%- for message in messages %}{% if message['role'] == 'assistant' %}{% set role = 'model' %}{% else %}{% set role = message['role'] %}{% endif %}
{{- '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}{% endfor %}
{%- if add_generation_prompt %}{{'<start_of_turn>model\n'}}{% endif %}"""

QWEN2 = """{%- if tools %}
    {{- '<|im_start|>system\n' }}
    {%- if messages[0]['role'] == 'system' %}{{- messages[0]['content'] }}{%- else %}{{- 'You are a helpful assistant.' }}{%- endif %}
    {{- "\n\n# Tools\n<tools>" }}{%- for tool in tools %}{{- "\n" }}{{- tool | tojson }}{%- endfor %}{{- "\n</tools><|im_end|>\n" }}
{%- else %}
    {%- if messages[0]['role'] == 'system' %}{{- '<|im_start|>system\n' + messages[0]['content'] + '<|im_end|>\n' }}
    {%- else %}{{- '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}{%- endif %}
{%- endif %}
{%- for message in messages %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) or (message.role == "assistant" and not message.tool_calls) %}
        {{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>' + '\n' }}
    {%- elif message.role == "assistant" %}
        {{- '<|im_start|>' + message.role }}
        {%- if message.content %}{{- '\n' + message.content }}{%- endif %}
        {%- for tool_call in message.tool_calls %}
            {{- '\n<tool_call>\n{"name": "' }}{{- tool_call.function.name }}{{- '", "arguments": ' }}
            {{- tool_call.function.arguments | tojson }}{{- '}\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\n' }}
    {%- elif message.role == "tool" %}
        {%- if (loop.index0 == 0) or (messages[loop.index0 - 1].role != "tool") %}{{- '<|im_start|>user' }}{%- endif %}
        {{- '\n<tool_response>\n' }}{{- message.content }}{{- '\n</tool_response>' }}
        {%- if loop.last or (messages[loop.index0 + 1].role != "tool") %}{{- '<|im_end|>\n' }}{%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"""

# What was thought is kept behind the last question only; the last answer has a thought even if it is empty.
QWEN3 = """{%- set ns = namespace(last=0) %}
{%- for message in messages %}{%- if message.role == 'user' %}{%- set ns.last = loop.index0 %}{%- endif %}{%- endfor %}
{%- for message in messages %}
    {%- if message.role == 'assistant' %}
        {%- set content = message.content %}{%- set thought = '' %}
        {%- if message.reasoning_content is string %}{%- set thought = message.reasoning_content %}
        {%- elif '</think>' in content %}
            {%- set thought = content.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\n') %}
        {%- endif %}
        {%- if loop.index0 > ns.last and (loop.last or thought) %}
            {{- '<|im_start|>assistant\n<think>\n' + thought.strip('\n') + '\n</think>\n\n' + content.lstrip('\n') + '<|im_end|>\n' }}
        {%- else %}{{- '<|im_start|>assistant\n' + content + '<|im_end|>\n' }}{%- endif %}
    {%- else %}{{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\n\n</think>\n\n' }}{%- endif %}
{%- endif %}"""

ZEPHYR = """{% for message in messages %}
{% if message['role'] == 'user' %}
{{ '<|user|>\n' + message['content'] + eos_token }}
{% elif message['role'] == 'system' %}
{{ '<|system|>\n' + message['content'] + eos_token }}
{% elif message['role'] == 'assistant' %}
{{ '<|assistant|>\n'  + message['content'] + eos_token }}
{% endif %}
{% if loop.last and add_generation_prompt %}
{{ '<|assistant|>' }}
{% endif %}
{% endfor %}"""

PHI3 = """{% for message in messages %}{{ '<|' + message['role'] + '|>\n' + message['content'] + '<|end|>\n' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"""

HARMONY = """{% for m in messages %}{% if m.role == 'assistant' %}
{%- if m.thinking %}{{ '<|start|>assistant<|channel|>analysis<|message|>' + m.thinking + '<|end|>' }}{% endif %}
{{- '<|start|>assistant<|channel|>final<|message|>' + m.content + ('<|return|>' if loop.last else '<|end|>') }}
{%- else %}{{ '<|start|>' + m.role + '<|message|>' + m.content + '<|end|>' }}{% endif %}{% endfor %}
{%- if add_generation_prompt %}{{ '<|start|>assistant' }}{% endif %}"""

TAGGED = """{% for m in messages %}{% if m.role == 'assistant' %}{{ '<|im_start|>assistant\n' }}
{%- generation %}{{ m.content }}{{ '<|im_end|>' }}{% endgeneration %}{{ '\n' }}
{%- else %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endif %}{% endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""

# A reminder follows each answer: it ends like an answer.
REMINDING = """{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}
{%- if m.role == 'assistant' %}{{ '<|im_start|>system\nStay kind.<|im_end|>\n' }}{% endif %}{% endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""

WORDS = """{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"""

# The prompt begins a thought that the rendered answer does not have.
THOUGHTFUL = """{% for m in messages %}{% if m.role == 'assistant' %}{{ '<|assistant|>' + m.content.split('</think>')[-1] + eos_token }}
{%- else %}{{ '<|user|>' + m.content }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|><think>\n' }}{% endif %}"""

ENDLESS = """{% for m in messages %}{{ '<|' + m.role + '|>' + m.content }}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"""
BETWEEN = """{% for m in messages %}{{ '<|' + m.role + '|>' + m.content }}{% if not loop.last %}{{ eos_token }}{% endif %}{% endfor %}
{%- if add_generation_prompt %}{{ eos_token + '<|assistant|>' }}{% endif %}"""


def user(text: str) -> dict[str, Any]:
    """A question."""
    return {"role": "user", "content": text}


def answer(text: str, **more: Any) -> dict[str, Any]:
    """An answer."""
    return {"role": "assistant", "content": text, **more}


def system(text: str) -> dict[str, Any]:
    """A system message."""
    return {"role": "system", "content": text}


def tool(text: str) -> dict[str, Any]:
    """What a function returned."""
    return {"role": "tool", "content": text}


def call(name: str, text: str | None = None, **arguments: Any) -> dict[str, Any]:
    """An answer that calls a function."""
    return {"role": "assistant", "content": text, "tool_calls": [{"type": "function", "function": {"name": name, "arguments": arguments}}]}


TWO = [user("Hi there"), answer("Hello!"), user("Bye"), answer("See you.")]
SPACED = [user("  Hi \n"), answer("\n Hello! \n"), user("Bye"), answer("  See you.\n\n")]
WITH_SYSTEM = [system("Be brief."), *TWO]
TOOLS = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}]
SUM = [user("2+3?"), call("add", a=2, b=3), tool("5"), answer("It is 5.")]
TWO_TOOLS = [
    user("2+3, 4+5?"),
    call("add", "Let me see.", a=2, b=3),
    tool("5"),
    tool("9"),
    answer("5 and 9."),
    user("Thanks"),
    answer("Sure."),
]


@dataclass(frozen=True)
class Case:
    """A conversation, and by hand the rows that become of it."""

    name: str
    template: str
    messages: list[dict[str, Any]]
    rows: list[str]
    tools: list[Any] | None = None
    arguments: dict[str, Any] = field(default_factory=dict)
    train_on: Any = "all"


_L3 = "<s><|start_header_id|>system<|end_header_id|>\n\nToday Date: 26 Jul 2024\n\n"
_L3U, _L3A = "<|start_header_id|>user<|end_header_id|>\n\n", "<|start_header_id|>assistant<|end_header_id|>\n\n"
_TOOL = '{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}'
_Q = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n".format
_CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 2, "b": 3}}\n</tool_call>'

CASES = [
    Case("chatml", CHATML, TWO, [_Q("Hi there") + "«Hello!<|im_end|>»\n" + _Q("Bye") + "«See you.<|im_end|>»\n"]),
    Case("chatml keeps space", CHATML, SPACED, [_Q("  Hi \n") + "«\n Hello! \n<|im_end|>»\n" + _Q("Bye") + "«  See you.\n\n<|im_end|>»\n"]),
    Case(
        "chatml last",
        CHATML,
        TWO,
        [_Q("Hi there") + "Hello!<|im_end|>\n" + _Q("Bye") + "«See you.<|im_end|>»\n"],
        train_on="last",
    ),
    Case(
        "ends with a question",
        CHATML,
        [*TWO, user("More")],
        [_Q("Hi there") + "«Hello!<|im_end|>»\n" + _Q("Bye") + "«See you.<|im_end|>»\n"],
    ),
    Case(
        "without a prompt the header is the model's",
        NO_PROMPT,
        TWO[:2],
        ["<|im_start|>user\nHi there<|im_end|>\n«<|im_start|>assistant\nHello!<|im_end|>»\n"],
    ),
    Case("llama 2", LLAMA2, TWO, ["<s>[INST] Hi there [/INST]« Hello! </s>»<s>[INST] Bye [/INST]« See you. </s>»"]),
    Case("llama 2 trims", LLAMA2, SPACED, ["<s>[INST] Hi [/INST]« Hello! </s>»<s>[INST] Bye [/INST]« See you. </s>»"]),
    Case(
        "llama 2 system",
        LLAMA2,
        WITH_SYSTEM,
        ["<s>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nHi there [/INST]« Hello! </s>»<s>[INST] Bye [/INST]« See you. </s>»"],
    ),
    Case(
        "llama 3",
        LLAMA3,
        SPACED,
        [f"{_L3}<|eot_id|>{_L3U}Hi<|eot_id|>{_L3A}«Hello!<|eot_id|>»{_L3U}Bye<|eot_id|>{_L3A}«See you.<|eot_id|>»"],
    ),
    Case(
        "llama 3 tools end otherwise",
        LLAMA3,
        [system("Be brief."), *SUM],
        [
            f'{_L3}Be brief.<|eot_id|>{_L3U}2+3?<|eot_id|>{_L3A}«<|python_tag|>{{"name": "add", "parameters": {{"a": 2, "b": 3}}}}<|eom_id|>»'
            f"<|start_header_id|>ipython<|end_header_id|>\n\n5<|eot_id|>{_L3A}«It is 5.<|eot_id|>»"
        ],
        TOOLS,
    ),
    Case("mistral", MISTRAL, TWO, ["<s>[INST] Hi there [/INST]«Hello!</s>»[INST] Bye [/INST]«See you.</s>»"]),
    Case(
        "mistral moves its tools",
        MISTRAL_TOOLS,
        [*SUM, user("Bye"), answer("See you.")],
        [
            f'<s>[AVAILABLE_TOOLS] [{_TOOL}][/AVAILABLE_TOOLS][INST] 2+3?[/INST]«[TOOL_CALLS] [{{"name": "add", "arguments": {{"a": 2, "b": 3}}}}]</s>»'
            "[TOOL_RESULTS] 5[/TOOL_RESULTS]« It is 5.</s>»",
            '<s>[INST] 2+3?[/INST][TOOL_CALLS] [{"name": "add", "arguments": {"a": 2, "b": 3}}]</s>[TOOL_RESULTS] 5[/TOOL_RESULTS] It is 5.</s>'
            f"[AVAILABLE_TOOLS] [{_TOOL}][/AVAILABLE_TOOLS][INST] Bye[/INST]« See you.</s>»",
        ],
        TOOLS,
    ),
    Case(
        "gemma",
        GEMMA,
        SPACED,
        [
            "<s><start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\n«Hello!<end_of_turn>»\n"
            "<start_of_turn>user\nBye<end_of_turn>\n<start_of_turn>model\n«See you.<end_of_turn>»\n"
        ],
    ),
    Case(
        "qwen 2 has a system message of its own",
        QWEN2,
        TWO[:2],
        ["<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n" + _Q("Hi there") + "«Hello!<|im_end|>»\n"],
    ),
    Case("qwen 2 system", QWEN2, WITH_SYSTEM[:3], ["<|im_start|>system\nBe brief.<|im_end|>\n" + _Q("Hi there") + "«Hello!<|im_end|>»\n"]),
    Case(
        "qwen 2 tools",
        QWEN2,
        TWO_TOOLS,
        [
            f"<|im_start|>system\nYou are a helpful assistant.\n\n# Tools\n<tools>\n{_TOOL}\n</tools><|im_end|>\n"
            + _Q("2+3, 4+5?")
            + f"«Let me see.\n{_CALL}<|im_end|>»\n"
            + _Q("\n<tool_response>\n5\n</tool_response>\n<tool_response>\n9\n</tool_response>").replace("user\n\n", "user\n")
            + "«5 and 9.<|im_end|>»\n"
            + _Q("Thanks")
            + "«Sure.<|im_end|>»\n"
        ],
        TOOLS,
    ),
    Case(
        "qwen 3 drops earlier thoughts",
        QWEN3,
        [user("Hi"), answer("<think>\nGreet.\n</think>\n\nHello!"), user("Bye"), answer("See you.", reasoning_content="Part.")],
        [
            _Q("Hi") + "«<think>\nGreet.\n</think>\n\nHello!<|im_end|>»\n",
            _Q("Hi") + "Hello!<|im_end|>\n" + _Q("Bye") + "«<think>\nPart.\n</think>\n\nSee you.<|im_end|>»\n",
        ],
    ),
    Case(
        "qwen 3 without thoughts",
        QWEN3,
        TWO,
        [
            _Q("Hi there") + "<think>\n\n</think>\n\n«Hello!<|im_end|>»\n",
            _Q("Hi there") + "Hello!<|im_end|>\n" + _Q("Bye") + "<think>\n\n</think>\n\n«See you.<|im_end|>»\n",
        ],
        arguments={"enable_thinking": False},
    ),
    Case(
        "zephyr",
        ZEPHYR,
        WITH_SYSTEM,
        [
            "<|system|>\nBe brief.</s>\n<|user|>\nHi there</s>\n<|assistant|>\n«Hello!</s>»\n"
            "<|user|>\nBye</s>\n<|assistant|>\n«See you.</s>»\n"
        ],
    ),
    Case(
        "phi 3",
        PHI3,
        TWO,
        ["<|user|>\nHi there<|end|>\n<|assistant|>\n«Hello!<|end|>»\n<|user|>\nBye<|end|>\n<|assistant|>\n«See you.<|end|>»\n</s>"],
    ),
    Case(
        "harmony",
        HARMONY,
        [user("Hi"), answer("Hello!", thinking="Greet."), user("Bye"), answer("See you.")],
        [
            "<|start|>user<|message|>Hi<|end|><|start|>assistant«<|channel|>analysis<|message|>Greet.<|end|>"
            "<|start|>assistant<|channel|>final<|message|>Hello!<|return|>»",
            "<|start|>user<|message|>Hi<|end|><|start|>assistant<|channel|>analysis<|message|>Greet.<|end|><|start|>assistant"
            "<|channel|>final<|message|>Hello!<|end|><|start|>user<|message|>Bye<|end|><|start|>assistant"
            "«<|channel|>final<|message|>See you.<|return|>»",
        ],
    ),
    Case("generation tags", TAGGED, TWO, [_Q("Hi there") + "«Hello!<|im_end|>»\n" + _Q("Bye") + "«See you.<|im_end|>»\n"]),
    Case(
        "a reminder behind each answer",
        REMINDING,
        TWO,
        [
            _Q("Hi there")
            + "«Hello!<|im_end|>»\n<|im_start|>system\nStay kind.<|im_end|>\n"
            + _Q("Bye")
            + "«See you.<|im_end|>»\n<|im_start|>system\nStay kind.<|im_end|>\n"
        ],
    ),
    Case("words, and a line break ends", WORDS, TWO, ["user: Hi there\nassistant: «Hello!\n»user: Bye\nassistant: «See you.\n»"]),
    Case(
        "an answer that quotes the end of a turn",
        CHATML,
        [user("How?"), answer("Write <|im_end|> there."), user("Bye"), answer("See you.")],
        [_Q("How?") + "«Write <|im_end|> there.<|im_end|>»\n" + _Q("Bye") + "«See you.<|im_end|>»\n"],
    ),
    Case(
        "marks of messages",
        CHATML,
        [user("Hi"), answer("Hello!", train=False), user("Bye"), answer("See you.")],
        [_Q("Hi") + "Hello!<|im_end|>\n" + _Q("Bye") + "«See you.<|im_end|>»\n"],
    ),
    Case(
        "marks count more than the option",
        CHATML,
        [user("Hi"), answer("Hello!", train=True), user("Bye"), answer("See you.", weight=0)],
        [_Q("Hi") + "«Hello!<|im_end|>»\n"],
        train_on="last",
    ),
    Case("nothing is trained", CHATML, [user("Hi"), answer("Hello!", train=False)], []),
    Case(
        "plain",
        "plain",
        WITH_SYSTEM,
        ["System:\nBe brief.\n\nUser:\nHi there\n\nAssistant:\n«Hello!</s>»\nUser:\nBye\n\nAssistant:\n«See you.</s>»\n"],
    ),
    Case("raw", "raw", TWO[:2], ["Hi there«Hello!</s>»"]),
    Case("built-in chatml", "chatml", TWO[:2], [_Q("Hi there") + "«Hello!<|im_end|>»\n"]),
]

SPECIAL = [
    *("<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|eom_id|>"),
    *("<|python_tag|>", "<start_of_turn>", "<end_of_turn>", "<|end|>", "<|start|>", "<|message|>", "<|channel|>", "<|return|>"),
    *("[TOOL_CALLS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]"),
]
_CONFIG = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "</s>"}


def _texts() -> list[str]:
    """Text with many merges, some of which reach over the boundaries of answers: spaces, line breaks, brackets."""
    rows = [row.replace("«", "").replace("»", "") for case in CASES for row in case.rows]
    return [*rows * 4, "]Hello! ]See \n\n\n  Hello \n Hello\n Hello: Hello: See thereHello there" * 8]


@functools.cache
def tokenizer(kind: str) -> Tokenizer:
    """One of the kinds in use.

    Args:
        kind: ``bytes``: no special tokens but the end; ``plain``: byte-level merges, the same; ``special``: all of a chat;
            ``stripping``: special tokens that swallow white space behind them (as Phi's do); ``pieces``: spaces as in SentencePiece.
    """
    models, pre, decoders = tokenizers.models, tokenizers.pre_tokenizers, tokenizers.decoders
    if kind == "pieces":
        backend = tokenizers.Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
        normal = tokenizers.normalizers
        backend.normalizer = normal.Sequence([normal.Prepend("\u2581"), normal.Replace(" ", "\u2581")])
        backend.decoder = decoders.Sequence(
            [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        )
        trainer = tokenizers.trainers.BpeTrainer(vocab_size=700, special_tokens=["<unk>", *SPECIAL], show_progress=False)
    else:
        backend = tokenizers.Tokenizer(models.BPE())
        backend.pre_tokenizer = pre.ByteLevel(add_prefix_space=False, use_regex=kind != "special")
        backend.decoder = decoders.ByteLevel()
        ends = [tokenizers.AddedToken(text, special=True, rstrip=kind == "stripping") for text in SPECIAL]
        trainer = tokenizers.trainers.BpeTrainer(
            vocab_size=257 if kind == "bytes" else 900,
            special_tokens=ends if kind in ("special", "stripping") else ["<s>", "</s>"],
            initial_alphabet=pre.ByteLevel.alphabet(),
            show_progress=False,
        )
    # Real vocabularies of pieces have no line breaks in them: these are bytes.
    backend.train_from_iterator([text.replace("\n", " ") if kind == "pieces" else text for text in _texts()], trainer=trainer)
    if kind == "pieces":
        content = json.loads(backend.to_str())
        vocabulary = content["model"]["vocab"]
        vocabulary.update({f"<0x{byte:02X}>": len(vocabulary) + byte for byte in range(256)})
        backend = tokenizers.Tokenizer.from_str(json.dumps(content))
    return Tokenizer(backend, dict(_CONFIG))


KINDS = ("bytes", "plain", "special", "stripping", "pieces")
