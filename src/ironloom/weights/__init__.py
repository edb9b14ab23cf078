"""Model weights on disk: safetensors in the Hugging Face layout, written whole, read strictly. No pickle.

The lowest room that imports torch beside ``device``: models are saved and loaded by it, and so are checkpoints.
"""

from ironloom.weights.layout import INDEX, SINGLE, load_weights, save_weights

__all__ = ["INDEX", "SINGLE", "load_weights", "save_weights"]
