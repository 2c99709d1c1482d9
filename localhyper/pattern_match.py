"""A stranger's regular expressions, matched where they can do no harm: in a child process with a clock.

A few characters can keep Python's matcher busy for ever, and nothing in the same process could stop it. Names with
dots, which is what most files have, are matched here at once.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Sequence

SECONDS = 5.0
MAX_PATTERNS = 1 << 11
MAX_PATTERN = 1000
_PLAIN = re.compile(r"[\w.]+", re.ASCII)
_CHILD = """
import json, re, sys
try:
    import resource
    for kind, bound in ((resource.RLIMIT_AS, 1 << 29), (resource.RLIMIT_CPU, 10), (resource.RLIMIT_CORE, 0)):
        resource.setrlimit(kind, (bound, bound))
except (ImportError, OSError, ValueError):
    pass
patterns, names = json.load(sys.stdin)
json.dump([[bool(re.match(pattern, name)) for name in names] for pattern in patterns], sys.stdout)
"""


class PatternError(Exception):
    """A pattern that is no regular expression, or that takes for ever; the text says which."""


def match_table(patterns: Sequence[str], names: Sequence[str], form: str) -> list[list[bool]]:
    r"""For each pattern and each name, whether `re.match` finds the pattern in it.

    Args:
        patterns: Regular expressions of a stranger.
        names: What they are matched against; ours.
        form: What each pattern is set into, `{}` where it goes, such as `(?:{})\Z`.

    Raises:
        PatternError: Too many, too long, no regular expressions, or no answer in `SECONDS`.
    """
    if len(patterns) > MAX_PATTERNS:
        raise PatternError(f"{len(patterns)} patterns, more than {MAX_PATTERNS}")
    long = next((pattern for pattern in patterns if len(pattern) > MAX_PATTERN), None)
    if long is not None:
        raise PatternError(f"a pattern of {len(long)} characters, more than {MAX_PATTERN}")
    wrapped = [form.replace("{}", pattern) for pattern in patterns]
    if all(_PLAIN.fullmatch(pattern) for pattern in patterns):
        return [[bool(matcher.match(name)) for name in names] for matcher in map(re.compile, wrapped)]
    return _in_child(wrapped, names)


def _in_child(patterns: Sequence[str], names: Sequence[str]) -> list[list[bool]]:
    command = [sys.executable, "-I", "-S", "-c", _CHILD]
    given = json.dumps([list(patterns), list(names)])
    try:
        done = subprocess.run(
            command, input=given, capture_output=True, text=True, timeout=SECONDS, check=False, encoding="utf-8"
        )
    except subprocess.TimeoutExpired:
        raise PatternError(f"patterns that take longer than {SECONDS:g} seconds") from None
    if done.returncode:
        raise PatternError("a pattern that is no regular expression")
    table: list[list[bool]] = json.loads(done.stdout)
    return table
