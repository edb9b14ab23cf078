"""Conversations: records, chat templates, and which tokens the model has to produce."""

from ironloom.data.chat.masks import Row
from ironloom.data.chat.render import ChatRenderer, render
from ironloom.data.chat.template import ChatTemplate, find_template

__all__ = ["ChatRenderer", "ChatTemplate", "Row", "find_template", "render"]
