"""The specification's examples of configuration in code, as printed, with the package's name changed."""

import dataclasses
import os
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal, Optional

import pytest
import torch

from ironloom import BaseTrainerConfig, DreamTrainerConfig, callbacks
from ironloom.configs import BaseConfig, CheckpointParameters, DeviceParameters, TrainingParameters, WandBParameters


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    """No launcher, no devices that can be counted."""
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


@dataclass
class GPT2Config(BaseTrainerConfig):
    """Configuration for GPT-2 training with full type safety."""

    # Model architecture - with type hints and validation
    model_size: Literal["small", "medium", "large", "xl"] = "medium"
    num_layers: int = 24
    hidden_size: int = 1024
    num_heads: int = 16

    # Training hyperparameters
    learning_rate: float = 3e-4  # Scientific notation preserved
    dropout: float = 0.1
    use_flash_attention: bool = True  # Clear boolean type

    def __post_init__(self):
        """Validate configuration consistency."""
        # Ensure model size matches architecture
        size_configs = {
            "small": (12, 768, 12),
            "medium": (24, 1024, 16),
            "large": (36, 1280, 20),
            "xl": (48, 1600, 25),
        }

        expected = size_configs[self.model_size]
        if (self.num_layers, self.hidden_size, self.num_heads) != expected:
            print(f"Warning: Custom architecture differs from {self.model_size}")


def test_a_dataclass_of_the_users_checks_its_own_fields(capsys):
    config = GPT2Config(
        model_size="medium",  # IDE shows valid options
        learning_rate=3e-4,  # Type-checked as float
        use_flash_attention=True,  # Clear boolean, not string
    )
    assert config.num_layers == 24
    assert capsys.readouterr().out == ""
    # IDE provides autocomplete and catches errors
    with pytest.raises(ValueError, match="learning_rate: expected a number, found 'high'"):
        config.learning_rate = "high"  # Type error caught immediately
    assert config.learning_rate == 3e-4
    with pytest.raises(ValueError, match="model_size: expected one of 'small', 'medium', 'large' or 'xl', found 'huge'"):
        GPT2Config(model_size="huge")


def test_factories_are_values(capsys):
    def create_optimizer_config(model_size: str):
        """Factory function for optimizer configs based on model size."""
        base_lr = {"small": 6e-4, "medium": 3e-4, "large": 2.5e-4}
        return partial(torch.optim.AdamW, lr=base_lr.get(model_size, 3e-4), betas=(0.9, 0.95), weight_decay=0.1)

    # Use in configuration
    config = GPT2Config(model_size="large", optimizer=create_optimizer_config("large"))
    assert config.optimizer.keywords["lr"] == 2.5e-4
    assert capsys.readouterr().out == "Warning: Custom architecture differs from large\n"
    with pytest.raises(ValueError, match="optimizer: expected"):
        config.optimizer = "adamw"


@dataclass
class DataConfig(BaseConfig):
    """Dynamically configured data settings."""

    # Paths can be computed at runtime
    data_root: Path = Path(os.environ.get("DATA_ROOT", "./data"))

    # Conditional configuration
    batch_size: int = field(default_factory=lambda: 32 if torch.cuda.device_count() <= 4 else 64)

    # Computed properties
    @property
    def train_path(self) -> Path:
        return self.data_root / "train"

    @property
    def val_path(self) -> Path:
        return self.data_root / "validation"


def test_defaults_are_computed_and_properties_follow():
    assert DataConfig().batch_size in (32, 64)
    assert DataConfig(data_root=Path("x")).val_path == Path("x/validation")
    with pytest.raises(ValueError, match=r"batch_size: expected a whole number, found 3\.5"):
        DataConfig(batch_size=3.5)


# Base configuration for all experiments
@dataclass
class BaseExperimentConfig(DreamTrainerConfig):
    project: str = "gpt2-experiments"
    learning_rate: float = 3e-4
    weight_decay: float = 0.1
    warmup_steps: int = 1000


# Specific experiment configurations
@dataclass
class SmallModelConfig(BaseExperimentConfig):
    """Config for debugging on small model."""

    model_size: str = "small"
    batch_size: int = 8
    learning_rate: float = 6e-4  # Override base


@dataclass
class ProductionConfig(BaseExperimentConfig):
    """Config for production training."""

    model_size: str = "large"
    batch_size: int = 256
    compile_model: bool = True
    enable_mixed_precision: bool = True


def test_configurations_are_inherited():
    small, production = SmallModelConfig(), ProductionConfig(experiment="first")
    assert (small.project, small.learning_rate, small.warmup_steps) == ("gpt2-experiments", 6e-4, 1000)
    assert (production.learning_rate, production.batch_size, production.experiment) == (3e-4, 256, "first")
    assert dataclasses.replace(small, batch_size=16).batch_size == 16
    with pytest.raises(ValueError, match=r"batch_sze: unknown key of SmallModelConfig \(did you mean 'batch_size'\?\)"):
        SmallModelConfig(batch_sze=3)


@dataclass
class ValidatedConfig(BaseConfig):
    """Configuration with built-in validation and documentation."""

    learning_rate: float = 3e-4
    """Learning rate for AdamW optimizer.
    Typically 3e-4 for small models, 2e-4 for large."""

    gradient_clip: float = 1.0
    """Gradient clipping value. Set to 0 to disable."""

    def __post_init__(self):
        """Validate configuration values."""
        if not 0 < self.learning_rate < 1:
            raise ValueError(f"Invalid learning rate: {self.learning_rate}")

        if self.gradient_clip < 0:
            raise ValueError("Gradient clip must be non-negative")


def test_validation_in_post_init():
    assert ValidatedConfig().gradient_clip == 1.0
    with pytest.raises(ValueError, match="Invalid learning rate: 3"):
        ValidatedConfig(learning_rate=3.0)
    with pytest.raises(ValueError, match="Gradient clip must be non-negative"):
        ValidatedConfig(gradient_clip=-1.0)


class LlamaModel:
    def __init__(self, num_heads, rope_theta):
        pass


@pytest.mark.parametrize("debug", [False, True])
def test_the_llama_example(debug, monkeypatch):
    """The printed ``[...].filter(None)`` cannot run: Python's lists have no ``filter``. The collection's own does the same."""
    DEBUG = debug
    StudentTrainerConfig = DreamTrainerConfig

    def calculate_grad_accum_steps():
        return 4

    monkeypatch.setattr(callbacks, "LoggerCallback", callbacks.JsonLogger)  # its package is optional
    config = StudentTrainerConfig(
        # Project metadata
        project="llama3-training",
        group="baseline",
        # Model configuration using factories
        model=partial(LlamaModel, num_heads=32, rope_theta=10_000),
        # Device configuration with helper methods
        device_parameters=DeviceParameters.FSDP(
            tensor_parallel=4,
            compile_model=True,
        ),
        # Training configuration with validation
        training_parameters=TrainingParameters(
            n_epochs=10,
            train_batch_size=32,
            gradient_accumulation_steps=calculate_grad_accum_steps(),
        ),
        # Composable callbacks
        callbacks=callbacks.CallbackCollection(
            [
                callbacks.LoggerCallback(code_dir="../"),
                callbacks.CheckpointCallback(monitor="val_loss", mode="min"),
                callbacks.ProfileCallback() if DEBUG else None,  # Conditional
            ]
        ).filter(None),  # Remove None values
    )
    assert len(config.callbacks) == 2 + debug
    assert config.device_parameters.tensor_parallel == 4
    assert config.device_parameters.dp_shard == "auto"
    assert config.training_parameters.gradient_accumulation_steps == 4
    with pytest.raises(AttributeError):
        [None].filter(None)


def test_from_file(tmp_path):
    (tmp_path / "config.py").write_text(
        "from ironloom import DreamTrainerConfig\nconfig = DreamTrainerConfig(project='p', seed=3)\nmodel = config.model\n"
    )
    config = DreamTrainerConfig.from_file(tmp_path / "config.py")
    assert (config.project, config.seed) == ("p", 3)
    with pytest.raises(ValueError, match="looked for an object of GPT2Config"):
        GPT2Config.from_file(tmp_path / "config.py")


def test_the_basic_example():
    config = DreamTrainerConfig(project="my-project", group="experiments", experiment="run-001")
    assert (config.project, config.group, config.experiment) == ("my-project", "experiments", "run-001")


def test_device_parameters():
    device_params = DeviceParameters(
        # Distributed training
        data_parallel_size=1,
        tensor_parallel_size=1,
        pipeline_parallel_size=1,
        context_parallel_size=1,
        # Performance
        compile_model=True,
        param_dtype=torch.bfloat16,
        activation_dtype=torch.bfloat16,
        # Memory optimization
        checkpoint_activations=False,
        offload_optimizer=False,
        offload_parameters=False,
    )
    assert device_params.param_dtype == "bfloat16"
    with pytest.raises(ValueError, match="param_dtype: expected one of"):
        device_params.param_dtype = torch.int8


def test_training_parameters():
    training_params = TrainingParameters(
        # Basic training
        n_epochs=10,
        train_batch_size=32,
        val_batch_size=32,
        # Optimization
        gradient_clip_val=1.0,
        gradient_accumulation_steps=1,
        max_grad_norm=1.0,
        # Validation
        val_frequency=0.5,
        num_sanity_val_steps=2,
        # Learning rate
        learning_rate=1e-4,
        weight_decay=0.01,
        warmup_steps=1000,
    )
    assert training_params.max_grad_norm == training_params.gradient_clip_val == 1.0
    assert (training_params.val_frequency, training_params.warmup_steps) == (0.5, 1000)


def test_checkpoint_parameters():
    checkpoint_params = CheckpointParameters(
        # Basic settings
        root_dir="./checkpoints",
        monitor="val_loss",
        mode="min",
        # Checkpoint frequency
        checkpoint_every_n_epochs=1,
        checkpoint_every_n_steps=None,
        # Checkpoint management
        keep_top_k=3,
        save_last=True,
        # Resume settings
        resume_mode="latest",  # or "best"
        resume_path=None,
    )
    assert (checkpoint_params.keep_top_k, checkpoint_params.resume_mode) == (3, "latest")


def test_wandb_parameters():
    wandb_params = WandBParameters(
        # Basic settings
        project="my-project",
        entity="my-team",
        # Experiment info
        tags=["experiment", "classification"],
        notes="Initial baseline run",
        # Logging settings
        log_model=True,
        log_artifacts=True,
        log_code=True,
    )
    assert wandb_params.enabled and wandb_params.log_code and wandb_params.tags == ["experiment", "classification"]


class CustomConfig(BaseConfig):
    def __init__(self, custom_param: str, **kwargs):
        super().__init__(**kwargs)
        self.custom_param = custom_param


class ExtendedConfig(DreamTrainerConfig):
    def __init__(self, new_param: int, **kwargs):
        super().__init__(**kwargs)
        self.new_param = new_param


def test_plain_classes_hand_their_keywords_on():
    assert CustomConfig("x").custom_param == "x"
    extended = ExtendedConfig(new_param=3, project="p", seed=1)
    assert (extended.new_param, extended.project, extended.seed) == (3, "p", 1)
    with pytest.raises(ValueError, match=r"projct: unknown key of ExtendedConfig \(did you mean 'project'\?\)"):
        ExtendedConfig(new_param=3, projct="p")
    with pytest.raises(ValueError, match="seed: expected a whole number"):
        ExtendedConfig(new_param=3, seed="one")
    with pytest.raises(ValueError, match=r"new_parm: unknown key of ExtendedConfig \(did you mean 'new_param'\?\)"):
        extended.new_parm = 4


class HookedConfig(BaseConfig):
    """``ValidatedConfig`` of the section on validation."""

    def __init__(self, required_param: str, optional_param: Optional[int] = None, **kwargs):  # noqa: UP045 - as printed
        super().__init__(**kwargs)
        self.required_param = required_param
        self.optional_param = optional_param

    def validate(self):
        if not self.required_param:
            raise ValueError("required_param cannot be empty")
        if self.optional_param is not None and self.optional_param < 0:
            raise ValueError("optional_param must be non-negative")


def test_validate_is_called():
    assert HookedConfig("x").optional_param is None
    with pytest.raises(ValueError, match="required_param cannot be empty"):
        HookedConfig("")
    with pytest.raises(ValueError, match="optional_param must be non-negative"):
        HookedConfig("x", optional_param=-1)


def test_these_raise_errors(monkeypatch):
    """The printed batch size is wrong only for a data-parallel size, so it is refused where both are known."""
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(ValueError, match=r"total devices \(6\) must match the available processes \(4\)"):
        DeviceParameters(data_parallel_size=3, tensor_parallel_size=2)
    with pytest.raises(ValueError, match="train_batch_size: batch size 7 must be divisible by the data-parallel size 4"):
        DreamTrainerConfig(training_parameters=TrainingParameters(train_batch_size=7))
    monkeypatch.delenv("WORLD_SIZE")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3")
    with pytest.raises(ValueError, match=r"total devices \(6\) must match available GPUs \(4\)"):
        DeviceParameters(data_parallel_size=3, tensor_parallel_size=2)
