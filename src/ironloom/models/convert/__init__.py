"""Models of ``transformers`` as built-in decoders and back. Nothing is announced before ``transformers`` itself gave the same logits."""

from ironloom.models.convert.exporting import export_model
from ironloom.models.convert.importing import import_model
from ironloom.models.convert.merging import merge_adapter

__all__ = ["export_model", "import_model", "merge_adapter"]
