"""Finding the configuration in a file, and what is wrong with files."""

import pytest

from ironloom import config
from ironloom.config import code
from ironloom.errors import ConfigError


def arguments(graph):
    return graph.root["trainer_args"].kwargs


def test_the_only_object_is_taken_by_whatever_name(write):
    graph = config.load(write("_base = DreamTrainerConfig(seed=1)\nanything = DreamTrainerConfig(seed=3)\nagain = anything\n"))
    assert arguments(graph)["seed"] == 3


def test_a_function_without_arguments_is_called(write):
    text = """
    def count_config(): return 3
    def my_config(): return DreamTrainerConfig(seed=4)
    """
    path = write(text.replace("count_config", "count"))
    assert arguments(code.load(path))["seed"] == 4
    annotated = "def make() -> DreamTrainerConfig: return DreamTrainerConfig(seed=5)\ndef helper(a): return a\n"
    assert arguments(code.load(write(annotated)))["seed"] == 5
    later = "from __future__ import annotations\n" + "from ironloom.configs import *\n" + annotated
    assert arguments(code.load(_as_written(write, later)))["seed"] == 5


def _as_written(write, text):
    path = write("")
    with open(path, "w") as file:
        file.write(text)
    return path


def test_several_are_listed_and_one_is_picked(write, problems):
    path = write("a = DreamTrainerConfig(seed=1)\nb = DreamTrainerConfig(seed=2)\ndef c(): return DreamTrainerConfig(seed=3)\n")
    assert problems(path) == [f"{path}: there are 2 configurations in the file (pick one: {path}:a, {path}:b)"]
    assert [arguments(config.load(f"{path}:{name}"))["seed"] for name in "abc"] == [1, 2, 3]
    assert problems(f"{path}:d")[0].startswith(f"{path}: there is no 'd' in the file")


def test_a_file_without_one_says_what_was_looked_for(write, problems):
    path = write("class Mine(DreamTrainerConfig): pass\nx = 3\n")
    assert problems(path) == [
        f"{path}: there is no configuration in the file: looked for an object of BaseTrainerConfig, or a function without arguments "
        "that is named or annotated as making one (write config = Mine(...))"
    ]
    assert "'x' is of type int, not BaseTrainerConfig" in problems(f"{path}:x")[0]
    assert arguments(code.load(f"{path}:Mine"))["seed"] == 42  # a class is a function without arguments too
    path = write("def make_config(size): return DreamTrainerConfig()\n")
    assert "'make_config' needs arguments" in problems(f"{path}:make_config")[0]


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("config = DreamTrainerConfig(\n  project='a'\n", 2, "is not valid Python: '(' was never closed"),
        ("x = 1\nimport no_such_module_at_all\n", 3, "ModuleNotFoundError: No module named 'no_such_module_at_all'"),
        ("def f():\n  return 1 / 0\nconfig = f()\n", 3, "ZeroDivisionError: division by zero"),
        ("raise ValueError('the size is wrong')\n", 2, "the size is wrong"),
        ("import sys\nsys.exit(3)\n", 3, "SystemExit: 3"),
        ("def my_config():\n  raise KeyError('k')\n", 3, "KeyError: 'k'"),
        ("config = DreamTrainerConfig(\n  project='a',\n  sed=3,\n)\n", 4, "sed: unknown key of DreamTrainerConfig (did you mean 'seed'?)"),
        ("config = TrainingParameters(\n  n_epochs='3',\n)\n", 3, "n_epochs: expected a whole number, found '3'"),
        ("config = DreamTrainerConfig()\nconfig.seed = 'x'\n", 3, "seed: expected a whole number, found 'x'"),
    ],
)
def test_what_a_file_raises_is_told_with_its_line(write, problems, text, line, said):
    path = write(text)
    (problem,) = problems(path)
    assert problem.startswith(f"{path}:{line}")
    assert said in problem


def test_all_wrong_arguments_of_a_call_are_told_together(write, problems):
    path = write("config = DreamTrainerConfig(\n  sed=3,\n  project=4,\n  training_parameters=None)\n")
    found = problems(path)
    assert [problem.removeprefix(f"{path}:").split(":")[0] for problem in found] == ["3", "4", "5"]


def test_no_such_file(tmp_path, problems, write):
    path = write("config = DreamTrainerConfig()\n")
    assert problems(path.replace("config.py", "confg.py")) == [
        f"{tmp_path}/confg.py: there is no such file (did you mean '{tmp_path}/config.py'?)"
    ]


def test_modules_beside_the_file_are_imported_and_named_by_their_file(write, tmp_path):
    (tmp_path / "parts_of_mine.py").write_text("def make():\n    return None\n")
    graph = code.load(write("import parts_of_mine\nconfig = DreamTrainerConfig(model=parts_of_mine.make)\n"))
    assert graph.root["model"].target == f"{tmp_path}/parts_of_mine.py:make"


def test_a_file_is_executed_anew_by_each_load(write):
    path = write("config = DreamTrainerConfig(seed=1)\n")
    assert arguments(code.load(path))["seed"] == 1
    write("config = DreamTrainerConfig(seed=2)\n")
    assert arguments(code.load(path))["seed"] == 2


def test_nothing_imports_torch(write):
    import subprocess
    import sys

    path = write("from ironloom import callbacks\nconfig = DreamTrainerConfig(callbacks=[callbacks.JsonLogger()])\n")
    program = "import sys; from ironloom import config; config.check(config.load(sys.argv[1])); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", program, path], check=True)


def test_a_live_object_is_no_configuration(write):
    path = write("config = DreamTrainerConfig(model=lambda: None)\n")
    with pytest.raises(ConfigError, match="a lambda, which has no name to be found by"):
        code.load(path)
