"""From records to token stores: reading, processes, resuming. The format is ``ironloom.data.store``."""

from ironloom.data.preparation.build import build_store
from ironloom.data.preparation.encoders import TextEncoder
from ironloom.data.preparation.records import Counted, Source

__all__ = ["Counted", "Source", "TextEncoder", "build_store"]
