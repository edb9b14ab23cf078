# ruff: noqa: E501  (templates and what they render are easier to read on one line)
"""By hand what each template makes of a conversation, «what is trained» in guillemets, and tokenizers to do it with."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass, field
from typing import Any

import tokenizers

from chat_templates import (
    CHATML,
    COUNTING,
    GEMMA,
    HARMONY,
    LLAMA2,
    LLAMA3,
    MISTRAL,
    MISTRAL_TOOLS,
    NO_PROMPT,
    PHI3,
    QWEN2,
    QWEN3,
    REMINDING,
    TAGGED,
    WORDS,
    ZEPHYR,
)
from chats import SPACED, SUM, TOOLS, TWO, TWO_TOOLS, WITH_SYSTEM, answer, system, user
from ironloom.data.tokenizer import Tokenizer


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
    Case(
        "a reminder that is never the same",
        COUNTING,
        TWO,
        [
            _Q("Hi there")
            + "«Hello!<|im_end|>»\n<|im_start|>system\nThat was 2.<|im_end|>\n"
            + _Q("Bye")
            + "«See you.<|im_end|>»\n<|im_start|>system\nThat was 4.<|im_end|>\n"
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
