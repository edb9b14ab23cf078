"""Rules of the settings in code: what is refused, other names, copies, what is checked when."""

import copy
import dataclasses
import pickle
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import pytest

from ironloom import configs
from ironloom.configs import BaseConfig, CheckpointParameters, DeviceParameters, DreamTrainerConfig, TrainingParameters
from ironloom.errors import ConfigError
from ironloom.settings.base import field_names
from ironloom.settings.dream import world

if TYPE_CHECKING:
    from nowhere import Unknown


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    """No launcher, no devices that can be counted."""
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


SIZES = ("dp_replicate", "dp_shard", "tensor_parallel", "context_parallel", "pipeline_parallel")


@pytest.mark.parametrize(
    ("made", "sizes"),
    [
        (DeviceParameters(), ("auto", 1, 1, 1, 1)),
        (DeviceParameters.SINGLE_DEVICE(), (1, 1, 1, 1, 1)),
        (DeviceParameters.DDP(compile_model=False), ("auto", 1, 1, 1, 1)),
        (DeviceParameters.FSDP(), (1, "auto", 1, 1, 1)),
        (DeviceParameters.FSDP(tensor_parallel=4, compile_model=True), (1, "auto", 4, 1, 1)),
        (DeviceParameters.FSDP("auto", 8), (1, 8, "auto", 1, 1)),
        (DeviceParameters.HSDP(dp_shard=2), ("auto", 2, 1, 1, 1)),
        (DeviceParameters.HSDP(2, tensor_parallel=4, pipeline_parallel_size=2), ("auto", 2, 4, 1, 2)),
        (DeviceParameters(_dp_shard=4, _dp_replicate=2, _tensor_parallel=2, _context_parallel=3, _pipeline_parallel=5), (2, 4, 2, 3, 5)),
    ],
)
def test_constructors_give_the_sizes_that_they_name(made, sizes):
    assert tuple(getattr(made, name) for name in SIZES) == sizes
    assert tuple(getattr(made, f"_{name}") for name in SIZES) == sizes


def test_the_helpers_take_every_further_field():
    options = {"compile_model": True, "compiled_autograd": True, "activation_memory_budget": 0.5}
    helper = DeviceParameters.FSDP(cpu_offload=True, checkpoint_activations=True, **options)
    assert helper.offload_parameters and helper.cpu_offload and helper.checkpoint_activations and helper.activation_memory_budget == 0.5
    assert DeviceParameters.FSDP(async_tensor_parallel=True, compile_model=True).async_tensor_parallel
    with pytest.raises(ConfigError, match=r"compil_model: unknown key of DeviceParameters \(did you mean 'compile_model'\?\)"):
        DeviceParameters.DDP(compil_model=True)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"tensor_parallel_size": 0}, "tensor_parallel_size: expected a number of at least 1 or one of 'auto', found 0"),
        ({"tensor_parallel_size": "auto"}, "at most one size can be 'auto', found dp_replicate and tensor_parallel_size"),
        ({"data_parallel_size": 4, "dp_shard": "auto"}, "at most one size can be 'auto', found dp_replicate and dp_shard"),
        ({"data_parallel_size": 4, "dp_shard": 3}, "4 is not dp_replicate auto x dp_shard 3"),
        ({"data_parallel_size": 4, "dp_shard": 2, "dp_replicate": 4}, "4 is not dp_replicate 4 x dp_shard 2"),
        ({"force_fsdp": True, "force_ddp": True}, "exclude each other"),
        ({"async_tensor_parallel": True}, "set compile_model"),
        ({"_dp_shard": 2, "dp_shard": 4}, "_dp_shard 2 and dp_shard 4 are one setting with two values"),
        ({"activation_memory_budget": 1.5}, "at most 1"),
        ({"param_dtype": "bfloat61"}, "did you mean 'bfloat16'?"),
        ({"comm": 3}, "comm: expected"),
    ],
)
def test_devices_that_cannot_be_are_refused(arguments, said):
    with pytest.raises(ConfigError) as caught:
        DeviceParameters(**arguments)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("world_size", "arguments", "ranks"),
    [
        (8, {}, 8),
        (8, {"tensor_parallel_size": 4}, 2),
        (8, {"dp_shard": 2, "tensor_parallel_size": 2}, 4),
        (8, {"dp_shard": "auto", "dp_replicate": 2}, 8),
        (6, {"data_parallel_size": 3, "tensor_parallel_size": 2}, 3),
        (None, {}, None),
        (None, {"dp_replicate": 2, "dp_shard": 3}, 6),
    ],
)
def test_the_data_parallel_size_is_what_the_others_leave(monkeypatch, world_size, arguments, ranks):
    if world_size:
        monkeypatch.setenv("WORLD_SIZE", str(world_size))
    assert DeviceParameters(**arguments).data_parallel() == ranks


@pytest.mark.parametrize("arguments", [{"dp_replicate": 1}, {"dp_shard": 3}, {"data_parallel_size": 16}])
def test_the_product_must_be_the_number_of_processes(monkeypatch, arguments):
    DeviceParameters(**arguments)
    monkeypatch.setenv("WORLD_SIZE", "8")
    with pytest.raises(ConfigError, match=r"must match the available processes \(8\)"):
        DeviceParameters(**arguments)


def test_devices_are_counted_without_a_launcher(monkeypatch, tmp_path):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,3")
    assert world.visible_devices() == 2
    assert DeviceParameters(data_parallel_size=2).data_parallel() == 2
    with pytest.raises(ConfigError, match=r"total devices \(4\) must match available GPUs \(2\)"):
        DeviceParameters.FSDP(tensor_parallel=4)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert world.visible_devices() is None
    monkeypatch.setenv("WORLD_SIZE", "nonsense")
    assert world.world_size() is None


def test_one_setting_with_two_names_has_one_value():
    assert TrainingParameters(max_grad_norm=0.5).gradient_clip_val == 0.5
    parameters = TrainingParameters()
    parameters.max_grad_norm = 0.25
    assert parameters.gradient_clip_val == parameters.max_grad_norm == 0.25
    with pytest.raises(ConfigError, match=r"gradient_clip_val 1\.0 and max_grad_norm 2\.0 are one setting with two values"):
        TrainingParameters(gradient_clip_val=1.0, max_grad_norm=2.0)
    assert parameters.replace(max_grad_norm=3.0).gradient_clip_val == 3.0


@pytest.mark.parametrize(
    ("cls", "arguments", "said"),
    [
        (TrainingParameters, {"n_epochs": 0}, "n_epochs: expected a number of at least 1, found 0"),
        (TrainingParameters, {"learning_rate": float("nan")}, "learning_rate: expected a finite number"),
        (TrainingParameters, {"val_frequency": 1.0, "val_every_n_steps": 3}, "say the same thing twice"),
        (TrainingParameters, {"learning_rate": 1e-4, "min_lr": 1e-3}, "0.001 is more than learning_rate 0.0001"),
        (TrainingParameters, {"n_epochs": 2, "train_steps_per_epoch": 3, "warmup_steps": 7}, "longer than the run of 6"),
        (TrainingParameters, {"n_epochs": True}, "n_epochs: expected a whole number, found True"),
        (CheckpointParameters, {"checkpoint_every_n_epochs": 1, "checkpoint_every_n_steps": 2}, "exclude each other"),
        (CheckpointParameters, {"checkpoint_every_n_train_epochs": 1, "checkpoint_every_n_val_epochs": 2}, "exclude each other"),
        (CheckpointParameters, {"resume_mode": "min", "mode": "max"}, "'min' contradicts mode 'max'"),
        (CheckpointParameters, {"resume_mode": "newest"}, "resume_mode: expected one of"),
        (CheckpointParameters, {"monitor": "train/loss"}, "is not a metric of the validation"),
        (CheckpointParameters, {"keep_top_k": -2}, "at least -1"),
    ],
)
def test_values_that_cannot_be_are_refused(cls, arguments, said):
    with pytest.raises(ConfigError) as caught:
        cls(**arguments)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "ranking"),
    [
        ({}, (None, None)),
        ({"monitor": "val_accuracy", "mode": "max"}, ("val_accuracy", "max")),
        ({"monitor": "val_loss"}, ("val_loss", "min")),
        ({"mode": "max"}, ("val_loss", "max")),
        ({"resume_mode": "best"}, ("val_loss", "min")),
        ({"resume_mode": "max"}, ("val_loss", "max")),
        ({"resume_mode": "last"}, (None, None)),
    ],
)
def test_what_ranks_checkpoints(arguments, ranking):
    parameters = CheckpointParameters(**arguments)
    assert (parameters.monitor, parameters.mode) == ranking
    again = dataclasses.replace(parameters, keep_top_k=3)
    assert (again.monitor, again.mode, again.keep_top_k) == (*ranking, 3)


@dataclass
class Mine(DreamTrainerConfig):
    width: int = 3
    kind: Literal["a", "b"] = "a"
    odd: "Unknown" = None  # cannot be resolved at run time
    area: int = dataclasses.field(default=0, init=False)

    def __post_init__(self):
        self.area = self.width**2
        self.further = "x"


def test_copies_keep_everything():
    config = Mine(width=4, seed=7)
    for other in (
        copy.copy(config),
        copy.deepcopy(config),
        pickle.loads(pickle.dumps(config)),
        config.replace(),
        dataclasses.replace(config),
    ):
        assert other is not config and other == config
        assert (other.width, other.seed, other.area, other.further) == (4, 7, 16, "x")
        with pytest.raises(ConfigError):
            other.width = "x"
    assert config.replace(width=5).area == 25
    assert config.area == 16
    assert config.to_dict()["training_parameters"]["train_batch_size"] == 8


def test_annotations_that_cannot_be_resolved_leave_the_others_checked():
    assert Mine(odd=object()).width == 3
    with pytest.raises(ConfigError, match="kind: expected one of 'a' or 'b', found 'c'"):
        Mine(kind="c")


def test_plain_classes_are_replaced_too():
    class Plain(BaseConfig):
        size: int

        def __init__(self, size: int, **kwargs: Any):
            super().__init__(**kwargs)
            self.size = size

        def validate(self):
            if self.size > 9:
                raise ValueError("too large")

    plain = Plain(3)
    assert plain.replace(size=4).size == 4 and plain.size == 3
    with pytest.raises(ValueError, match="too large"):
        plain.replace(size=10)
    with pytest.raises(ConfigError, match="size: expected a whole number, found 'x'"):
        Plain("x")
    with pytest.raises(ConfigError, match="other: unknown key of Plain"):
        Plain(3, other=1)


def test_everything_that_can_be_written_has_one_line_of_documentation():
    classes = [getattr(configs, name) for name in configs.__all__]
    own = [cls for cls in classes if isinstance(cls, type) and issubclass(cls, BaseConfig)]
    assert len(own) >= 9
    for cls in own:
        for field in dataclasses.fields(cls):
            assert field.metadata["doc"].endswith("."), (cls, field.name)
        assert not set(cls.OTHER_NAMES) & set(field_names(cls))
        assert set(cls.OTHER_NAMES.values()) <= set(field_names(cls))
