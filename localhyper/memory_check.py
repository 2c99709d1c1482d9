"""How much memory and how many cores this machine (or this container) has left. Standard library only."""

from __future__ import annotations

import os
from pathlib import Path


def available_memory() -> int | None:
    """Bytes that can be used without swapping; None where the system does not tell."""
    known = [bytes_ for bytes_ in (_meminfo(), _cgroup(), _sysconf()) if bytes_ is not None]
    return min(known, default=None)


def _meminfo() -> int | None:
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        pass
    return None


def _cgroup() -> int | None:
    """What a container may still take: its limit less what it holds beside droppable file pages."""
    root = Path("/sys/fs/cgroup")
    try:
        limit = int((root / "memory.max").read_text(encoding="ascii"))
        used = int((root / "memory.current").read_text(encoding="ascii"))
        stat = dict(line.split() for line in (root / "memory.stat").read_text(encoding="ascii").splitlines())
        return max(0, limit - used + int(stat.get("inactive_file", 0)) + int(stat.get("active_file", 0)))
    except (OSError, ValueError):  # no cgroup v2, or `max` = no limit
        return None


def _sysconf() -> int | None:
    """All physical memory, where free memory cannot be had (macOS): better than no bound."""
    sysconf = getattr(os, "sysconf", None)  # Windows has none
    if _meminfo() is not None or sysconf is None:
        return None
    try:
        return int(sysconf("SC_PHYS_PAGES")) * int(sysconf("SC_PAGE_SIZE"))
    except (OSError, ValueError):
        return None


def physical_cores() -> int:
    """Cores this process may run on, sibling hyperthreads counted once; at least 1."""
    affinity = getattr(os, "sched_getaffinity", None)  # Linux only
    if affinity is None:
        return max(1, os.cpu_count() or 1)
    cores = set()
    for cpu in affinity(0):
        siblings = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        try:
            cores.add(siblings.read_text(encoding="ascii").strip())
        except OSError:
            cores.add(str(cpu))
    return max(1, len(cores))


def thread_counts(threads: int, threads_batch: int) -> tuple[int, int]:
    """Threads for decoding and for prefill; 0 = choose: all physical cores but one, and all."""
    cores = physical_cores()
    return threads or max(1, cores - 1), threads_batch or cores
