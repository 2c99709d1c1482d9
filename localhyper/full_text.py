"""Words of a question as a full-text query of SQLite's FTS5. Knows no table."""

from __future__ import annotations

import re

MOST_WORDS = 50


def any_word(text: str) -> str:
    """What matches rows that hold any word of a text; empty where it has none."""
    words = list(dict.fromkeys(re.findall(r"\w+", text.casefold())))[:MOST_WORDS]
    return " OR ".join(f'"{word}"' for word in words)
