"""Copying by the desktop's own clipboard program; knows nothing of terminals.

OSC 52, the terminal's way, is ignored by many terminals without a word, so it comes second (see `app.py`).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence

_TIMEOUT_SECONDS = 3.0


def clipboard_commands(env: Mapping[str, str], platform: str = sys.platform) -> tuple[tuple[str, ...], ...]:
    """Commands worth trying, best first; none over SSH, where they would reach the wrong machine's clipboard."""
    if env.get("SSH_TTY"):
        return ()
    if platform == "darwin":
        return (("pbcopy",),)
    commands: list[tuple[str, ...]] = []
    if env.get("WAYLAND_DISPLAY"):
        commands.append(("wl-copy",))
    if env.get("DISPLAY"):
        commands.append(("xclip", "-selection", "clipboard"))
        commands.append(("xsel", "--clipboard", "--input"))
    return tuple(commands)


def copy_with_program(text: str, commands: Sequence[Sequence[str]] | None = None) -> str | None:
    """Copy `text` with the first program that takes it; returns the program's name, or None if none did."""
    for command in clipboard_commands(os.environ) if commands is None else commands:
        if shutil.which(command[0]) is None:
            continue
        try:
            # The programs fork a keeper that holds on to inherited pipes: give it none to hold.
            subprocess.run(
                command,
                input=text.encode(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                timeout=_TIMEOUT_SECONDS,
                check=True,
            )
        except (OSError, subprocess.SubprocessError):
            continue
        return command[0]
    return None
