"""Any state goes through JSON and safetensors unchanged, and nothing in a file runs."""

import copy
import json
import math
import struct
from collections import Counter, OrderedDict, defaultdict, namedtuple
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch.optim import lr_scheduler

from ironloom.checkpoint.tree import load_tree, pack, save_tree, unpack
from ironloom.errors import CheckpointError


def bits(tensor):
    return bytes(tensor.contiguous().untyped_storage()) if tensor.is_contiguous() else bits(tensor.clone())


def same(left, right):
    """Equal in type and in every bit."""
    if type(left) is not type(right):
        return False
    if isinstance(left, torch.Tensor):
        return left.dtype == right.dtype and left.shape == right.shape and bits(left) == bits(right)
    if isinstance(left, (np.ndarray, np.generic)):
        return left.dtype == right.dtype and left.shape == right.shape and left.tobytes() == right.tobytes()
    if isinstance(left, dict):
        return len(left) == len(right) and all(
            same(*keys) and same(*values)
            for keys, values in zip(zip(left, right, strict=True), zip(left.values(), right.values(), strict=True), strict=True)
        )
    if isinstance(left, (list, tuple)):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, float):
        return struct.pack("d", left) == struct.pack("d", right)
    return left == right


def through_files(tree, folder):
    save_tree(tree, folder, "state")
    return load_tree(folder, "state")


DTYPES = [
    torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.uint16, torch.uint32, torch.uint64,
    torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64, torch.complex128,
    torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e8m0fnu,
]  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 0, 4), (2, 3, 4)], ids=str)
def test_tensors_of_every_dtype_and_shape(tmp_path, dtype, shape):
    raw = torch.randint(0, 256, (math.prod(shape) * dtype.itemsize,), dtype=torch.uint8)
    tensor = (raw % 2).bool() if dtype is torch.bool else raw.view(dtype)
    tensor = tensor.reshape(shape)
    assert same(through_files({"a": tensor}, tmp_path), {"a": tensor})


LEAVES = {
    "none": None,
    "true": True,
    "one": 1,
    "negative_zero": -0.0,
    "infinity": float("inf"),
    "nan_with_payload": struct.unpack("d", struct.pack("Q", 0x7FF8000000000123))[0],
    "tiny": 5e-324,
    "third": 1 / 3,
    "huge": 1 << 20_000,
    "complex": complex(-0.0, float("inf")),
    "text": "L\u00f6w\u00e9 \u2603 \0",
    "surrogates": "\ud83d" + "\ude00",
    "bytes": b"\x00\xff",
    "dtype": torch.bfloat16,
    "device": torch.device("cuda", 1),
    "size": torch.Size([2, 3]),
    "array": np.arange(6.0).reshape(2, 3),
    "big_endian": np.arange(3, dtype=">i4"),
    "texts": np.array(["a", "bcd"]),
    "moments": np.array(["2026-01-01"], dtype="datetime64[s]"),
    "array_0d": np.array(1.5, dtype=np.float16),
    "scalar": np.float32(0.1),
    "double": np.float64("nan"),
    "flag": np.bool_(True),
    "empty": {"dict": {}, "list": [], "tuple": (), "set": set(), "array": np.zeros((0, 3))},
    "nested": [(1, [2, (3,)]), {"a": {1: {"b": ()}}}],
    "keys": {1: "int", "1": "text", (1, 2): "tuple", None: 0, False: 1, 2.5: 2, "L\u00f6": 3},
    "marks": {"$": "tuple", "items": [1]},
    "ordered": OrderedDict([("b", 1), ("a", 2)]),
    "set": {1, "a", (2, 3)},
    "frozenset": frozenset({1.5}),
    "clash": {"a.b": torch.zeros(1), "a": {"b": torch.ones(1)}, "__metadata__": torch.ones(2), "": torch.ones(3)},
}


@pytest.mark.parametrize("name", LEAVES)
def test_values_keep_type_and_bits(tmp_path, name):
    assert same(through_files(LEAVES[name], tmp_path), LEAVES[name])


def test_a_tensor_alone_is_a_tree(tmp_path):
    assert same(through_files(torch.ones(2), tmp_path), torch.ones(2))


plain = st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()) | st.binary(max_size=20)
keys = st.integers() | st.text() | st.tuples(st.integers(), st.text()) | st.booleans() | st.none()
arrays = hnp.arrays(hnp.scalar_dtypes(), hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3))
tensors = hnp.arrays(st.sampled_from(["f4", "f8", "i8", "u1", "?"]), hnp.array_shapes(min_dims=0, min_side=0, max_side=3)).map(
    lambda array: torch.from_numpy(np.array(array))
)
trees = st.recursive(
    plain | arrays | tensors,
    lambda children: (
        st.lists(children, max_size=4)
        | st.lists(children, max_size=4).map(tuple)
        | st.dictionaries(keys, children, max_size=4)
        | st.dictionaries(keys, children, max_size=4).map(OrderedDict)
    ),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(tree=trees)
def test_any_tree_survives(tmp_path_factory, tree):
    value, stored = pack(tree)
    assert same(unpack(json.loads(json.dumps(value)), stored), tree)
    assert same(through_files(tree, tmp_path_factory.mktemp("tree")), tree)


def test_views_and_shared_memory_are_stored_by_value(tmp_path):
    base = torch.arange(12.0).reshape(3, 4)
    tree = {
        "base": base, "again": base, "transposed": base.T, "row": base[1], "strided": base[:, ::2],
        "expanded": torch.ones(1).expand(5), "conjugate": torch.tensor([1 + 2j]).conj(), "negative": torch.tensor([1j]).conj().imag,
    }  # fmt: skip
    loaded = through_files(tree, tmp_path)
    for name, tensor in tree.items():
        assert torch.equal(loaded[name], tensor), name
    loaded["base"].zero_()
    assert torch.equal(loaded["again"], base), "what was loaded must not share memory"


def test_parameters_and_gradients_are_stored_as_values(tmp_path):
    loaded = through_files({"p": torch.nn.Parameter(torch.ones(2))}, tmp_path)
    assert same(loaded, {"p": torch.ones(2)})


def test_loaded_tensors_do_not_lie_in_the_file(tmp_path):
    save_tree({"a": torch.ones(1000)}, tmp_path, "state")
    loaded = load_tree(tmp_path, "state")
    with open(tmp_path / "state.safetensors", "r+b") as file:
        file.write(bytes((tmp_path / "state.safetensors").stat().st_size))
    assert loaded["a"].sum() == 1000
    assert loaded["a"].data_ptr() % 64 == 0, "as aligned as a new tensor, so that kernels sum in the same order"


def test_files_follow_the_umask(tmp_path):
    save_tree({"a": torch.ones(1)}, tmp_path, "state")
    modes = {path.stat().st_mode for path in tmp_path.iterdir()}
    (tmp_path / "plain").touch()
    assert modes == {(tmp_path / "plain").stat().st_mode}


def test_no_tensors_no_second_file(tmp_path):
    save_tree({"a": torch.ones(1)}, tmp_path, "state")
    save_tree({"a": 1}, tmp_path, "state")
    assert [path.name for path in tmp_path.iterdir()] == ["state.json"]
    assert load_tree(tmp_path, "state") == {"a": 1}


Point = namedtuple("Point", "x")
REFUSED = {
    "function": (len, "function or class"),
    "object": (object(), "plain data"),
    "defaultdict": (defaultdict(int), "dict(...)"),
    "counter": (Counter("a"), "dict(...)"),
    "namedtuple": (Point(1), "tuple(...)"),
    "path": (Path("a"), "plain data"),
    "objects": (np.array([object()]), "plain data"),
    "records": (np.zeros(1, dtype="f8,i4"), "plain data"),
    "sparse": (torch.eye(2).to_sparse(), "to_dense"),
    "meta": (torch.empty(2, device="meta"), "materialize"),
    "subclass": (torch.ones(1).as_subclass(type("Odd", (torch.Tensor,), {})), "no plain values"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_stored_is_named_with_its_place(name):
    value, advice = REFUSED[name]
    with pytest.raises(TypeError) as error:
        pack({"callbacks": [1, {"x": value}]})
    assert "state['callbacks'][1]['x']" in str(error.value)
    assert advice in str(error.value)


def test_a_tree_that_contains_itself_is_refused():
    tree = {"a": []}
    tree["a"].append(tree)
    with pytest.raises(TypeError, match="contains itself"):
        pack(tree)


def steps(optimizer, parameters, num_steps, schedule=None):
    for number in range(num_steps):

        def closure(number=number):
            optimizer.zero_grad()
            loss = sum(((p - number) ** 2).sum() for p in parameters)
            loss.backward()
            return loss

        optimizer.step(closure)
        if isinstance(schedule, lr_scheduler.ReduceLROnPlateau):
            schedule.step(1.0)
        elif schedule is not None:
            schedule.step()


def new_parameters():
    torch.manual_seed(0)
    return [torch.nn.Parameter(torch.randn(4, 3)), torch.nn.Parameter(torch.randn(()))]


OPTIMIZERS = {
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01),
    "adamw_amsgrad_tensor_lr": lambda p: torch.optim.AdamW(p, lr=torch.tensor(0.01), amsgrad=True),
    "adam_groups": lambda p: torch.optim.Adam([{"params": p[:1], "lr": 0.1}, {"params": p[1:]}], betas=(0.8, 0.9)),
    "sgd_momentum": lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9),
    "adafactor": lambda p: torch.optim.Adafactor(p, lr=0.01),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.5, centered=True),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.01),
    "lbfgs": lambda p: torch.optim.LBFGS(p, lr=0.01, max_iter=3),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers_go_on_bit_for_bit(tmp_path, name):
    through = new_parameters()
    optimizer = OPTIMIZERS[name](through)
    steps(optimizer, through, 3)
    state = optimizer.state_dict()
    loaded = through_files(state, tmp_path)
    assert same(loaded, state)
    resumed = [torch.nn.Parameter(p.detach().clone()) for p in through]
    again = OPTIMIZERS[name](resumed)
    again.load_state_dict(loaded)
    steps(optimizer, through, 2)
    steps(again, resumed, 2)
    assert all(torch.equal(a, b) for a, b in zip(through, resumed, strict=True))


SCHEDULES = {
    "lambda": lambda o: lr_scheduler.LambdaLR(o, lambda step: 0.9**step),
    "cosine": lambda o: lr_scheduler.CosineAnnealingLR(o, T_max=10),
    "one_cycle": lambda o: lr_scheduler.OneCycleLR(o, max_lr=0.1, total_steps=20),
    "plateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, patience=1),
    "sequential": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.LinearLR(o, 0.1, total_iters=2), lr_scheduler.CosineAnnealingLR(o, 10)], milestones=[2]
    ),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_go_on(tmp_path, name):
    parameters = new_parameters()
    optimizer = torch.optim.SGD(parameters, lr=0.01, momentum=0.9)
    schedule = SCHEDULES[name](optimizer)
    steps(optimizer, parameters, 4, schedule)
    state = schedule.state_dict()
    loaded = through_files({"schedule": state, "optimizer": optimizer.state_dict()}, tmp_path)
    assert same(loaded["schedule"], state)
    again_optimizer = torch.optim.SGD(new_parameters(), lr=0.01, momentum=0.9)
    again = SCHEDULES[name](again_optimizer)
    again.load_state_dict(copy.deepcopy(loaded["schedule"]))
    again_optimizer.load_state_dict(loaded["optimizer"])
    steps(optimizer, parameters, 4, schedule)
    steps(again_optimizer, new_parameters(), 4, again)
    assert again_optimizer.param_groups[0]["lr"] == optimizer.param_groups[0]["lr"]


MALFORMED = [
    b"", b"{", b"\xff", b"[]", b"{}", b'{"format": 2, "tree": 1}', b'{"format": 1}', b"[" * 100_000,
    b'{"format": 1, "tree": {"$": "nothing"}}',
    b'{"format": 1, "tree": {"$": ["dict"]}}',
    b'{"format": 1, "tree": {"$": "tuple"}}',
    b'{"format": 1, "tree": {"$": "tuple", "items": 3}}',
    b'{"format": 1, "tree": {"$": "dict", "items": [[[], 1]]}}',
    b'{"format": 1, "tree": {"$": "tensor", "key": "x"}}',
    b'{"format": 1, "num_tensors": 1, "tree": {"$": "tensor", "key": "x"}}',
    b'{"format": 1, "tree": {"$": "dtype", "name": "load"}}',
    b'{"format": 1, "tree": {"$": "scalar", "dtype": "O", "base64": "AAAAAAAAAAA="}}',
    b'{"format": 1, "tree": {"$": "scalar", "dtype": "f8", "base64": ""}}',
    b'{"format": 1, "tree": {"$": "float", "hex": "00"}}',
    b'{"format": 1, "tree": {"$": "bytes", "base64": "x"}}',
    b'{"format": 1, "tree": {"$": "device", "name": "nowhere"}}',
]  # fmt: skip


@pytest.mark.parametrize("data", MALFORMED, ids=range(len(MALFORMED)))
def test_malformed_files_are_an_error_that_names_them(tmp_path, data):
    (tmp_path / "state.json").write_bytes(data)
    with pytest.raises(CheckpointError, match=r"state\.(json|safetensors)"):
        load_tree(tmp_path, "state")


@pytest.mark.parametrize("damage", ["truncated", "missing"])
def test_damaged_tensor_files_are_an_error_that_names_them(tmp_path, damage):
    save_tree({"a": torch.ones(100)}, tmp_path, "state")
    path = tmp_path / "state.safetensors"
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(CheckpointError, match=r"state\.safetensors"):
        load_tree(tmp_path, "state")
