"""Plain nn.Modules: the built-in decoder, its initialisation, generation and files. Knows no parallelism."""

from ironloom.models.build import build_decoder
from ironloom.models.decoder import CausalLMOutput, Decoder
from ironloom.models.pretrained import load_pretrained

__all__ = ["CausalLMOutput", "Decoder", "build_decoder", "load_pretrained"]
