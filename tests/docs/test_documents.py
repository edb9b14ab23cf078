"""Every command and every example of the documents runs, in the order in which a reader meets it.

Each document has a folder of its own, with a copy of ``examples/``. Fenced blocks mean:

* ``yaml``: written to the file that its first line names; a whole configuration is checked too.
* ``python``: run as a script, of the name that its first line may give.
* ``bash``: each line is a command that succeeds.
* ``console``: lines after ``$ `` are commands, the others what they show; ``^C`` is pressed once a step is shown.
* ``text``: what the block before showed.

What is shown is compared line by line with numbers, units and generated text left out; the lines of the document must be
among those of the command, in their order; ``...`` stands for any. So that this takes seconds, ``SMALL`` is appended to
every ``ironloom train`` of a grouped configuration: the same run with a tiny model and few steps. ``make quickstart``
stands for the command in its recipe; of other targets of make, and of pip, it is checked that they could run.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from ironloom import config
from ironloom.settings.groups import GROUPS

ROOT = Path(__file__).parents[2]
SMALL = (
    "model.num_layers=1 model.d_model=32 model.d_ffn=64 model.num_attention_heads=2 model.head_dim=16 model.max_seq_len=32 "
    "model.precision=float32 data.vocab_size=400 optim.warmup_steps=2 operation.train_steps=20 operation.eval_interval=10 "
    "operation.eval_samples=4 operation.test_samples=4 trainer.log_interval=5 trainer.save_checkpoint_steps=10"
)
#: Long enough to be interrupted.
LONG = "operation.train_steps=100000 operation.eval_interval=100000 trainer.save_checkpoint_steps=100000"
#: How many blocks each document has, so that none is overlooked.
BLOCKS = {
    "README.md": {"console": 3, "text": 2, "bash": 2, "yaml": 2, "python": 2},
    "CONTRIBUTING.md": {"bash": 2, "python": 5},
    "docs/accelerate.md": {"yaml": 1, "bash": 1, "python": 1},
    "docs/callbacks.md": {"python": 2, "text": 2},
    "docs/checkpoints.md": {"bash": 1, "python": 1, "text": 1, "console": 1},
    "docs/code.md": {"python": 2, "bash": 1, "text": 1},
    "docs/commands.md": {"console": 6, "bash": 3, "python": 2},
    "docs/configuration.md": {"yaml": 6, "python": 1, "bash": 3, "console": 4},
    "docs/data.md": {"yaml": 1, "console": 2, "python": 1},
    "docs/distributed.md": {"bash": 1, "yaml": 1, "console": 1},
    "docs/dream.md": {"python": 3, "bash": 1, "text": 2},
    "docs/equality.md": {"bash": 1},
    "docs/fine-tuning.md": {"yaml": 1, "console": 1, "python": 2, "text": 1},
    "docs/scale.md": {"bash": 1},
    "docs/packing.md": {"yaml": 2, "console": 1, "python": 2, "text": 1},
    "docs/optimizers.md": {"yaml": 2, "bash": 1, "console": 1, "python": 1, "text": 1},
    "docs/generate.md": {"python": 3, "bash": 3, "console": 1},
    "docs/mixtures.md": {"yaml": 1, "console": 1, "python": 1, "text": 1},
    "docs/models.md": {"python": 2, "bash": 1, "console": 2, "yaml": 2},
    "docs/exactness.md": {"python": 2, "text": 2},
    "docs/preferences.md": {"yaml": 1, "console": 1, "python": 1},
    "docs/templates.md": {"yaml": 4, "bash": 1, "console": 1},
}
# Those that take the longest.
SLOW = {"docs/models.md", "docs/generate.md", "docs/dream.md"}
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its text, and the line of the document it begins in."""

    language: str
    text: str
    line: int


def blocks_of(document: str) -> list[Block]:
    """The fenced blocks of a document."""
    text = (ROOT / document).read_text(encoding="utf-8")
    return [Block(found[1], found[2], text.count("\n", 0, found.start()) + 1) for found in FENCE.finditer(text)]


def comparable(text: str) -> list[str]:
    """Lines without what differs from run to run: numbers, units of size, widths, generated text."""
    lines = []
    for line in text.splitlines():
        line = re.sub(r"\d[\d,]*(?:\.\d+)?(?:e[+-]?\d+)?", "#", line)
        line = re.sub(r"# (?:B|kB|MB|GB)\b", "# bytes", line)
        line = re.sub(r"\u2500+", "-", line)
        line = re.sub(r".+ \| .+", "text | text", line)
        lines.append(" ".join(line.split()))
    return lines


def assert_shown(expected: str, actual: str, place: str) -> None:
    """The expected lines are among the actual ones, in their order."""
    rest = iter(comparable(actual))
    for line in comparable(expected):
        if line and line != "...":
            assert line in rest, f"{place}: {line!r} was not shown. What was:\n{actual}"


class Reader:
    """Somebody who does everything that a document says, in a folder of its own."""

    def __init__(self, document: str, folder: Path, cache: Path):
        self.document, self.folder = document, folder
        shutil.copytree(ROOT / "examples", folder / "examples")
        tools = Path(sys.executable).parent
        self.environment = {
            **{key: value for key, value in os.environ.items() if key not in ("RANK", "LOCAL_RANK", "WORLD_SIZE")},
            "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}",
            "IRONLOOM_CACHE": str(cache),
            "COLUMNS": "200",
        }
        self.shown = ""

    def read(self, block: Block) -> None:
        """Do what a block says."""
        place = f"{self.document}:{block.line}"
        if block.language == "text":
            assert_shown(block.text, self.shown, place)
        elif block.language == "yaml":
            self._write(block, place)
        elif block.language == "python":
            self.shown = self._python(block)
        else:
            assert block.language in ("bash", "console"), f"{place}: a block of {block.language!r} is not executed"
            self._commands(block, place)

    def _write(self, block: Block, place: str) -> None:
        name = re.match(r"# (\S+\.yaml)\n", block.text)
        assert name, f"{place}: the first line names the file"
        file = self.folder / name[1]
        file.parent.mkdir(exist_ok=True)
        file.write_text(block.text, encoding="utf-8")
        if file.parent.name not in GROUPS:  # else it is a preset, and no configuration by itself
            assert config.check(config.load(file)) == []

    def _python(self, block: Block) -> str:
        name = re.match(r"# (\S+\.py)\n", block.text)
        script = self.folder / (name[1] if name else f"line_{block.line}.py")
        script.write_text(block.text, encoding="utf-8")
        with contextlib.redirect_stdout(io.StringIO()) as shown, contextlib.chdir(self.folder):
            runpy.run_path(str(script), run_name="__main__")
        return shown.getvalue()

    def _commands(self, block: Block, place: str) -> None:
        self.shown = ""
        for command, expected in split_commands(block):
            interrupted = expected.startswith("^C\n")
            shown, code = self._run(command, interrupted)
            fails = "\nerror: " in f"\n{expected}"
            if command.startswith("ironloom diff ") and code == 1:
                code = 0  # they differ, which is no mistake
            assert (code != 0) == fails, f"{place}: {command} ended with {code}:\n{shown}"
            assert "Traceback" not in shown
            assert_shown(expected.removeprefix("^C\n"), shown, place)
            self.shown += shown

    def _run(self, command: str, interrupted: bool) -> tuple[str, int]:
        if command == "make quickstart":
            command = quickstart_recipe()
        elif command.startswith("make "):
            command = f'make -n --no-print-directory -C "{ROOT}" {command.removeprefix("make ")}'
        if re.match(r"ironloom train (?!\S*run\.yaml|\S*\.py)", command):
            command = f"{command} {SMALL} {LONG if interrupted else ''}"
        command = command.replace(".venv/bin/python -m pytest ", f'python -m pytest -p no:cacheprovider --rootdir "{ROOT}" "{ROOT}"/')
        log = self.folder / "shown.log"
        with open(log, "w", encoding="utf-8") as file:
            child = subprocess.Popen(["bash", "-c", f"exec {command}"], cwd=self.folder, env=self.environment, stdout=file, stderr=file)
        if interrupted:
            wait_for_step(child, log)
            child.send_signal(signal.SIGINT)
        code = child.wait(120)
        return log.read_text(encoding="utf-8"), code


def split_commands(block: Block) -> Iterator[tuple[str, str]]:
    """The commands of a block, each with what it shows."""
    if block.language == "bash":
        yield from ((line.partition("  #")[0], "") for line in block.text.splitlines())
        return
    for part in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]:
        command, _, expected = part.partition("\n")
        yield command, expected


def wait_for_step(child: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until a training run has shown its first step."""
    end = time.monotonic() + 60
    while "  loss " not in log.read_text(encoding="utf-8"):
        assert child.poll() is None and time.monotonic() < end, log.read_text(encoding="utf-8")
        time.sleep(0.01)


def quickstart_recipe() -> str:
    """The command of ``make quickstart``, found on the path instead of in ``.venv``."""
    recipe = re.search(r"^quickstart:.*\n\t\$\(BIN\)/(.+)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert recipe, "the Makefile has no quickstart"
    return recipe[1]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def test_every_document_is_known() -> None:
    found = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    with_blocks = {str(path.relative_to(ROOT)) for path in found if "```" in path.read_text(encoding="utf-8")}
    assert with_blocks - {"ARCHITECTURE.md", "CHANGELOG.md"} == set(BLOCKS)


@pytest.mark.xdist_group("documents")
@pytest.mark.parametrize("document", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in BLOCKS])
def test_everything_in_a_document_runs(document: str, tmp_path: Path, cache: Path) -> None:
    blocks = blocks_of(document)
    assert Counter(block.language for block in blocks) == BLOCKS[document]
    reader = Reader(document, tmp_path, cache)
    for block in blocks:
        reader.read(block)


@pytest.mark.parametrize("document", [*BLOCKS, "ARCHITECTURE.md", "CHANGELOG.md", "docs/reference/groups.md"])
def test_links_lead_somewhere(document: str) -> None:
    text = (ROOT / document).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", text):
        assert (ROOT / document).parent.joinpath(target).exists(), f"{document} links to {target}"
    assert text.isascii() or set(re.findall(r"[^\x00-\x7f]", text)) <= set("\u2500\u2502\u250c\u2510\u2514\u2518\u252c\u2534")


def test_the_architecture_names_files_that_exist() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    names = set(re.findall(r"`((?:[a-z_]+/)*[a-z_]+\.py)`", text))
    files = ["/" + path.relative_to(ROOT / "src/ironloom").as_posix() for path in (ROOT / "src/ironloom").rglob("*.py")]
    assert len(names) > 40
    assert [name for name in names if not any(file.endswith(f"/{name}") for file in files)] == []


def test_every_dependency_is_accounted_for() -> None:
    """The table of ARCHITECTURE.md is that of pyproject.toml."""
    table = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8").partition("| package |")[2].partition("\n\n")[0]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needed = {re.match(r"[\w-]+", requirement)[0] for requirement in project["dependencies"]}  # type: ignore[index]
    assert set(re.findall(r"^\| ([\w-]+) \|", table, re.MULTILINE)) == needed


def test_the_readme_names_a_proof_for_every_guarantee() -> None:
    table = (ROOT / "README.md").read_text(encoding="utf-8").partition("| Guarantee | Proof |")[2].partition("\n\n")[0]
    rows = table.strip().splitlines()[1:]
    assert len(rows) == 21
    for row in rows:
        proofs = re.findall(r"\((tests/\S+\.py)\)", row)
        assert proofs, row
        assert all("def test_" in (ROOT / proof).read_text(encoding="utf-8") for proof in proofs)


def test_no_install_may_pull_another_torch() -> None:
    """Whoever installs, in the Makefile, in the workflow or in a document, gives the constraints."""
    installs = 0
    for path in [ROOT / "Makefile", *(ROOT / ".github").rglob("*.yml"), *(ROOT / name for name in BLOCKS), ROOT / ".ci/run"]:
        for line in path.read_text(encoding="utf-8").splitlines():
            for found in re.finditer(r"pip install[^`]*", line):
                installs += 1
                assert "-c constraints.txt" in found[0], f"{path.name}: {line}"
    assert installs >= 2
    assert re.search(r"^torch==", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)


@pytest.mark.parametrize("target", ["quickstart", "test", "test-slow", "check", "equality", "scale", "bench", "clean"])
def test_targets_of_make(target: str, tmp_path: Path) -> None:
    """In a folder with spaces: a first call makes the environment, a second one installs nothing."""
    folder = tmp_path / "a folder"
    folder.mkdir()
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, folder)

    def commands() -> str:
        result = subprocess.run(["make", "-n", target], cwd=folder, capture_output=True, text=True, check=True)
        return result.stdout

    installs = target != "clean"
    assert ("-m venv .venv" in commands()) == installs
    assert ("pip install" in commands()) == installs
    (folder / ".venv").mkdir()
    for stamp in ("made", "installed", "installed-dev", "installed-bench"):
        (folder / ".venv" / stamp).touch()
    assert "pip install" not in commands()
    time.sleep(0.01)
    (folder / "pyproject.toml").touch()
    assert ("pip install" in commands()) == installs


def test_continuous_integration_runs_what_people_run() -> None:
    workflow = (ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8")
    assert re.findall(r"- run: (.+)", workflow) == ["make check", "make test"]
    assert "permissions:\n  contents: read\n" in workflow
    script = (ROOT / ".ci/run").read_text(encoding="utf-8")
    assert re.findall(r"^make .*?(\S+)$", script, re.MULTILINE) == ["check", "test"]
    assert os.access(ROOT / ".ci/run", os.X_OK)


@pytest.fixture
def make_reference() -> dict[str, object]:
    return runpy.run_path(str(ROOT / "tools/make_reference.py"))


def test_the_reference_pages_are_up_to_date(make_reference: dict[str, object]) -> None:
    pages = make_reference["pages"]()  # type: ignore[operator]
    assert len(pages) == 3
    for name, text in pages.items():
        assert (ROOT / "docs/reference" / name).read_text(encoding="utf-8") == text, "run python tools/make_reference.py"


def test_the_reference_names_every_key_of_every_group(make_reference: dict[str, object]) -> None:
    page = (ROOT / "docs/reference/groups.md").read_text(encoding="utf-8")
    for group, schema in GROUPS.items():
        section = re.split(r"^## ", page, flags=re.MULTILINE)[1:][list(GROUPS).index(group)]
        assert section.startswith(f"{group}\n")
        for key in schema.__dataclass_fields__:  # type: ignore[attr-defined]
            assert f"| `{key}` |" in section


def test_the_callbacks_page_shows_the_loop_of_the_source() -> None:
    from ironloom.callbacks import base

    page = (ROOT / "docs/callbacks.md").read_text(encoding="utf-8")
    loop = (base.__doc__ or "").partition("::\n\n")[2].rstrip()
    assert "on_push_begin" in loop
    assert loop in page
