"""All that is known of one adapter, as text. Knows no widget."""

from __future__ import annotations

from localhyper.library import AdapterInfo

from .words import day_text, home_text, plain, size_text, visible

MAX_TASK = 2000  # characters of a description that are shown


def details(info: AdapterInfo, fits: str, task: str = "") -> list[tuple[str, str]]:
    """Labels and values of what is known: an imported adapter has no text, and may have no hypernetwork.

    `task` is the whole description of a task, where it is longer than the title.
    """
    is_task = info.kind == "task"
    rows = [
        ("name", plain(info.name)),
        ("task", _task(task or info.title) if is_task else ""),
        ("source", "" if is_task else f"{plain(info.title)} ({plain(info.kind)})"),
        ("from", plain(home_text(info.origin)) if info.origin else "" if info.kind in ("merge", "task") else "a text"),
        ("text sha256", plain(info.document_sha256)),
        ("tokens", f"{info.tokens:,} in {info.chunks:,} chunk{'s' if info.chunks != 1 else ''}" if info.tokens else ""),
        ("rank", f"{info.rank}, {info.energy_kept:.2%} of the energy kept" if info.whole_made else ""),
        ("chunks", _chunk_adapters(info) if info.chunk_files else ""),
        ("fits", fits),
        ("base", f"{plain(info.base_name)} ({info.base_fingerprint[:16]}…)"),
        ("hypernetwork", f"{plain(info.hypernet_name)} ({info.hypernet_sha256[:16]}…)" if info.hypernet_name else ""),
        ("made", day_text(info.made_at)),
        ("file", _file(info)),
        *((_label(note), plain(note)) for note in info.notes),
    ]
    return [(label, value) for label, value in rows if value]


def _file(info: AdapterInfo) -> str:
    """Where its own file is."""
    if not info.whole_made:
        return "made when it is first exported or merged" + ("" if info.usable else "; its chunks are MISSING")
    return f"{plain(home_text(info.path))}, {size_text(info.size_bytes)}" + ("" if info.usable else ": MISSING")


def _chunk_adapters(info: AdapterInfo) -> str:
    if info.chunks == 1:
        return f"one, and an overview ({size_text(info.chunk_bytes)}) that says what it is about"
    return f"an adapter of each, {size_text(info.chunk_bytes)}; a question is answered by the one it is about"


def _task(text: str) -> str:
    """A description with its lines, as far as there is room for one."""
    shown = visible(text.strip())
    return shown if len(shown) <= MAX_TASK else f"{shown[:MAX_TASK]}…"


def _label(note: str) -> str:
    """Notes tell what was left out of a document, or where an adapter without one comes from."""
    return "note" if note.startswith(("imported from", "merged from", "made for")) else "left out"
