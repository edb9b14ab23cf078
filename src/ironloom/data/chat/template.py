"""Chat templates: conversations to text, as transformers renders them, without importing it.

A template is somebody else's program: it runs in Jinja's sandbox and sees nothing but plain data.
"""

from __future__ import annotations

import datetime
import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xxhash

from ironloom.errors import ConfigError, DataError

if TYPE_CHECKING:
    from jinja2 import Template

    from ironloom.data.tokenizer import Tokenizer

Message = Mapping[str, Any]
"""A turn of a conversation: ``role``, ``content`` and whatever else a template reads, such as ``tool_calls``."""

BUILT_IN = Path(__file__).parents[2] / "library" / "chat"
DAY = datetime.datetime(2024, 7, 26)
"""What prepared data take for today where a template writes the date: else they would be others on each day."""

_REASONING = ("reasoning_content", "thinking", "reasoning")


class ChatTemplate:
    """The template of a tokenizer, or another one, with what it is given besides the conversation.

    Args:
        text: The template.
        tokens: Texts of the special tokens by name (``bos_token`` ...).
        arguments: Further variables, such as ``enable_thinking``.
        text_with_tools: Another template for conversations with tools; None for the same one.

    Raises:
        ConfigError: If it is no Jinja template.
    """

    def __init__(
        self,
        text: str,
        tokens: Mapping[str, str],
        arguments: Mapping[str, Any] | None = None,
        text_with_tools: str | None = None,
    ):
        self.text = text
        self._text_with_tools = text_with_tools or text
        self._variables = {**tokens, **(arguments or {})}
        for each in (self.text, self._text_with_tools):
            _compiled(each)

    @classmethod
    def of(cls, tokenizer: Tokenizer, template: str | None = None, arguments: Mapping[str, Any] | None = None) -> ChatTemplate:
        """The template that a tokenizer comes with, or the one that is named.

        Args:
            tokenizer: Its special tokens are what the template writes.
            template: See :func:`find_template`; None for the tokenizer's own.
            arguments: Further variables.

        Raises:
            ConfigError: If there is none, or it is no Jinja template.
        """
        own = tokenizer.chat_templates
        if template is not None:
            return cls(find_template(template), tokenizer.special_tokens, arguments)
        if "default" not in own:
            raise ConfigError(
                "chat_template: the tokenizer has none: name a file, or one that comes along "
                f"({', '.join(built_in())}; with 'plain' the tokenizer needs no tokens for it)"
            )
        return cls(own["default"], tokenizer.special_tokens, arguments, own.get("tool_use"))

    @property
    def fingerprint(self) -> str:
        """Equal for templates that render every conversation alike."""
        return xxhash.xxh3_128_hexdigest(
            f"{self.text}:{self._text_with_tools}:{json.dumps(self._variables, sort_keys=True, default=str)}".encode()
        )

    def render(
        self,
        messages: Sequence[Message],
        tools: Sequence[Any] | None = None,
        *,
        add_generation_prompt: bool = False,
        now: datetime.datetime = DAY,
    ) -> str:
        """The text of a conversation.

        Args:
            messages: The turns.
            tools: Schemas of the functions that may be called.
            add_generation_prompt: End with what stands in front of an answer.
            now: What the template takes for the time.

        Raises:
            DataError: If the template refuses the conversation, or cannot read it.
        """
        from jinja2 import TemplateError

        try:
            return _compiled(self.text if tools is None else self._text_with_tools).render(
                messages=[_with_reasoning(message) for message in messages],
                tools=None if tools is None else list(tools),
                documents=None,
                add_generation_prompt=add_generation_prompt,
                strftime_now=now.strftime,
                **self._variables,
            )
        except (TemplateError, TypeError, ValueError, KeyError, AttributeError, IndexError, ArithmeticError, RecursionError) as error:
            turns = ", ".join(str(message.get("role")) for message in messages)
            raise DataError(f"the chat template does not take this conversation ({turns}): {error}") from error


def find_template(name: str) -> str:
    """The text of a template that is named by a file, by the name of a built-in one, or is the text itself.

    Raises:
        ConfigError: If there is none.
    """
    if "{{" in name or "{%" in name:
        return name
    path = Path(name).expanduser()
    if path.suffix == "" and name in built_in():
        path = BUILT_IN / f"{name}.jinja"
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"chat_template: {name!r} is neither a file that can be read, nor Jinja, nor one of {', '.join(built_in())}: {error}"
        ) from error


def built_in() -> list[str]:
    """Names of the templates that come along."""
    return sorted(path.stem for path in BUILT_IN.glob("*.jinja"))


def _with_reasoning(message: Message) -> dict[str, Any]:
    """The message, with the reasoning under each name that templates know."""
    reasoning = next((message[name] for name in _REASONING if message.get(name) is not None), None)
    return dict(message) if reasoning is None else {"thinking": reasoning, **message, "reasoning_content": reasoning}


@functools.lru_cache(maxsize=64)
def _compiled(text: str) -> Template:
    """The template, in an environment like that of transformers."""
    import jinja2
    import jinja2.ext
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(jinja2.ext.Extension):
        """The tag that marks what a model writes; what is trained is found without it."""

        tags = {"generation"}

        def parse(self, parser: Any) -> jinja2.nodes.Node:
            line = next(parser.stream).lineno
            return jinja2.nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)

    def refuse(message: str) -> None:
        raise jinja2.TemplateError(message)

    def tojson(value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols])
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = refuse
    try:
        return environment.from_string(text)
    except jinja2.TemplateSyntaxError as error:
        raise ConfigError(f"chat_template: line {error.lineno}: {error.message}") from error
