"""What can be said of Python targets without importing them."""

from ironloom.config.static.modules import NotFoundError, is_module
from ironloom.config.static.signatures import Signature, signature

__all__ = ["NotFoundError", "Signature", "is_module", "signature"]
