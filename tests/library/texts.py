"""What the configurations of these tests have in common."""


def small_template(layers: int, eval_samples: int, seed: int, *further: str) -> str:
    """A template up to its optimizer: bytes of ``text.txt``, a small decoder; ``further`` settings of it."""
    shape = ", ".join((f"num_layers: {layers}", "d_model: 32, d_ffn: 64, num_attention_heads: 2, head_dim: 16, max_seq_len: 32", *further))
    return f"""
-- extends 'trainers/trainer.yaml'
-- block data_definition
    !singleton:ironloom.data:PretrainData@data
        {{train_datasets: [text.txt], splits: [0.9, 0.1, 0.0], tokenizer_type: byte, vocab_name_or_path: null, vocab_size: null,
         seq_length: 32, eval_samples: {eval_samples}, test_samples: 100}}
-- endblock data_definition
-- block model_definition
    !partial:ironloom.models:build_decoder
        config: !singleton:ironloom.settings:ModelConfig
            {{{shape}, precision: float32, tokenizer_type: byte, vocab_name_or_path: null}}
        vocab_size: !singleton:ironloom.config.targets:attribute [*tokenizer, vocab_size]
        eos_token_id: !singleton:ironloom.config.targets:attribute [*tokenizer, eos_token_id]
        init_std: 0.02
        seed: {seed}
-- endblock model_definition
"""
