"""The terminal app. Importing this package brings no textual and nothing native; `localhyper.tui.app` does."""

from __future__ import annotations
