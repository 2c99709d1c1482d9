"""Words of a question as a full-text query of SQLite's FTS5. Knows no table."""

from __future__ import annotations

import re
from collections.abc import Collection

MOST_WORDS = 50


def any_word(text: str, without: Collection[str] = ()) -> str:
    """What matches rows that hold any word of a text but some; empty where it has none."""
    words = [word for word in dict.fromkeys(re.findall(r"\w+", text.casefold())) if word not in without][:MOST_WORDS]
    return " OR ".join(f'"{word}"' for word in words)
