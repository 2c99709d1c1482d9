"""What the app keeps between two runs: the question being typed, the adapters that are on, folders last used.

A small JSON file in the state folder. A file that cannot be read or written is no error: the app starts plain.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from localhyper.atomic import write_text_atomic

_DRAFT_CHARS = 100_000
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Memory:
    """What is kept.

    Attributes:
        draft: The question in the box when the app was left.
        attached: Adapters that were on: name to strength.
        source_folder: Where the last document was chosen.
        export_folder: Where the last export went.
    """

    draft: str = ""
    attached: Mapping[str, float] = field(default_factory=dict)
    source_folder: str = ""
    export_folder: str = ""


class Remembered:
    """`Memory` in a file; read once, written at each change by a thread of its own: a disk may take its time."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="localhyper-remembered")
        self.memory = _read(file)

    def update(self, **changes: Any) -> None:
        """Change fields of the memory and have it written, if anything is different."""
        new = replace(self.memory, **changes)
        if new == self.memory:
            return
        self.memory = new
        with contextlib.suppress(RuntimeError):  # closed already: the app is leaving for the second time
            self._writer.submit(self._write, new)

    def close(self) -> None:
        """Wait for what is still to be written."""
        self._writer.shutdown(wait=True)

    def _write(self, memory: Memory) -> None:
        if memory is not self.memory:
            return  # a newer one follows
        try:
            write_text_atomic(self._file, json.dumps(asdict(memory), ensure_ascii=False))
        except (OSError, UnicodeEncodeError) as error:
            _log.warning("%s not written: %s", self._file, error)


def _read(file: Path) -> Memory:
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        texts = {key: str(values.get(key, ""))[:_DRAFT_CHARS] for key in ("draft", "source_folder", "export_folder")}
        attached = {str(name): float(scale) for name, scale in dict(values.get("attached", {})).items()}
        return Memory(attached=attached, **texts)
    except FileNotFoundError:
        return Memory()
    except (OSError, ValueError, TypeError, AttributeError) as error:
        _log.warning("%s is unusable, starting plain: %s", file, error)
        return Memory()
