"""The verdict on what ranks tell, without processes."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
from torch.distributed import HashStore

from ironloom.data.loader import Loader
from ironloom.errors import DataError, RankError
from ironloom.parallel.watch import Watch
from ironloom.parallel.watch_diagnose import judge
from ironloom.parallel.watch_errors import is_of_others
from ironloom.parallel.watch_lines import line_of_error, standing_at
from ironloom.parallel.watch_report import Seen


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
    assert verdict.ranks == (1,)


def test_a_phase_may_have_a_patience_of_its_own() -> None:
    assert judge([seen(0, still=11.0, patience=3600.0), seen(1, still=11.0, patience=3600.0)]) is None


def test_a_killed_rank_comes_before_the_errors_that_it_caused() -> None:
    verdict = judge([seen(0, fault=fault("gloo: connection closed", True)), seen(1, exit=-9)])
    assert verdict.ranks == (1,) and "SIGKILL" in verdict.lines[0]


def test_an_error_of_its_own_comes_before_those_of_others() -> None:
    verdict = judge([seen(0, fault=fault("gloo: connection closed", True)), seen(1, fault=fault("the corpus is empty", code=3))])
    assert verdict.ranks == (1,) and verdict.exit_code == 3


def test_what_all_ranks_met_is_told_once() -> None:
    verdict = judge([seen(rank, fault=fault("model.d_model: wrong\nmodel.d_ffn: wrong", code=2)) for rank in range(4)])
    assert verdict.lines == ("model.d_model: wrong", "model.d_ffn: wrong") and verdict.exit_code == 2


def test_victims_alone_wait_for_the_cause_to_show() -> None:
    verdict = judge([seen(0, fault=fault("gloo: connection closed", True), end="failed"), seen(1)])
    assert verdict.settle >= 2


def test_a_rank_that_has_ended_before_the_others() -> None:
    verdict = judge([seen(0, still=11.0), seen(1, end="done", step=6)])
    assert verdict.ranks == (1,) and "has ended" in verdict.lines[0]


def test_a_step_of_another_kind_on_one_rank_is_seen_once_the_others_are_past_it() -> None:
    usual, odd = {"data,forward": [6, 2, "x.py:1 in f"]}, {"data,forward": [5, 2, "x.py:1 in f"], "data": [1, 6, "x.py:9 in f"]}
    assert judge([seen(0, step=6, kinds=usual), seen(1, kinds=odd)]) is None
    verdict = judge([seen(0, step=7, kinds=usual), seen(1, kinds=odd)])
    assert verdict.ranks == (1,) and "x.py:9" in verdict.lines[1]


def test_a_save_that_all_ranks_take_part_in_is_no_oddity() -> None:
    kinds = {"data,forward": [6, 2, "x.py:1 in f"], "data,forward,save": [1, 5, "x.py:2 in f"]}
    assert judge([seen(0, kinds=kinds), seen(1, kinds=kinds)]) is None


def test_the_report_is_short_with_a_thousand_ranks() -> None:
    verdict = judge([seen(rank, still=11.0, inside=rank % 2 == 0, count=20 - rank % 2) for rank in range(1000)])
    assert len(verdict.ranks) == 500 and len(verdict.lines) <= 24


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


def test_a_rank_that_was_aborted_after_an_odd_step_is_told_by_that_step() -> None:
    usual, odd = {"data,forward": [6, 2, "x.py:1 in f"]}, {"data,forward": [5, 2, "x.py:1 in f"], "data": [1, 6, "x.py:9 in f"]}
    verdict = judge([seen(0, step=7, kinds=usual), seen(1, kinds=odd, exit=-6)])
    assert verdict.ranks == (1,) and "left out a part of step 6" in verdict.lines[0]
    verdict = judge([seen(0, step=7, kinds=usual), seen(1, kinds=usual, exit=-6)])
    assert verdict.ranks == (1,) and "SIGABRT" in verdict.lines[0] and "memory" not in verdict.text()


def test_a_mistake_that_all_ranks_make_waits_for_all_to_say_it() -> None:
    one = judge([seen(0, fault=fault("model.d_model: wrong", code=2)), seen(1)])
    assert one.settle >= 2
    both = judge([seen(rank, fault=fault("model.d_model: wrong", code=2)) for rank in (0, 1)])
    assert both.settle < 1


def test_an_error_that_names_a_rank_is_not_about_the_one_that_says_it() -> None:
    verdict = judge([seen(0, fault={**fault("rank 1 of 2 did not start; look at its machine"), "names": True})])
    assert verdict.lines == ("rank 1 of 2 did not start; look at its machine",)


def test_a_lost_connection_is_no_error_of_the_rank_that_met_it() -> None:
    lost = RankError("rank 0 lost the connection to the other processes while saving")
    lost.__cause__ = RuntimeError("Connection closed by peer [127.0.0.1]:1234")
    assert is_of_others(lost) and not is_of_others(RankError("ranks 1 of 2 did not start")) and not is_of_others(ValueError("gloo"))


class Handle:
    """A collective's handle: what is called leaves no frame, as with PyTorch's own."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.lock.acquire()
        self.wait = self.lock.acquire


@pytest.mark.parametrize("waits", [True, False])
def test_waiting_for_the_handle_of_a_collective_is_waiting_for_others(waits: bool) -> None:
    work = Handle()

    def stand() -> None:
        if waits:
            work.wait()
        else:
            work.lock.acquire()

    thread = threading.Thread(target=stand)
    thread.start()
    while not (place := standing_at(thread.ident or 0))["line"].endswith("in stand"):
        time.sleep(0.01)
    work.lock.release()
    thread.join()
    assert place["inside"] is waits


def test_an_error_is_told_by_the_line_that_the_user_wrote() -> None:
    samples = type("Samples", (), {"__len__": lambda self: 4, "__getitem__": lambda self, index: {}["text"]})()
    with pytest.raises(DataError) as caught:
        list(Loader(samples, batch_size=2, collate=list).iterate(0, 0))
    assert line_of_error(caught.value).startswith(f"{__file__}:")
