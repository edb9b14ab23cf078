"""Models of ``transformers`` as built-in decoders and back. Nothing is announced before ``transformers`` itself gave the same logits."""

from ironloom.models.convert.exporting import export_model
from ironloom.models.convert.importing import import_model

__all__ = ["export_model", "import_model"]
