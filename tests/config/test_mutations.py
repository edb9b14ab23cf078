"""One mistake in a right configuration is found, and a misspelt key is answered with the right one.

A case is a configuration that is right, and what makes wrong ones of it. To add a style: a function like
``mutants.grouped``, and lines in ``CASES``.
"""

import functools
import pathlib
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from config.mutants import Mutant, coded, grouped, templated
from ironloom import config
from ironloom.config.groups import presets
from ironloom.errors import ConfigError
from shipped import CONFIGURATIONS

ROOT = pathlib.Path(__file__).parents[2]
HERE = pathlib.Path(__file__).parent
TEMPLATES = sorted((ROOT / "examples").rglob("templates/configs/*.yaml"))
LIBRARY = sorted((presets.LIBRARY / "model").glob("*.yaml"))
DATA_PRESETS = sorted((presets.LIBRARY / "data").glob("*.yaml"))


@dataclass(frozen=True)
class Case:
    """A configuration without a mistake, and its mutants.

    Attributes:
        source: The file that is changed.
        name: Where it lies beside ``main``.
        mutants: Makes the mutants of its text, with so many misspellings of each key.
        spellings: How many in the quick test.
        main: The text of the configuration that is loaded, if that is another file.
        around: The folder that it needs around it.
        least: How many mutants the quick test has at least; the slow one has 500 of every configuration.
    """

    source: pathlib.Path
    name: str
    mutants: Callable[[str, int], Iterator[Mutant]]
    spellings: int
    main: str = ""
    around: pathlib.Path | None = None
    least: int = 500


def in_groups(text: str, spellings: int, group: str = "") -> Iterator[Mutant]:
    """Mutants of groups, or of a preset of one."""
    return grouped(text, group, spellings)


CASES = {
    "quickstart": Case(ROOT / "examples/quickstart.yaml", "run.yaml", in_groups, 7),
    "quickstart_template": Case(ROOT / "examples/quickstart_template.yaml", "run.yaml", templated, 2, least=60),
    "library_trainer": Case(presets.LIBRARY / "templates/trainers/trainer.yaml", "run.yaml", templated, 2, least=60),
    "quickstart_code": Case(ROOT / "examples/quickstart.py", "run.py", coded, 2, least=60),
    "sft": Case(ROOT / "examples/sft.yaml", "run.yaml", in_groups, 7, least=60),
    "dpo": Case(ROOT / "examples/dpo.yaml", "run.yaml", in_groups, 7, least=60),
    "example": Case(HERE / "groups/example.yaml", "run.yaml", in_groups, 12),
    **{
        path.stem: Case(
            path,
            f"model/{path.name}",
            functools.partial(in_groups, group="model"),
            3,
            f"model: {path.stem}\ndata: {{train_datasets: [python-docs]}}\n",
            least=80,
        )
        for path in LIBRARY
    },
    **{
        path.stem: Case(
            path,
            f"data/{path.name}",
            functools.partial(in_groups, group="data"),
            5,
            f"data: {path.stem}\nmodel: {{preset: gpt2-small, max_seq_len: 2048}}\n",
            least=40,
        )
        for path in DATA_PRESETS
    },
    **{
        f"{path.parts[-4]}-{path.stem}": Case(
            path, str(path.relative_to(ROOT / "examples")), templated, 4, around=ROOT / "examples", least=1
        )
        for path in TEMPLATES
    },
}


def problems(path):
    """Everything that is wrong with a configuration."""
    try:
        return config.check(config.load(path))
    except ConfigError as error:
        return error.problems


def at(problem):
    """File and line of a problem."""
    return (problem.origin.source, problem.origin.line) if problem.origin else None


def test_there_is_a_case_for_every_shipped_configuration():
    without = {"accel_trainer.yaml", "pipeline_trainer.yaml", "base.yaml"}  # they only name another trainer or project
    shipped = {*CONFIGURATIONS, *LIBRARY, *presets.LIBRARY.glob("data/*.yaml")}
    assert {path.name for path in shipped - {case.source for case in CASES.values()}} == without
    assert len(CASES) == len(shipped) - len(without) + 1


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * name.startswith(("distributed-", "pipeline-"))) for name in CASES]
)
def test_mistakes_are_found_and_misspellings_answered(name, tmp_path, monkeypatch):
    case = CASES[name]
    assert judged(name, list(case.mutants(case.source.read_text(encoding="utf-8"), case.spellings)), tmp_path, monkeypatch) >= case.least


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_five_hundred_mistakes_are_found(name, tmp_path, monkeypatch):
    case = CASES[name]
    text, spellings, mutants = case.source.read_text(encoding="utf-8"), case.spellings, []
    while len(mutants) < 500:
        # Drawn again and again, short keys run out of misspellings: each counts once.
        mutants = list({mutant.text: mutant for mutant in case.mutants(text, spellings)}.values())
        spellings *= 2
        assert spellings < 10_000, f"{case.source} has only {len(mutants)} mutants"
    assert judged(name, mutants, tmp_path, monkeypatch) >= 500


def judged(name, mutants, tmp_path, monkeypatch):
    """Have every mutant checked; returns how many there were."""
    monkeypatch.setenv("WORLD_SIZE", "2" if name == "example" else "1")
    case = CASES[name]
    original = case.source.read_text(encoding="utf-8")
    file = tmp_path / case.name
    main = tmp_path / "run.yaml" if case.main else file
    if case.around:
        shutil.copytree(case.around, tmp_path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("output"))
    file.parent.mkdir(exist_ok=True)
    main.write_text(case.main, encoding="utf-8")
    file.write_text(original, encoding="utf-8")
    assert problems(main) == []

    counts, missed, astray, silent = Counter(), [], [], []
    for mutant in mutants:
        file.write_text(mutant.text, encoding="utf-8")
        found = problems(main)
        counts[mutant.kind] += 1
        here = [problem for problem in found if not mutant.line or at(problem) == (str(file), mutant.line)]
        if not found:
            missed.append(f"{mutant.kind}: {mutant.what}")
        elif not here:
            astray.append(f"{mutant.kind}: {mutant.what}: {found[0]}")
        elif mutant.meant and not any(mutant.meant in problem.hint for problem in here):
            silent.append(f"{mutant.what}: {here[0]}")
    total = counts.total()
    assert len(missed) <= 0.01 * total, missed
    assert len(astray) <= 0.01 * total, astray
    assert len(silent) <= 0.05 * (counts["spelling"] + counts["group"]), silent
    return total


def test_five_planted_faults_are_reported_together(tmp_path):
    text = (ROOT / "examples/quickstart.yaml").read_text(encoding="utf-8")
    faults = {
        "  num_layers: 4": "  num_layrs: 4",
        "  ln_type: rmsnorm": "  ln_type: rmsnrom",
        "  warmup_steps: 50": "  warmup_steps: soon",
        "  init_std: 0.02": "  max_lr: 0.02",
        "  micro_batch_size: 8": "  micro_batch_size: 3",
    }
    for right, wrong in faults.items():
        assert text.count(f"{right}\n") == 1
        text = text.replace(f"{right}\n", f"{wrong}\n")
    path = tmp_path / "run.yaml"
    path.write_text(text, encoding="utf-8")
    lines = [text[: text.index(wrong)].count("\n") + 1 for wrong in faults.values()]
    batch = text[: text.index("  train_batch_size")].count("\n") + 1  # the sum is what does not come out
    found = problems(path)
    assert sorted(problem.origin.line for problem in found) == sorted([*lines[:4], batch])
    assert [problem.hint for problem in found] == [
        "did you mean 'num_layers'?",
        "did you mean 'rmsnorm'?",
        "",
        "write it as optim.max_lr",
        "the nearest that are: 6 and 9; or micro_batch_size 2",
    ]
