"""Attaching documents, driven by keys: the dialog, the queue, chat meanwhile, failures, pausing, restarts, quotes."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from textual import events
from textual.content import Content
from textual.pilot import Pilot
from textual.widgets import Button, Input, OptionList, Static, TextArea

from localhyper.config import Config, with_value
from localhyper.errors import HypernetworkError
from localhyper.jobs import JobRequest
from localhyper.tui.attach_dialog import AttachDialog
from localhyper.tui.error_dialog import ErrorDialog
from localhyper.tui.job_bar import JobBar
from localhyper.tui.jobs_dialog import JobsDialog
from localhyper.tui.path_completion import PathCompletion
from localhyper.tui.path_picker import PathPicker
from localhyper.tui.quotes_dialog import QuotesDialog
from localhyper.tui.transcript import Transcript
from localhyper.tui.turn_view import TurnView
from tests.sources_files import pdf_bytes, pdf_text
from tests.tui.fake_engine import Script
from tests.tui.flows import Bench, answered, ask, ready, until

pytestmark = pytest.mark.asyncio
WIDE = (120, 40)
TEXT = "The lighthouse keeper is Tomas Brekkeli. He is on leave in May.\n\nThe harbour master is Ingrid Valdane.\n" * 3


def real(script: Script | None = None, **more: object) -> Bench:
    """An app over a real library."""
    return Bench(script or Script(), source=None, **more)  # type: ignore[arg-type]


@pytest.fixture
def note(tmp_path: Path) -> Path:
    """A short document under a name that is a trap for markup and shells."""
    file = tmp_path / "my [bold]note's.txt"
    file.write_text(TEXT, encoding="utf-8")
    return file


def facts(bench: Bench) -> str:
    """What the dialog says of the document."""
    return str(bench.app.screen.query_one("#facts", Static).content)


async def open_dialog(pilot: Pilot[None], bench: Bench, path: str) -> None:
    """Open the attach dialog, put a path in, wait until it is counted."""
    await pilot.press("ctrl+o")
    await until(pilot, lambda: isinstance(bench.app.screen, AttachDialog))
    bench.app.screen.query_one("#path", Input).value = path
    await until(pilot, lambda: "chunks of up to" in facts(bench))


async def attach(pilot: Pilot[None], bench: Bench, path: Path) -> None:
    """Attach a file through the dialog."""
    await open_dialog(pilot, bench, str(path))
    await pilot.press("enter")
    await until(pilot, lambda: not isinstance(bench.app.screen, AttachDialog))


def states(bench: Bench) -> list[str]:
    """The states of all jobs, in the database."""
    return [job.state for job in bench.store.jobs.list()]


async def test_dialog_counts_and_the_finished_adapter_answers_at_once(note: Path) -> None:
    bench = real()
    async with bench.app.run_test(size=WIDE) as pilot:
        await ready(pilot, bench)
        await open_dialog(pilot, bench, f"'{note.parent}/my [bold]note'\"'\"'s.txt'")
        told = facts(bench)
        assert f"my [bold]note's.txt: txt, {len(TEXT.strip()):,} tokens → " in told.replace("txt, txt", "txt")
        assert "not known before the first attach" in told
        await pilot.press("enter")
        await until(pilot, lambda: [adapter.name for adapter in bench.app.chat.attached()] == ["my-bold-note-s"])
        await ask(pilot, "who")
        await answered(pilot, bench, 1)
        assert bench.statuses[0].startswith("my-bold-note-s @1.0, ")
        assert states(bench) == ["done"]
        assert any("is made and answers from now on" in toast for toast in bench.toasts)
        await open_dialog(pilot, bench, str(note))
        assert "attached before as “my-bold-note-s”: costs nothing" in facts(bench)


async def test_a_long_documents_reply_says_which_chunk_it_came_from(tmp_path: Path) -> None:
    file = tmp_path / "village.txt"
    file.write_text(
        "The bell tower was built by Ines Falk. The mill pond froze in March. The ferry leaves at seven. "
        "Bread is baked on Fridays. The museum keeps a blue kite. Nobody lives on the island.",
        encoding="utf-8",
    )
    bench = real()
    async with bench.app.run_test(size=WIDE) as pilot:
        await ready(pilot, bench)
        await attach(pilot, bench, file)
        await until(pilot, lambda: [adapter.name for adapter in bench.app.chat.attached()] == ["village"])
        info = bench.store.library.get("village")
        assert info.chunk_files > 1
        await ask(pilot, "where is the kite")
        await answered(pilot, bench, 1)
        assert bench.statuses[0].startswith("village @1.0, chunk ")
        assert f" of {info.chunk_files} of village, " in bench.statuses[0]
        (used,) = bench.engine.adapters
        assert used.path.parent.suffix == ".chunks"
        await ask(pilot, "where is the kite")
        await answered(pilot, bench, 2)
        # The whole adapter in between would empty the KV cache of a conversation that stays with its chunk.
        assert set(bench.engine.adapter_sets) == {(used,)}
        stored = bench.store.history.turns(1)[0]
        assert stored.note.startswith("chunk ") and [use.name for use in stored.adapters] == ["village"]


async def test_second_document_is_told_its_time_by_the_first(note: Path, tmp_path: Path) -> None:
    bench = real()
    other = tmp_path / "other.txt"
    other.write_text("Quite another text, about bees. " * 9, encoding="utf-8")
    async with bench.app.run_test(size=WIDE) as pilot:
        await ready(pilot, bench)
        await attach(pilot, bench, note)
        await until(pilot, lambda: states(bench) == ["done"])
        await open_dialog(pilot, bench, str(other))
        assert "on this machine, by earlier attaches" in facts(bench)


async def test_what_is_left_out_stands_in_the_dialog_and_pages_are_counted(tmp_path: Path) -> None:
    file = tmp_path / "two.pdf"
    file.write_bytes(pdf_bytes([pdf_text([(72, 700, "Some words on the first page of two.")]), ""]))
    bench = real()
    async with bench.app.run_test(size=WIDE) as pilot:
        await ready(pilot, bench)
        await open_dialog(pilot, bench, f"file://{file}")
        assert "two.pdf: pdf, 2 pages, " in facts(bench)
        assert "left out: " in facts(bench) and "2" in facts(bench).split("left out: ")[1]


async def test_unreadable_path_is_told_and_nothing_can_be_made(tmp_path: Path) -> None:
    bench = real()
    async with bench.app.run_test(size=WIDE) as pilot:
        await ready(pilot, bench)
        await pilot.press("ctrl+o")
        await until(pilot, lambda: isinstance(bench.app.screen, AttachDialog))
        bench.app.screen.query_one("#path", Input).value = str(tmp_path / "no[red]ne.txt")
        await until(pilot, lambda: "no[red]ne.txt: no such file" in facts(bench))
        assert bench.app.screen.query_one("#make", Button).disabled
        await pilot.press("escape")
        assert states(bench) == []


async def test_missing_hypernetwork_is_said_plainly(note: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = real()

    def none(*_arguments: object) -> None:
        raise HypernetworkError("no document hypernetwork for this base", "run `localhyper models list`")

    monkeypatch.setattr(bench.room, "plan", none)
    async with bench.app.run_test(size=WIDE) as pilot:
        await ready(pilot, bench)
        await pilot.press("ctrl+o")
        await until(pilot, lambda: "no hypernetwork for tasks or images" in kinds(bench))
        bench.app.screen.query_one("#path", Input).value = str(note)
        await until(pilot, lambda: "! no document hypernetwork for this base" in facts(bench))
        assert bench.app.screen.query_one("#make", Button).disabled


def kinds(bench: Bench) -> str:
    """What the dialog says can be attached."""
    return str(bench.app.screen.query_one("#kinds", Static).content)


async def test_questions_are_answered_between_two_chunks(note: Path) -> None:
    gate = threading.Event()
    bench = real(Script(encode_gate=gate))
    async with bench.app.run_test(size=WIDE) as pilot:
        await ready(pilot, bench)
        await attach(pilot, bench, note)
        await until(pilot, lambda: states(bench) == ["running"])
        await ask(pilot, "and")
        gate.set()
        await answered(pilot, bench, 1)
        await until(pilot, lambda: states(bench) == ["done"])
    assert bench.engine.encoded_before[0] < len(bench.engine.encoded), "the question had to wait for the whole document"
    assert bench.engine.threads == {"localhyper-engine"}


@pytest.mark.usefixtures("one_chunk_at_a_time")
async def test_progress_has_one_decimal_and_a_pause_keeps_the_chunks(note: Path, tmp_path: Path) -> None:
    bench = real(Script(encode_seconds=0.05))
    note.write_text(TEXT * 8, encoding="utf-8")
    async with bench.app.run_test(size=WIDE) as pilot:
        await ready(pilot, bench)
        await attach(pilot, bench, note)
        bar = bench.app.chat.query_one(JobBar)
        await until(pilot, lambda: " % " in f"{bar.content} " and "left" in str(bar.content))
        assert "encode + generate " in str(bar.content) and " chunks " in str(bar.content)
        await pilot.press("f4")
        await until(pilot, lambda: isinstance(bench.app.screen, JobsDialog))
        await pilot.press("p")
        await until(pilot, lambda: states(bench) == ["paused"])
        done = len(bench.engine.encoded)
        await pilot.pause(0.1)
        assert len(bench.engine.encoded) == done
        bench.script.encode_seconds = 0.0
        await pilot.press("p")
        await until(pilot, lambda: states(bench) == ["done"])
        chunks = bench.store.library.list()[0].chunks
    assert len(bench.engine.encoded) <= chunks + 1, "finished chunks were made twice"


@pytest.mark.usefixtures("one_chunk_at_a_time")
async def test_eighty_columns_show_how_long_it_takes(note: Path) -> None:
    bench = real(Script(encode_seconds=0.05))
    long = note.with_name("a-rather-long-name-of-a-document.txt")
    long.write_text(TEXT * 8, encoding="utf-8")
    async with bench.app.run_test(size=(80, 24)) as pilot:
        await ready(pilot, bench)
        await attach(pilot, bench, long)
        bar = bench.app.chat.query_one(JobBar)
        await until(pilot, lambda: str(bar.content).endswith(" left"))
        assert bar.content_size.width and Content(str(bar.content)).cell_length <= bar.content_size.width
        assert " of " in str(bar.content) and "a-rather-" in str(bar.content)


async def test_stopped_job_is_over_and_can_go_on_again(note: Path) -> None:
    bench = real(Script(encode_gate=threading.Event()))
    async with bench.app.run_test(size=WIDE) as pilot:
        await ready(pilot, bench)
        await attach(pilot, bench, note)
        await until(pilot, lambda: states(bench) == ["running"])
        await pilot.press("f4")
        await until(pilot, lambda: isinstance(bench.app.screen, JobsDialog))
        await pilot.press("x")
        await until(pilot, lambda: states(bench) == ["cancelled"])
        assert bench.script.encode_gate is not None
        bench.script.encode_gate.set()
        await pilot.press("p")
        await until(pilot, lambda: states(bench) == ["done"])
        await pilot.press("c")
        await until(pilot, lambda: states(bench) == [])


@pytest.mark.usefixtures("one_chunk_at_a_time")
async def test_quitting_in_the_middle_of_a_document_goes_on_at_the_next_start(note: Path) -> None:
    bench = real(Script(encode_seconds=0.05))
    note.write_text(TEXT * 4, encoding="utf-8")
    async with bench.app.run_test(size=WIDE) as pilot:
        await ready(pilot, bench)
        await attach(pilot, bench, note)
        await until(pilot, lambda: len(bench.engine.encoded) > 5)
        await pilot.press("ctrl+q")
        await until(pilot, lambda: bench.app._exit)
    assert states(bench) == ["queued"]
    again = real()
    async with again.app.run_test(size=WIDE) as pilot:
        await until(pilot, lambda: states(again) == ["done"])
        await until(pilot, lambda: len(again.app.chat.attached()) == 1)
    assert 0 < len(again.engine.encoded) < again.store.library.list()[0].chunks


@pytest.mark.parametrize("defect", [False, True])
async def test_failed_job_is_a_dialog_without_traceback_and_the_app_goes_on(note: Path, defect: bool) -> None:
    error = ZeroDivisionError("[red]boom") if defect else HypernetworkError("the bundle is [b]bad", "fetch it again")
    bench = real(Script(encode_error=error))
    async with bench.app.run_test(size=WIDE) as pilot:
        await ready(pilot, bench)
        await attach(pilot, bench, note)
        await until(pilot, lambda: isinstance(bench.app.screen, ErrorDialog))
        shown = bench.app.screen.query_one("#details", TextArea).text
        assert "Traceback" not in shown and str(note) in shown
        message = str(bench.app.screen.query_one("#message", Static).content)
        assert ("[red]boom" if defect else "the bundle is [b]bad") in message
        assert "localhyper.log" in str(bench.app.screen.query_one("#log", Static).content)
        await pilot.click("#copy")
        await until(pilot, lambda: bench.copied)
        assert ("Traceback" in bench.copied[0]) is defect and shown in bench.copied[0]
        await pilot.press("escape")
        assert states(bench) == ["failed"]
        await ask(pilot, "still")
        await answered(pilot, bench, 1)
        bench.script.encode_error = None
        await pilot.press("f4")
        await until(pilot, lambda: isinstance(bench.app.screen, JobsDialog))
        await pilot.press("p")
        await until(pilot, lambda: states(bench) == ["done"])


async def test_dropped_file_opens_the_dialog_and_declined_it_is_text(note: Path) -> None:
    bench = real()
    async with bench.app.run_test(size=WIDE) as pilot:
        await ready(pilot, bench)
        bench.app.post_message(events.Paste(str(note).replace(" ", "\\ ").replace("'", "\\'")))
        await until(pilot, lambda: isinstance(bench.app.screen, AttachDialog) and "chunks of" in facts(bench))
        assert bench.prompt.text == ""
        await pilot.press("escape")
        await until(pilot, lambda: "note" in bench.prompt.text)
        bench.prompt.clear()
        bench.app.post_message(events.Paste("no path at all"))
        await until(pilot, lambda: bench.prompt.text == "no path at all")


async def test_path_after_at_is_completed_and_attached_without_being_sent(note: Path) -> None:
    (note.parent / "docs").mkdir()
    (note.parent / "docs" / "lease.txt").write_text(TEXT, encoding="utf-8")
    bench = real()
    async with bench.app.run_test(size=WIDE) as pilot:
        await ready(pilot, bench)
        bench.prompt.start = note.parent
        completion = bench.app.chat.query_one(PathCompletion)
        await pilot.press(*"read", "space", "at", *"do")
        await until(pilot, lambda: completion.is_open and completion.current is not None)
        await pilot.press("tab")
        await until(pilot, lambda: bench.prompt.text == "read @docs/")
        await until(pilot, lambda: completion.current is not None and completion.current.path.name == "lease.txt")
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(bench.app.screen, AttachDialog) and "chunks of" in facts(bench))
        assert bench.prompt.text == "read " and bench.engine.asked == []
        await pilot.press("escape")
        await pilot.press("at", *"zzz")
        await until(pilot, lambda: not completion.is_open)
        await pilot.press("enter")
        await until(pilot, lambda: bench.engine.asked)


async def test_browsing_takes_a_folder(note: Path) -> None:
    bench = real()
    bench.app.services.remembered.update(source_folder=str(note.parent))
    async with bench.app.run_test(size=WIDE) as pilot:
        await ready(pilot, bench)
        await pilot.press("ctrl+o", "ctrl+o")
        await until(pilot, lambda: isinstance(bench.app.screen, PathPicker))
        await pilot.press("f")
        await until(pilot, lambda: isinstance(bench.app.screen, AttachDialog) and ": folder, " in facts(bench))


async def test_quotes_show_the_passage_with_its_place(note: Path) -> None:
    note.write_text(f"{'Bees like clover and thyme. ' * 30}\n\n{TEXT}", encoding="utf-8")
    bench = real(Script(replies=("The keeper is **Tomas Brekkeli**.",)))
    async with bench.app.run_test(size=WIDE) as pilot:
        await ready(pilot, bench)
        await attach(pilot, bench, note)
        await until(pilot, lambda: bench.app.chat.attached())
        await ask(pilot, "who keeps the lighthouse")
        await answered(pilot, bench, 1)
        await pilot.press("f8")
        await until(pilot, lambda: isinstance(bench.app.screen, QuotesDialog))
        options = bench.app.screen.query_one(OptionList)
        await until(pilot, lambda: options.option_count > 0)
        first = str(options.get_option_at_index(0).prompt)
        assert "Brekkeli" in first and "chunk " in first and "characters " in first
        await until(pilot, lambda: "Brekkeli" in str(bench.app.screen.query_one("#text", Static).content))
        await pilot.press("c")
        await until(pilot, lambda: bench.copied and "Brekkeli" in bench.copied[0] and "chunk " in bench.copied[0])


async def test_without_adapter_there_is_nothing_to_quote() -> None:
    bench = real()
    async with bench.app.run_test(size=WIDE) as pilot:
        await ready(pilot, bench)
        await pilot.press("f8")
        assert not isinstance(bench.app.screen, QuotesDialog)
        await ask(pilot, "q")
        await answered(pilot, bench, 1)
        await pilot.press("f8")
        await until(pilot, lambda: "No adapter answered" in str(bench.app.screen.query_one("#text", Static).content))


async def test_short_conversation_stands_on_top_after_the_job_line_has_come_and_gone(note: Path) -> None:
    bench = real(Script(replies=("short", "line\n\n" * 60)))
    async with bench.app.run_test(size=(80, 24)) as pilot:
        await ready(pilot, bench)
        await attach(pilot, bench, note)
        await until(pilot, lambda: states(bench) == ["done"] and bench.app.chat.attached())
        await ask(pilot, "who")
        await answered(pilot, bench, 1)
        transcript = bench.app.chat.query_one(Transcript)
        assert transcript.query_one(TurnView).region.y == transcript.region.y
        await ask(pilot, "more")
        await answered(pilot, bench, 2)
        await until(pilot, lambda: transcript.max_scroll_y > 50 and transcript.is_vertical_scroll_end)


async def test_two_dropped_files_become_two_jobs_in_order(note: Path, tmp_path: Path) -> None:
    other = tmp_path / "b.txt"
    other.write_text("Bees like clover. " * 9, encoding="utf-8")
    bench = real()
    async with bench.app.run_test(size=WIDE) as pilot:
        await ready(pilot, bench)
        bench.app.post_message(events.Paste(f'"{note}"\n{other}\n'))
        await until(pilot, lambda: isinstance(bench.app.screen, AttachDialog) and facts(bench).count("chunks of") == 2)
        await pilot.press("enter")
        await until(pilot, lambda: states(bench) == ["done", "done"])
        assert [job.request.source for job in bench.store.jobs.list()] == [str(note), str(other)]
        await until(pilot, lambda: len(bench.app.chat.attached()) == 2)


async def test_a_job_waits_for_its_base_model(note: Path) -> None:
    bench = real()
    bench.store.jobs.submit(JobRequest(source=str(note), base="own", rank=-1))
    async with bench.app.run_test(size=WIDE) as pilot:
        await ready(pilot, bench)
        await ask(pilot, "q")
        await answered(pilot, bench, 1)
        assert states(bench) == ["queued"]
        bench.app.host.load(with_value(Config(), "base.name", "own"))
        await until(pilot, lambda: states(bench) == ["done"])


@pytest.mark.usefixtures("one_chunk_at_a_time")
async def test_switching_the_model_lets_the_job_make_way_and_go_on_later(note: Path) -> None:
    note.write_text(TEXT * 4, encoding="utf-8")
    bench = real(Script(encode_seconds=0.03))
    async with bench.app.run_test(size=WIDE) as pilot:
        await ready(pilot, bench)
        await attach(pilot, bench, note)
        await until(pilot, lambda: len(bench.engine.encoded) > 3)
        bench.app.host.load(with_value(Config(), "base.name", "own"))
        await until(pilot, lambda: "own" in bench.header and bench.app.state.loaded is not None)
        await until(pilot, lambda: states(bench) == ["queued"])
        bench.app.host.load(Config())
        await until(pilot, lambda: states(bench) == ["done"])
        assert len(bench.engine.encoded) <= bench.store.library.list()[0].chunks + 1
