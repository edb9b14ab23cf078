"""``ironloom model`` with its real second process, and what it says."""

from __future__ import annotations

import pytest
from transformers import AutoModelForCausalLM

from ironloom.cli import main
from ironloom.models import build_decoder
from models.foreign import make
from models.twins import small


def command(*words: str) -> int:
    with pytest.raises(SystemExit) as end:
        main(["model", *words])
    return int(end.value.code or 0)


def test_an_export_is_proven_in_a_fresh_process(tmp_path, capsys):
    build_decoder(small(), 61).save_pretrained(tmp_path / "mine")
    assert command("export", str(tmp_path / "mine"), "--to", "hf", "--shard-size", "0.00002GB") == 0
    assert "mine-hf: transformers loads it, logits equal (largest difference" in capsys.readouterr().out
    assert len(list((tmp_path / "mine-hf").glob("model-*.safetensors"))) > 1
    AutoModelForCausalLM.from_pretrained(tmp_path / "mine-hf")


@pytest.mark.slow
def test_there_and_back(tmp_path, capsys, monkeypatch):
    make("qwen3", tmp_path / "there")
    monkeypatch.chdir(tmp_path)
    assert command("import", str(tmp_path / "there")) == 0
    assert command("export", "output/there", "-o", "back", "--dtype", "bfloat16") == 0
    out = capsys.readouterr().out
    assert "output/there: logits equal those of" in out
    assert "back: transformers loads it" in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("import", "./nowhere"), "error: there is no folder nowhere"),
        (("import", "here", "--shard-size", "big"), "--shard-size: expected a size such as 500MB or 5GB, found 'big'"),
        (("export", "nowhere"), "there is no folder nowhere"),
        (("export", "here", "--to", "gguf"), "--to: there is no layout 'gguf'"),
        (("export", "here", "--dtype", "int8"), "--dtype: expected float32, bfloat16 or float16, found 'int8'"),
    ],
)
def test_wrong_words_are_told(words, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert command(*words) == 2
    assert message in capsys.readouterr().err


def test_a_name_without_a_network_says_what_to_do(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert command("import", "nobody/nothing", "-o", str(tmp_path / "x")) == 4
    assert "hf download nobody/nothing --local-dir FOLDER" in capsys.readouterr().err
