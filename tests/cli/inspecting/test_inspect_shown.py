"""What ``ironloom data inspect`` shows: a page, JSON and the terminal show what the data hold, and do not obey it."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from cli.inspecting.corpora import MODEL, WORDS, chats, write
from ironloom.cli import main

HOSTILE = "<script>alert('x')</script><img src=x onerror=alert(1)>&amp;\x1b]0;owned\x07\x1b[31mred\u202eevil\x9b2J\r\n"


class Page(HTMLParser):
    """Tags, attributes and text of a page; every element that is not void is closed."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.text = ""
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        if tag not in ("meta", "td"):
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_a_hostile_document_does_nothing_in_page_and_terminal(tmp_path: Path, inspect: Any) -> None:
    write(tmp_path / "a.jsonl", [HOSTILE, HOSTILE, "fine"])
    write(tmp_path / "b.jsonl", [HOSTILE])
    datasets = f"train_datasets: [{tmp_path}/a.jsonl], eval_datasets: [{{dataset_path: {tmp_path}/b.jsonl, name: '<b>bold'}}]"
    code, _, out = inspect(datasets, "--html", str(tmp_path / "page.html"))
    assert code == 3
    text = (tmp_path / "page.html").read_text()
    page = Page(text)
    assert page.tags.isdisjoint({"script", "img", "b", "link"}) and not any(name.startswith("on") for name in page.attributes)
    assert page.attributes.isdisjoint({"src", "href"})
    assert "<script>alert('x')</script>" in page.text
    assert "light dark" in text
    for shown in (text, out):
        assert set(re.findall(r"[^\n -~]", shown)) <= {"\ufffd"}  # a row may cut a character
        assert r"\x1b[31mred\u202eevil\x9b2J\r" in shown
    (tmp_path / "b.jsonl").write_text(json.dumps({"<script>\x1b[2J": 1}))
    _, _, out = inspect(datasets, "--html", str(tmp_path / "page.html"))
    assert "script" not in Page((tmp_path / "page.html").read_text()).tags
    assert "\x1b" not in out and r"<script>\x1b[2J" in out


def test_json_and_html_can_be_printed_in_place_of_the_report(tmp_path: Path, inspect: Any, capsys: Any) -> None:
    write(tmp_path / "a.jsonl", WORDS)
    datasets = f"train_datasets: [{tmp_path}/a.jsonl], splits: [1.0, 0.0, 0.0]"
    inspect(datasets)
    found = {}
    for option in ("--json", "--html"):
        with pytest.raises(SystemExit) as end:
            main(["data", "inspect", str(tmp_path / "run.yaml"), option, "-"])
        assert end.value.code == 0
        found[option] = capsys.readouterr().out
    assert json.loads(found["--json"]) == json.loads((tmp_path / "report.json").read_text())
    assert found["--html"].startswith("<!DOCTYPE html>")
    with pytest.raises(SystemExit) as end:
        main(["data", "inspect", str(tmp_path / "run.yaml"), "--html", "-", "--json", "-"])
    assert end.value.code == 2
    with pytest.raises(SystemExit) as end:
        main(["data", "inspect", str(tmp_path / "run.yaml"), "--html", str(tmp_path / "a.jsonl" / "x.html")])
    assert end.value.code == 4


@pytest.mark.parametrize("plain", [True, False])
def test_a_terminal_gets_colours_unless_they_are_not_wanted(tmp_path: Path, plain: bool) -> None:
    chats(tmp_path / "a.jsonl", [("Q\x1b[5m", "An answer"), ("R", "Another")])
    datasets = f"train_datasets: [{tmp_path}/a.jsonl], task_type: sft, chat_template: plain, splits: [1.0, 0.0, 0.0]"
    (tmp_path / "run.yaml").write_text(f"{MODEL.replace('LENGTH', '96')}data: {{{datasets}}}\n")
    environment = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR", "COLORTERM")}
    environment |= {"TERM": "xterm-256color", "COLUMNS": "200"} | ({"NO_COLOR": "1"} if plain else {})
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "ironloom", "data", "inspect", str(tmp_path / "run.yaml")]
    process = subprocess.Popen(command, env=environment, stdout=theirs, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL)
    os.close(theirs)
    out = b""
    try:
        while chunk := os.read(ours, 65536):
            out += chunk
    except OSError:  # the other end is closed
        pass
    error = process.communicate(timeout=60)[1]
    assert process.returncode == 0, error
    os.close(ours)
    assert (b"\x1b[32m" in out) != plain  # green
    assert b"\x1b[5m" not in out and rb"\x1b[5m" in out


@pytest.mark.slow
def test_an_interruption_ends_it_without_a_trace_and_costs_nothing(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", [f"document {number} has some words " * 12 for number in range(20_000)])
    datasets = f"train_datasets: [{tmp_path}/a.jsonl], splits: [1.0, 0.0, 0.0]"
    (tmp_path / "run.yaml").write_text(f"{MODEL.replace('LENGTH', '32')}data: {{{datasets}}}\n")
    command = [sys.executable, "-m", "ironloom", "data", "inspect", str(tmp_path / "run.yaml"), "--json", str(tmp_path / "report.json")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while process.poll() is None and not list((tmp_path / "cache").rglob("journal.jsonl")):
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    assert "Traceback" not in err
    assert not (tmp_path / "report.json").exists()
    again = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert again.returncode == 0
    assert json.loads((tmp_path / "report.json").read_text())["stores"]["training"]["documents"] == 20_000
