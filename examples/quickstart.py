"""The quickstart, configured in Python: the run of quickstart.yaml, with every value that it sets said."""

from ironloom import DreamTrainerConfig
from ironloom.configs import CheckpointParameters, DataParameters, DeviceParameters, ModelConfig, TrainingParameters

config = DreamTrainerConfig(
    experiment="quickstart",  # with root_dir, the folder: output/quickstart
    seed=1337,
    model=ModelConfig(
        num_layers=4,
        d_model=256,
        d_ffn=688,
        num_attention_heads=4,
        head_dim=64,
        max_seq_len=256,
        positional_embedding={"type": "rope"},
        ln_type="rmsnorm",
        activation_type="swiglu",
        no_bias=True,
        dropout_embd=0.0,
        dropout_attn=0.0,
        dropout_mlp=0.0,
        tokenizer_type="bbpe",
        vocab_name_or_path=None,  # trained on the corpus
    ),
    data=DataParameters(train_datasets=["python-docs"], splits=[0.95, 0.05, 0.0], vocab_size=4096),
    training_parameters=TrainingParameters(
        n_epochs=1,
        train_steps_per_epoch=400,
        train_batch_size=8,
        learning_rate=2e-3,
        min_lr=2e-4,
        warmup_steps=50,
        weight_decay=0.1,
        val_every_n_steps=100,
        val_steps_per_epoch=4,
        log_every_n_steps=20,
    ),
    checkpoint_parameters=CheckpointParameters(root_dir="output", checkpoint_every_n_steps=200),
    device_parameters=DeviceParameters(param_dtype="bfloat16"),
)
