"""``data prepare`` writes pairs in the format of the reference as what they are there."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from ironloom.cli import main


def test_pairs_are_exported_with_their_types(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IRONLOOM_CACHE", str(tmp_path / "cache"))
    records = [{"prompt": f"Hi {number}", "chosen": "Hello!", "rejected": "Go away."} for number in range(3)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    data = {"task_type": "dpo", "train_datasets": [str(tmp_path / "pairs.jsonl")], "chat_template": "plain", "splits": [1, 0, 0]}
    file = tmp_path / "run.yaml"
    file.write_text(json.dumps({"model": {"tokenizer_type": "byte", "vocab_name_or_path": None}, "data": data}))
    with pytest.raises(SystemExit) as ended:
        main(["data", "prepare", str(file), "--format", "ironcore", "--output", str(tmp_path / "out")])
    assert ended.value.code == 0
    index = np.load(tmp_path / "out/training/dpo/data.idx.npy")
    kinds = index["type"].tolist()
    assert len(kinds) == 6
    assert kinds == kinds[:2] * 3
    assert kinds[0] != kinds[1]
    assert index["group_id"].tolist() == [0, 0, 1, 1, 2, 2]
