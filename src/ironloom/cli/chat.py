"""``ironloom chat``: a conversation with a trained model, in a terminal or through pipes."""

from __future__ import annotations

import pathlib
import sys
from typing import Annotated

import typer

from ironloom.cli.conversing import Conversation
from ironloom.cli.loading import Device, load, sampling_of, shown
from ironloom.errors import DataError

COMMANDS = """\
/reset          forget what was said; the instruction stays
/system TEXT    begin anew with this instruction; without TEXT, with none
/save FILE      add the conversation to FILE, as a line that fine-tuning reads
/quit           end, as does the end of input (Ctrl-D)
\"\"\"             begins and ends a message of several lines, in which / is no command
Ctrl-C          stops an answer"""
_FENCE = '"""'


def chat(
    path: Annotated[str, typer.Argument(help="A run's output folder, a checkpoint, or any model folder.")],
    chat_template: Annotated[str | None, typer.Option(help="A Jinja file, or plain, chatml, raw; default: the model's own.")] = None,
    system: Annotated[str | None, typer.Option(help="The instruction before the conversation.")] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Tokens of an answer at most.")] = 512,
    temperature: Annotated[float, typer.Option(min=0.0, help="0: always the likeliest token.")] = 0.7,
    top_k: Annotated[int | None, typer.Option(min=1, help="Draw among this many likeliest tokens.")] = None,
    top_p: Annotated[float | None, typer.Option(min=0.0, max=1.0, help="Draw among the likeliest of this probability.")] = None,
    repetition_penalty: Annotated[float, typer.Option(help="Above 1: what was written already is less likely.")] = 1.0,
    seed: Annotated[int, typer.Option(help="The same seed and messages give the same answers.")] = 0,
    device: Device = "auto",
) -> None:
    """Talk with a trained model. Each line is a message; /help lists what else may be typed.

    The conversation is written by the chat template that the model came with. Without a terminal, messages are read from standard
    input and nothing but the answers is written to standard output.

    Example: ironloom chat output/tuned --system "Answer briefly."
    """
    sampling = sampling_of(temperature, top_k, top_p, repetition_penalty)
    conversation = Conversation(load(path, device), chat_template, sampling, max_new_tokens, seed)
    conversation.system = system
    is_terminal = sys.stdin.isatty()
    if is_terminal:
        _note("/help lists what may be typed beside messages")
    while (message := _message(is_terminal)) is not None:
        text, is_quoted = message
        if not text.strip():
            continue
        try:
            if text.startswith("/") and not is_quoted:
                if not _command(conversation, text):
                    break
                continue
            conversation.answer(text, _show, _note)
        except DataError as error:
            _note(f"error: {error}")
            if not is_terminal:
                raise
            continue
        print(flush=True)


def _message(is_terminal: bool) -> tuple[str, bool] | None:
    """The next message and whether it stood between fences; None at the end of input."""
    while True:
        try:
            line = _line("> " if is_terminal else "")
            if line is None or not line.startswith(_FENCE):
                return None if line is None else (line, False)
            lines = [line[len(_FENCE) :]]
            while not lines[-1].rstrip().endswith(_FENCE):
                line = _line(". " if is_terminal else "")
                if line is None:
                    raise DataError(f"the input ended within a message: {_FENCE} is missing")
                lines.append(line)
            return "\n".join(lines).rstrip().removesuffix(_FENCE).strip("\n"), True
        except KeyboardInterrupt:
            if not is_terminal:
                raise
            _note("\n/quit or Ctrl-D ends")


def _line(prompt: str) -> str | None:
    """A line of input; None where there is no more."""
    try:
        return input(prompt) if prompt else input()
    except EOFError:
        return None
    except UnicodeDecodeError as error:
        raise DataError(f"standard input is not UTF-8: {error}") from error


def _command(conversation: Conversation, text: str) -> bool:
    """Do what a line with / says; whether the conversation goes on."""
    name, _, rest = text.strip().partition(" ")
    rest = rest.strip()
    if name == "/quit":
        return False
    if name == "/reset":
        conversation.reset()
    elif name == "/system":
        conversation.reset()
        conversation.system = rest or None
    elif name == "/save" and rest:
        conversation.save(pathlib.Path(rest))
        _note(f"saved in {rest}")
    elif name == "/help":
        _note(COMMANDS)
    else:
        _note(f"{name}: {'expected a file' if name == '/save' else 'there is no such command'}\n{COMMANDS}")
    return True


def _show(part: str) -> None:
    print(shown(part), end="", flush=True)


def _note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
