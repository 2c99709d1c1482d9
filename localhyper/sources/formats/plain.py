"""Plain text and Markdown: decoded, otherwise as they are."""

from __future__ import annotations

import re

from localhyper.sources.decoding import decode_text
from localhyper.sources.formats.extracted import Extracted
from localhyper.sources.frames import Request

_HEADING = re.compile(r"^#{1,2}\s+(.+?)\s*#*\s*$", re.M)


def read(data: bytes, job: Request) -> Extracted:
    """The text, with a Markdown file's first heading as its title."""
    text = decode_text(data)
    found = _HEADING.search(text[:4000]) if job.name.lower().endswith((".md", ".markdown")) else None
    return Extracted(text=text, title=re.sub(r"[*`_]", "", found.group(1)) if found else "")
