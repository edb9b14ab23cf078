"""The import name ``dream_trainer``: everything in it is Ironloom's."""

from ironloom_compat import forward

forward(__name__)
