"""What can be said of Python targets without importing them."""

from ironloom.config.static.modules import NotFoundError
from ironloom.config.static.signatures import Signature, signature

__all__ = ["NotFoundError", "Signature", "signature"]
