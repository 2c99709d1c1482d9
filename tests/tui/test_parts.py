"""The parts without a screen: clipboard programs, status lines, what the library gives to the panel."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from localhyper.config import Config
from localhyper.engine import AdapterUse, GenerationStats
from localhyper.errors import LibraryError, LocalHyperError
from localhyper.paths import get_paths
from localhyper.tui.clipboard import clipboard_commands, copy_with_program
from localhyper.tui.conversation import AttachedAdapter, Conversation, Turn, status_of
from localhyper.tui.model_room import WorkbenchRoom
from localhyper.tui.store import Store
from localhyper.tui.words import size_text


def test_no_clipboard_program_is_tried_over_ssh() -> None:
    desktop = {"WAYLAND_DISPLAY": "wayland-0", "DISPLAY": ":0"}
    assert [command[0] for command in clipboard_commands(desktop, "linux")] == ["wl-copy", "xclip", "xsel"]
    assert clipboard_commands({**desktop, "SSH_TTY": "pts"}, "linux") == ()
    assert clipboard_commands({}, "linux") == ()
    assert clipboard_commands({}, "darwin") == (("pbcopy",),)


def test_text_reaches_the_first_program_that_takes_it(tmp_path: Path) -> None:
    target = tmp_path / "copied"
    take = (sys.executable, "-c", f"import sys; open({str(target)!r}, 'wb').write(sys.stdin.buffer.read())")
    refuse = (sys.executable, "-c", "raise SystemExit(1)")
    assert copy_with_program("naïve ✓", [("no-such-program",), refuse, take]) == sys.executable
    assert target.read_text(encoding="utf-8") == "naïve ✓"
    assert copy_with_program("x", [refuse]) is None


def stats(**changes: object) -> GenerationStats:
    values: dict[str, object] = {"prompt_tokens": 5, "reused_tokens": 0, "generated_tokens": 41, "prompt_seconds": 0.1}
    values |= {"first_token_seconds": 0.123, "decode_seconds": 2.0, "finish_reason": "length"} | changes
    return GenerationStats(**values)  # type: ignore[arg-type]


def test_status_line_names_adapters_strengths_cost_and_reason() -> None:
    adapters = (
        AttachedAdapter("lease", AdapterUse(Path("a"), 1.0)),
        AttachedAdapter("tone", AdapterUse(Path("b"), -0.5)),
    )
    turn = Turn("q", adapters, "r", stats(), forgotten=2)
    assert status_of(turn) == (
        "lease @1.0, tone @-0.5, 41 tokens, 20.0 tok/s, first token 0.12 s, cut at the token limit, "
        "the first 2 messages no longer fit"
    )
    assert status_of(Turn("q", stats=stats(generated_tokens=1, decode_seconds=0.0, finish_reason="stop"))) == (
        "no adapter, 1 token, first token 0.12 s, complete"
    )
    assert status_of(Turn("q", reply="r", stats=stats(finish_reason="loop"))).endswith(", ended: it went in circles")
    assert status_of(Turn("q")) == "no adapter, stopped before the first token"


def test_history_leaves_out_failed_empty_and_repeated_turns() -> None:
    kept, failed, empty = Turn("a", reply="A"), Turn("b", reply="half", failed=True), Turn("c", reply=" ")
    aside = Turn("a", reply="B", repeats=kept)
    last = Turn("d")
    chat = Conversation([kept, aside, failed, empty, last])
    assert [message.content for message in chat.messages_before(last)] == ["a", "A", "d"]
    assert [message.content for message in chat.messages_before(aside)] == ["a"]
    assert chat.last_reply == "half"


def test_sizes_for_people() -> None:
    assert [size_text(size) for size in (950, 98_000_000, 1_440_000_000)] == ["1 kB", "98 MB", "1.4 GB"]


def test_missing_model_is_a_known_error_with_a_hint(tmp_path: Path) -> None:
    config = Config(base=type(Config().base)(name=str(tmp_path / "none.gguf")))
    with pytest.raises(LocalHyperError) as caught:
        WorkbenchRoom(get_paths(tmp_path)).check(config)
    assert "none.gguf" in caught.value.message and caught.value.hint


def test_empty_and_damaged_library(tmp_path: Path) -> None:
    paths = get_paths(tmp_path).create()
    assert list(Store(paths).list()) == []
    paths.library_db.unlink()
    paths.library_db.write_bytes(b"not a database" * 100)
    with pytest.raises(LibraryError):
        Store(paths).list()


def test_importing_the_app_brings_nothing_native() -> None:
    code = (
        "import sys, localhyper.tui.app; print([m for m in ('llama_cpp', 'onnxruntime', 'torch') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
    code = "import sys, localhyper.tui; print('textual' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
