"""Programs that a model might write: right ones pass; endless, greedy and prying ones end in a few words."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from localhyper.errors import Cancelled
from localhyper.evaluate import code_runner
from localhyper.evaluate.code_runner import MAX_PROGRAM_BYTES, cage, run_program
from localhyper.progress import CancelToken
from localhyper.sources.child import run_process

POSIX = pytest.mark.skipif(sys.platform == "win32", reason="the kernel's limits are those of POSIX")
FORGED = '{"passed": true, "reason": "passed", "token": "0"}'


@pytest.fixture(params=["caged", "bare"], autouse=True)
def both_ways(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the namespaces of Linux, where there are any, and as on systems without."""
    if request.param == "bare":
        monkeypatch.setattr(code_runner, "cage", lambda: ())
    elif not cage():
        pytest.skip("this system gives no namespaces to users")


def reason(program: str, seconds: float = 10.0) -> str:
    result = run_program(program, seconds=seconds)
    assert not result.passed and result.reason and "\n" not in result.reason and len(result.reason) < 200
    return result.reason


def test_a_right_program_passes_with_the_usual_libraries() -> None:
    libraries = (
        "math, re, collections, itertools, heapq, random, datetime, typing, hashlib, statistics, fractions, string"
    )
    result = run_program(f"import {libraries}\ndef f(a):\n    return a + 1\nassert f(1) == 2\nprint('done')")
    assert result.passed and result.reason == "passed"


@pytest.mark.parametrize(
    ("program", "wanted"),
    [
        ("assert 1 == 2, 'no'", "AssertionError: no"),
        ("def f(:", "SyntaxError"),
        ("import sys\nsys.exit(0)", "SystemExit: 0"),
        ("import os\nos._exit(0)", "ends without an answer (exit 0)"),
        ("input()", "EOFError"),
        ("class E(Exception):\n    def __str__(self):\n        raise E\nraise E", "E"),
        ("raise ValueError('\\ud800')", "ValueError: ?"),
        ("class E(Exception):\n    def __str__(self):\n        return 'a' * 10**8\nraise E", "E: aaa"),
        ("x" * (MAX_PROGRAM_BYTES + 1), "too long"),
    ],
)
def test_a_wrong_program_says_why(program: str, wanted: str) -> None:
    assert reason(program).startswith(wanted)


@pytest.mark.parametrize(
    "program",
    [
        "while True: pass",
        "import time\ntime.sleep(100)",
        "while True: print('x' * 10**6)",
        "import sys\nwhile True: sys.stderr.write('x' * 10**6)",
        "import signal\nfor name in ('SIGXCPU', 'SIGTERM', 'SIGINT', 'SIGHUP'):\n"
        "    signal.signal(getattr(signal, name), signal.SIG_IGN)\nwhile True: pass",
    ],
)
def test_what_does_not_end_is_ended(program: str) -> None:
    started = time.monotonic()
    assert reason(program, seconds=1.0) == "takes too long"
    assert time.monotonic() - started < 10


@POSIX
@pytest.mark.parametrize("program", ["bytearray(10**10)", "x = []\nwhile True: x.append('a' * 10**7)", "'x' * 10**9"])
def test_memory_is_bounded(program: str) -> None:
    assert reason(program).startswith("MemoryError")


@pytest.mark.parametrize(
    "program",
    [
        "import os\nwhile True: os.fork()",
        "import subprocess\nsubprocess.run(['true'])",
        "import os\nos.system('true')",
        "import os\nos.execv('/bin/true', ['true'])",
        "import multiprocessing\nmultiprocessing.Process(target=print).start()",
        "import ctypes\nctypes.CDLL(None)",
        "import socket\nsocket.create_connection(('127.0.0.1', 9))",
        "import urllib.request\nurllib.request.urlopen('http://127.0.0.1:9')",
        "import os\nos.kill(os.getppid(), 9)",
        "import resource\nresource.setrlimit(resource.RLIMIT_CPU, (1000, 1000))",
        "import sqlite3\nsqlite3.connect('here.db')",
        "import os\nos.listdir('/')",
        "import os\nos.chdir('/')",
        "import shutil\nshutil.rmtree('.')",
        "open('/proc/self/environ').read()",
        "open('/etc/passwd').read()",
        "import os\nos.open('/etc/passwd', os.O_RDONLY)",
    ],
)
def test_doors_are_shut(program: str) -> None:
    assert reason(program).startswith(
        ("PermissionError", "ImportError", "ModuleNotFoundError", "URLError", "NameError")
    )


def test_nothing_is_written_and_the_folder_is_gone(tmp_path: Path) -> None:
    target = tmp_path / "evil"
    for name in (str(target), "evil"):
        assert reason(f"open({name!r}, 'w').write('x')").startswith("PermissionError")
        assert reason(f"import os\nos.open({name!r}, os.O_CREAT | os.O_WRONLY)").startswith("PermissionError")
    assert not target.exists()
    folder = reason("import os\nraise ValueError(os.getcwd())").partition(": ")[2]
    assert folder and not os.path.exists(folder)


def test_the_environment_stays_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "do not tell")
    result = run_program("import os\nassert 'SECRET_TOKEN' not in os.environ and 'HOME' not in os.environ")
    assert result.passed


def test_success_cannot_simply_be_claimed() -> None:
    write = (
        f"import os\nfor fd in range(3, 64):\n    try: os.write(fd, {FORGED!r}.encode())\n    except OSError: pass\n"
    )
    assert reason(write + "os._exit(0)").startswith("ends without an answer")
    assert reason(f"import json\njson.dumps = lambda *a, **k: {FORGED!r}\nraise ValueError('no')") == "ValueError: no"


def test_cancelling_leaves_no_process() -> None:
    token = CancelToken()
    token.cancel()
    with pytest.raises(Cancelled):
        run_program("while True: pass", cancel=token)
    commands = [" ".join(child.cmdline()) for child in psutil.Process().children(recursive=True)]
    assert not [command for command in commands if "code_child" in command]


@POSIX
def test_what_a_child_starts_ends_with_it(tmp_path: Path) -> None:
    """`run_process` ends the whole session: here a launcher that leaves something running behind its child."""
    script = tmp_path / "launch.sh"
    script.write_text(f'sleep 77 & echo $! > {tmp_path}/pid\n"$@"\nsleep 77\n')
    ended = run_process(
        "localhyper.evaluate.code_child", b"", b"", out_bytes=100, seconds=2.0, launcher=("sh", str(script))
    )
    assert ended.late
    pid = int((tmp_path / "pid").read_text())
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline and psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie":
        time.sleep(0.05)
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == "zombie"


def test_the_cage_has_no_network() -> None:
    if not cage():
        pytest.skip("this system gives no namespaces to users")
    script = "import json, socket; print(json.dumps(socket.if_nameindex()))"
    done = subprocess.run([*cage(), sys.executable, "-c", script], capture_output=True, check=True)
    assert [name for _, name in json.loads(done.stdout)] in ([], ["lo"])
