"""Entry of the reader process: one request on stdin, one answer on stdout, then the end.

Started by `child.py` with `python -I`; a stranger's file is parsed here and nowhere else. It knows no path: the file
comes as bytes.
"""

from __future__ import annotations

import os
import sys

from localhyper.errors import SourceError
from localhyper.sources.confinement import confine
from localhyper.sources.frames import Answer, Request, pack_answer, read_request


def main() -> None:
    """Read one request, answer it, leave without running any library's clean-up."""
    sys.setrecursionlimit(_RECURSION)
    answer_fd = hide_standard_output()
    request = read_request(sys.stdin.buffer)
    confine(request.limits)
    frame = pack_answer(answer(request, sys.stdin.buffer.read(request.limits.file_bytes + 1)))
    while frame:
        frame = frame[os.write(answer_fd, frame) :]
    os._exit(0)


def answer(request: Request, data: bytes) -> Answer:
    """The document in `data`, or the one line that says why there is none."""
    from localhyper.sources.formats import extract

    try:
        found = extract(data, request)
    except SourceError as error:
        return Answer(message=error.message, hint=error.hint)
    except MemoryError:
        size = request.limits.memory_bytes // (1024 * 1024)
        return Answer(message=f"{request.name}: reading it takes more than {size} MiB of memory", hint=_SPLIT_HINT)
    except RecursionError:
        return Answer(message=f"{request.name}: nested too deeply to be read", hint=_SAVE_HINT)
    except Exception as error:  # a parser's own error on a damaged file: one line, whatever its class
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        return Answer(message=f"{request.name}: damaged or not what its name says ({reason})", hint=_SAVE_HINT)
    return found


_RECURSION = 10_000  # calls; documents nest deeper than programs, and the parsers' own bounds are lower
_SPLIT_HINT = "split the document into smaller files"
_SAVE_HINT = "open it in its own program, save it again, or export it as plain text"


def hide_standard_output() -> int:
    """Keep the answer pipe for ourselves; what a library prints goes nowhere. Returns the pipe's descriptor."""
    answer_fd = os.dup(1)
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.close(null)
    if sys.platform == "win32":
        import msvcrt

        msvcrt.setmode(answer_fd, os.O_BINARY)
    return answer_fd


if __name__ == "__main__":
    main()
