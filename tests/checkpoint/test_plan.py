"""Who writes what: even shares, only by holders where there are some, the same plan everywhere."""

import json

import pytest
import torch

from ironloom.weights.plan import make_plan


def table(**sizes):
    return {name: ("float32", [size], None) for name, size in sizes.items()}


def test_the_writing_is_spread_evenly_over_those_that_hold_a_tensor():
    plan = make_plan([((0, 1, 2), table(**{f"w{index}": 100 for index in range(9)}))], "model", 10**9, range(3))
    assert [sum(tensor.owner == rank for tensor in plan.tensors) for rank in range(3)] == [3, 3, 3]
    assert list(plan.files) == [f"model-0000{number}-of-00003.safetensors" for number in (1, 2, 3)]
    assert all(tensor.owner == tensor.source for tensor in plan.tensors)
    weight_map = json.loads(plan.index())["weight_map"]
    assert weight_map == {tensor.name: tensor.file for tensor in plan.tensors}
    assert json.loads(plan.index())["metadata"]["total_size"] == 3600


def test_stages_write_what_they_hold():
    plan = make_plan([((0, 1), table(a=10, b=10)), ((2, 3), table(b=10, c=10, d=10))], "model", 10**9, range(4))
    owners = {tensor.name: tensor.owner for tensor in plan.tensors}
    assert owners == {"a": 0, "b": 1, "c": 2, "d": 3}


def test_a_single_writer_gets_what_it_does_not_hold_from_the_first_that_does():
    plan = make_plan([((0, 1), table(a=10)), ((2, 3), table(b=10))], "model", 10**9, [0])
    assert [(tensor.name, tensor.source, tensor.owner, tensor.file) for tensor in plan.tensors] == [
        ("a", 0, 0, "model.safetensors"),
        ("b", 2, 0, "model.safetensors"),
    ]


def test_files_stay_below_the_limit_and_one_larger_tensor_has_its_own():
    plan = make_plan([((0,), table(a=10, b=10, big=50, c=10))], "model", 80, [0])
    assert [[tensor.name for tensor in tensors] for tensors in plan.files.values()] == [["a", "b"], ["big"], ["c"]]


def test_an_alias_belongs_to_the_file_of_its_tensor_unless_somebody_has_it_by_itself():
    tied = table(embed=10) | {"head": ("float32", [10], "embed")}
    plan = make_plan([((0,), tied)], "model", 10**9, [0])
    assert plan.aliases == {"head": "embed"} == plan.header("model.safetensors")
    plan = make_plan([((0,), tied), ((1,), table(head=10))], "model", 10**9, [0, 1])
    assert plan.aliases == {}
    assert [(tensor.name, tensor.source) for tensor in plan.tensors] == [("embed", 0), ("head", 1)]


def test_different_tensors_under_one_name_are_refused():
    with pytest.raises(ValueError, match=r"w is float32 \[3\] on rank 0, but float32 \[4\] on rank 1"):
        make_plan([((0,), table(w=3)), ((1,), table(w=4))], "model", 10**9, [0, 1])


def test_bytes_are_those_of_the_dtype():
    plan = make_plan([((0,), {"w": ("bfloat16", [2, 3], None)})], "model", 10**9, [0])
    assert plan.tensors[0].dtype is torch.bfloat16 and plan.tensors[0].nbytes == 12
