"""How much one source may cost. Knows nothing of formats or processes."""

from __future__ import annotations

from dataclasses import asdict, dataclass

MIB = 1024 * 1024


@dataclass(frozen=True)
class ReadLimits:
    """Bounds on reading; passing one ends in a `SourceError`, never in a crash or a full disk.

    Attributes:
        seconds: Wall-clock time for one file.
        memory_bytes: Address space of the reader process (POSIX).
        file_bytes: Size of one file.
        unpacked_bytes: Sum of the unpacked sizes in a zip container (docx, epub, …).
        text_chars: Characters of text one file may give.
        folder_files: Files taken from one folder.
        folder_chars: Characters of text one folder may give.
    """

    seconds: float = 120.0
    memory_bytes: int = 2048 * MIB
    file_bytes: int = 256 * MIB
    unpacked_bytes: int = 512 * MIB
    text_chars: int = 20_000_000
    folder_files: int = 1000
    folder_chars: int = 20_000_000

    def to_json(self) -> dict[str, float]:
        """The fields as a JSON object."""
        return asdict(self)


DEFAULT_LIMITS = ReadLimits()
