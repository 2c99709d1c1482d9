"""How long attaches took on this machine, so that the next one can be told beforehand. Knows no model."""

from __future__ import annotations

import statistics

from localhyper.database import Database
from localhyper.library import now

LAST_RUNS = 8


class AttachTimes:
    """Times in the library's database, apart for each pair of base model and hypernetwork."""

    def __init__(self, database: Database) -> None:
        """Use the library's database."""
        self._database = database

    def record(self, base_fingerprint: str, hypernet_sha256: str, chunks: int, seconds: float) -> None:
        """Remember that so many chunks took so long, models in memory."""
        if chunks <= 0 or seconds <= 0:
            return
        with self._database.transaction() as connection:
            connection.execute(
                "INSERT INTO attach_times (base_fingerprint, hypernet_sha256, chunks, seconds, made_at) "
                "VALUES (?, ?, ?, ?, ?)",
                [base_fingerprint, hypernet_sha256, chunks, seconds, now()],
            )

    def expect(self, base_fingerprint: str, hypernet_sha256: str, chunks: int) -> float | None:
        """Seconds that so many chunks will take, by the median of the last runs; None before the first run."""
        with self._database.reading() as connection:
            rows = connection.execute(
                "SELECT seconds / chunks AS each FROM attach_times WHERE base_fingerprint = ? AND hypernet_sha256 = ? "
                "ORDER BY id DESC LIMIT ?",
                [base_fingerprint, hypernet_sha256, LAST_RUNS],
            ).fetchall()
        return chunks * statistics.median(float(row["each"]) for row in rows) if rows else None
