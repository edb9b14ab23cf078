"""The verdict on what ranks tell, without processes."""

from __future__ import annotations

import time
from typing import Any

from torch.distributed import HashStore

from ironloom.parallel.watch import Watch
from ironloom.parallel.watch_diagnose import Seen, judge


def seen(rank: int, step: int = 7, phase: str = "forward", count: int = 20, **options: Any) -> Seen:
    beat = {"host": "a", "pid": 100 + rank, "count": count, "phase": phase, "step": step, "told": step, "patience": 10.0}
    beat |= {"names": ["data", phase], "kinds": {"data,forward": [step, 2, "x.py:1 in f"]}, "line": f"x.py:{rank} in f", "inside": True}
    known = {name: options.pop(name) for name in ("fault", "end", "exit", "quiet", "still") if name in options}
    return Seen(rank, {**beat, **options}, **known)


def fault(text: str, of_others: bool = False, code: int = 5) -> dict[str, Any]:
    return {"of_others": of_others, "text": text, "line": "y.py:3 in g", "code": code, "phase": "data", "step": 7}


def test_a_run_in_which_ranks_wait_for_less_than_their_patience_is_fine() -> None:
    assert judge([seen(0, still=9.0), seen(1, still=9.0, inside=False)]) is None


def test_who_waits_inside_a_collective_is_a_victim() -> None:
    verdict = judge([seen(0, still=11.0), seen(1, still=11.0, inside=False, phase="data", count=19)])
    assert verdict is not None and verdict.ranks == (1,)


def test_a_phase_may_have_a_patience_of_its_own() -> None:
    assert judge([seen(0, still=11.0, patience=3600.0), seen(1, still=11.0, patience=3600.0)]) is None


def test_a_killed_rank_comes_before_the_errors_that_it_caused() -> None:
    verdict = judge([seen(0, fault=fault("gloo: connection closed", True)), seen(1, exit=-9)])
    assert verdict is not None and verdict.ranks == (1,) and "SIGKILL" in verdict.lines[0]


def test_an_error_of_its_own_comes_before_those_of_others() -> None:
    verdict = judge([seen(0, fault=fault("gloo: connection closed", True)), seen(1, fault=fault("the corpus is empty", code=3))])
    assert verdict is not None and verdict.ranks == (1,) and verdict.exit_code == 3


def test_what_all_ranks_met_is_told_once() -> None:
    verdict = judge([seen(rank, fault=fault("model.d_model: wrong\nmodel.d_ffn: wrong", code=2)) for rank in range(4)])
    assert verdict is not None and verdict.lines == ("model.d_model: wrong", "model.d_ffn: wrong") and verdict.exit_code == 2


def test_victims_alone_wait_for_the_cause_to_show() -> None:
    verdict = judge([seen(0, fault=fault("gloo: connection closed", True), end="failed"), seen(1)])
    assert verdict is not None and verdict.settle >= 2


def test_a_rank_that_has_ended_before_the_others() -> None:
    verdict = judge([seen(0, still=11.0), seen(1, end="done", step=6)])
    assert verdict is not None and verdict.ranks == (1,) and "has ended" in verdict.lines[0]


def test_a_step_of_another_kind_on_one_rank_is_seen_once_the_others_are_past_it() -> None:
    usual, odd = {"data,forward": [6, 2, "x.py:1 in f"]}, {"data,forward": [5, 2, "x.py:1 in f"], "data": [1, 6, "x.py:9 in f"]}
    assert judge([seen(0, step=6, kinds=usual), seen(1, kinds=odd)]) is None
    verdict = judge([seen(0, step=7, kinds=usual), seen(1, kinds=odd)])
    assert verdict is not None and verdict.ranks == (1,) and "x.py:9" in verdict.lines[1]


def test_a_save_that_all_ranks_take_part_in_is_no_oddity() -> None:
    kinds = {"data,forward": [6, 2, "x.py:1 in f"], "data,forward,save": [1, 5, "x.py:2 in f"]}
    assert judge([seen(0, kinds=kinds), seen(1, kinds=kinds)]) is None


def test_the_report_is_short_with_a_thousand_ranks() -> None:
    verdict = judge([seen(rank, still=11.0, inside=rank % 2 == 0, count=20 - rank % 2) for rank in range(1000)])
    assert verdict is not None and len(verdict.ranks) == 500 and len(verdict.lines) <= 24


def test_a_phase_costs_less_than_two_microseconds() -> None:
    watch = Watch(HashStore(), 0, 2, "cost")
    best = min(_seconds(watch) for _ in range(20))
    watch._memory.close()
    assert best < 2e-6, f"{best * 1e6:.2f} microseconds"


def _seconds(watch: Watch) -> float:
    begin = time.perf_counter()
    for step in range(500):
        watch.phase("data", step)
        watch.phase("forward", step)
        watch.phase("optimizer", step)
    return (time.perf_counter() - begin) / 1500
