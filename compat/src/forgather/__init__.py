"""The import name ``forgather``: everything in it is Ironloom's."""

from ironloom_compat import forward

forward(__name__)
