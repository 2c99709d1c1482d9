"""Numbers and spans as people read them, and texts that may not steer a terminal. Knows no widget."""

from __future__ import annotations

import re
import shlex
from datetime import UTC, datetime
from pathlib import Path

from localhyper.progress import Progress

# Control characters but tab and line feed, lone surrogates, and the marks that turn the reading order round.
_STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def size_text(size_bytes: int) -> str:
    """A file size for people: `98 MB`, `1.4 GB`."""
    if size_bytes >= 1e9:
        return f"{size_bytes / 1e9:.1f} GB"
    return f"{size_bytes / 1e6:.0f} MB" if size_bytes >= 1e6 else f"{size_bytes / 1e3:.0f} kB"


def share_text(progress: Progress) -> str:
    """How far a load or download is: ` 12.5%`, empty while nobody knows."""
    return f" {100 * progress.done / progress.total:.1f}%" if progress.total else ""


def day_text(iso: str, now: datetime | None = None) -> str:
    """A stored time for lists: the hour today, else the day."""
    try:
        moment = datetime.fromisoformat(iso).astimezone()
    except ValueError:
        return iso[:10]
    today = (now or datetime.now(UTC)).astimezone().date()
    return moment.strftime("%H:%M") if moment.date() == today else moment.strftime("%Y-%m-%d")


def plain(text: str) -> str:
    """A stranger's text on one line, without characters that steer a terminal or change the reading order."""
    return _STEERING.sub("�", " ".join(text.split()))


def visible(text: str) -> str:
    """A stranger's text as it is, but for characters that steer a terminal or change the reading order.

    Textual hands escape sequences in a text on to the terminal, so whatever a model, a document or a clipboard says
    goes through here or through `plain` before it is shown.
    """
    return _STEERING.sub("�", text)


def home_text(path: Path | str) -> str:
    """A path with the home folder as `~`, to fit on a line."""
    text, home = str(path), str(Path.home())
    return "~" + text[len(home) :] if home != "/" and (text == home or text.startswith(home + "/")) else text


def dropped_paths(text: str) -> tuple[Path, ...]:
    """Files and folders that a pasted or dropped text names, as terminals and file managers write them.

    Quotes, backslashes before blanks, `file://` addresses, `~`, several on one or more lines. Empty unless every part
    of the text names something that exists.
    """
    found: list[Path] = []
    for line in text.strip().splitlines():
        whole = _existing(line.strip())
        if whole is not None:
            found.append(whole)
            continue
        try:
            parts = [_existing(word) for word in shlex.split(line)]
        except ValueError:  # an unclosed quote
            return ()
        if not parts or None in parts:
            return ()
        found += [part for part in parts if part is not None]
    return tuple(found)


def as_path(text: str) -> Path:
    """One typed or pasted path, without its quotes, backslashes and `file://`; need not exist."""
    words = text.strip()
    try:
        split = shlex.split(words)
    except ValueError:
        split = [words]
    if len(split) == 1 and not Path(words).expanduser().exists():
        words = split[0]
    return Path(_local(words)).expanduser()


def _existing(word: str) -> Path | None:
    try:
        path = Path(_local(word)).expanduser()
        is_path = word.startswith(("/", "~", ".", "file://")) or path.is_absolute()
        return path if word and is_path and path.exists() else None
    except (OSError, ValueError, RuntimeError):
        return None


def _local(word: str) -> str:
    from urllib.parse import unquote, urlsplit

    if not word.startswith("file://"):
        return word
    try:
        return unquote(urlsplit(word).path)
    except ValueError:
        return word
