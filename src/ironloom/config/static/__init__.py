"""What can be said of Python targets without importing them."""

from ironloom.config.static.modules import NotFoundError, is_module
from ironloom.config.static.signatures import Signature, constructors, signature

__all__ = ["NotFoundError", "Signature", "constructors", "is_module", "signature"]
