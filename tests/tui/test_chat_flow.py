"""The chat screen, driven by keys over a scripted engine: asking, stopping, errors, adapters, copying, quitting."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

import pytest
from textual import events
from textual.widgets import Markdown, Static, TextArea
from textual.widgets._footer import FooterKey

from localhyper.chunk_choice import Choice, Choose
from localhyper.engine import AdapterUse, Engine
from localhyper.errors import AdapterError, ContextError, LibraryError, ModelError
from localhyper.jobs import JobRequest
from localhyper.progress import CancelToken, Progress, ProgressCallback
from localhyper.tui import transcript
from localhyper.tui.adapter_panel import AdapterList
from localhyper.tui.error_dialog import ErrorDialog
from localhyper.tui.turn_view import TurnView
from tests.tui.fake_engine import Script
from tests.tui.flows import Bench, FakeSource, answered, ask, ready, until
from tests.tui.scripted_room import ScriptedRoom

pytestmark = pytest.mark.asyncio


async def test_screen_is_usable_before_the_model_is_loaded_and_a_question_waits_for_it() -> None:
    gate = threading.Event()
    bench = Bench(before_load=lambda: gate.wait(10))
    async with bench.app.run_test() as pilot:
        await until(pilot, lambda: "loading the model" in bench.header)
        assert "You can type already" in bench.empty_text
        await ask(pilot, "hello")
        await until(pilot, lambda: bench.statuses[0].startswith("waiting for the model"))
        gate.set()
        await until(pilot, lambda: bench.statuses[0].endswith("complete"))
    assert bench.engine.asked[0][-1].content == "hello"


async def test_what_is_made_for_a_question_first_is_shown_while_it_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    gate = threading.Event()

    def choosing(room: ScriptedRoom, report: ProgressCallback, cancel: CancelToken) -> Choose:
        def choose(questions: Sequence[str], uses: Sequence[AdapterUse], engine: Engine) -> Choice:
            report(Progress("encode", 3, 8, "the lease"))
            gate.wait(10)
            return Choice(())

        return choose

    monkeypatch.setattr(ScriptedRoom, "choosing", choosing)
    bench = Bench()
    async with bench.app.run_test() as pilot:
        await ready(pilot, bench)
        await ask(pilot, "hello")
        await until(pilot, lambda: bench.statuses[0].startswith("making the adapter of all chunks 37.5%"))
        gate.set()
        await until(pilot, lambda: bench.statuses[0].endswith("complete"))


async def test_reply_is_shown_whole_with_what_it_was_made_with() -> None:
    reply = "Yes:\n\n```python\nx = 1\n```\n\nand **more**"
    bench = Bench(Script(replies=(reply,)))
    async with bench.app.run_test() as pilot:
        await ready(pilot, bench)
        assert bench.header.startswith("localhyper  smollm2-135m-instruct  Q4_1, 98 MB")
        await ask(pilot, "is it so?")
        await until(pilot, lambda: bench.statuses[0].endswith("complete"))
        assert bench.statuses == ["no adapter, 10 tokens, 20.0 tok/s, first token 0.31 s, complete"]
        assert bench.app.screen.query_one(Markdown).source == reply
        assert bench.app.screen.query("MarkdownFence")
        assert bench.header.endswith("20.0 tok/s")
        assert bench.prompt.text == ""


async def test_history_goes_along_and_new_chat_forgets_it() -> None:
    bench = Bench(Script(replies=("one", "two", "three")))
    async with bench.app.run_test() as pilot:
        await ready(pilot, bench)
        for count, question in enumerate(("a", "b"), start=1):
            await ask(pilot, question)
            await answered(pilot, bench, count)
        await pilot.press("ctrl+n")
        await until(pilot, lambda: not bench.statuses)
        await ask(pilot, "c")
        await until(pilot, lambda: "complete" in bench.statuses[0])
    told = [[message.content for message in messages] for messages in bench.engine.asked]
    assert told == [["a"], ["a", "one", "b"], ["c"]]


async def test_enter_right_after_fast_typing_sends_every_letter_and_newline_keys_do_not_send() -> None:
    bench = Bench()
    async with bench.app.run_test() as pilot:
        await ready(pilot, bench)
        await pilot.press("a", "shift+enter", "b", "ctrl+j", "c", "enter")
        await until(pilot, lambda: "complete" in bench.statuses[0])
        await pilot.press("enter")
        await pilot.pause()
    assert [messages[-1].content for messages in bench.engine.asked] == ["a\nb\nc"]


async def test_esc_says_stopping_until_the_engine_has_stopped() -> None:
    stop_gate = threading.Event()
    bench = Bench(Script(replies=("word " * 50,), gate=threading.Event(), stop_gate=stop_gate))
    async with bench.app.run_test() as pilot:
        await ready(pilot, bench)
        await ask(pilot, "go")
        await until(pilot, lambda: "1 token" in bench.statuses[0])
        await pilot.press("escape")
        await until(pilot, lambda: bench.statuses[0].startswith("stopping…"))
        await ask(pilot, "next")
        await until(pilot, lambda: bench.prompt.text == "next")
        assert len(bench.engine.asked) == 1
        stop_gate.set()
        await until(pilot, lambda: bench.statuses[0].endswith("stopped"))
        await pilot.press("enter")
        await until(pilot, lambda: len(bench.engine.asked) == 2)
    assert [message.content for message in bench.engine.asked[1]] == ["go", "word", "next"]


async def test_stopping_a_question_that_waits_for_the_load_takes_it_back_at_once() -> None:
    gate = threading.Event()
    bench = Bench(before_load=lambda: gate.wait(10))
    async with bench.app.run_test() as pilot:
        await until(pilot, lambda: "loading" in bench.header)
        await ask(pilot, "hello")
        await until(pilot, lambda: bench.statuses)
        await pilot.press("escape")
        await until(pilot, lambda: bench.statuses[0].endswith("stopped before the first token"))
        gate.set()
        await ready(pilot, bench)
    assert bench.engine.asked == []


async def test_new_chat_while_a_reply_streams_drops_its_late_pieces() -> None:
    bench = Bench(Script(replies=("old words", "new"), endless=False, gate=threading.Event()))
    async with bench.app.run_test() as pilot:
        await ready(pilot, bench)
        await ask(pilot, "first")
        await until(pilot, lambda: "1 token" in bench.statuses[0])
        await pilot.press("ctrl+n")
        await until(pilot, lambda: not bench.statuses)
        await ask(pilot, "second")
        await until(pilot, lambda: "complete" in bench.statuses[0])
        assert bench.app.screen.query_one(Markdown).source == "new"


async def test_missing_model_is_told_with_its_hint_and_the_next_question_tries_again() -> None:
    error = ModelError("no file `base.gguf` in [models]", "run `localhyper models pull`")
    bench = Bench(load_errors=[error])
    async with bench.app.run_test() as pilot:
        await until(pilot, lambda: "no model" in bench.header)
        assert "no file `base.gguf` in [models]" in bench.empty_text
        assert "run `localhyper models pull`" in bench.empty_text
        assert not isinstance(bench.app.screen, ErrorDialog)
        await ask(pilot, "hello")
        await until(pilot, lambda: bench.statuses[0].endswith("complete"))


async def test_question_sent_during_a_failing_load_fails_with_the_same_words_without_a_second_load() -> None:
    gate = threading.Event()
    errors: list[Exception] = [ModelError("first"), ModelError("second")]
    bench = Bench(load_errors=errors, before_load=lambda: gate.wait(10))
    async with bench.app.run_test() as pilot:
        await until(pilot, lambda: "loading" in bench.header)
        await ask(pilot, "hello")
        await until(pilot, lambda: bench.statuses)
        gate.set()
        await until(pilot, lambda: bench.statuses == ["! first"])
    assert len(bench.load_errors) == 1


async def test_known_error_stands_inline_and_leaves_the_history() -> None:
    bench = Bench(Script(replies=(ContextError("the question has 9,000 tokens, 2,048 fit", "ask less"), "fine")))
    async with bench.app.run_test() as pilot:
        await ready(pilot, bench)
        await ask(pilot, "long")
        await until(pilot, lambda: bench.statuses == ["! the question has 9,000 tokens, 2,048 fit\nask less"])
        await ask(pilot, "short")
        await until(pilot, lambda: bench.statuses[-1].endswith("complete"))
    assert [message.content for message in bench.engine.asked[1]] == ["short"]


async def test_unexpected_error_opens_a_dialog_with_copyable_details_and_the_app_goes_on() -> None:
    bench = Bench(Script(replies=(ZeroDivisionError("[red]boom"), "fine")))
    async with bench.app.run_test() as pilot:
        await ready(pilot, bench)
        await ask(pilot, "hm")
        await until(pilot, lambda: isinstance(bench.app.screen, ErrorDialog))
        details = bench.app.screen.query_one("#details", TextArea).text
        assert "Traceback" not in details and "ZeroDivisionError" in details
        await pilot.click("#copy")
        await until(pilot, lambda: bench.copied)
        assert "localhyper.log" in bench.copied[0] and details in bench.copied[0]
        assert "Traceback" in bench.copied[0]
        await pilot.press("escape")
        assert bench.statuses == ["! unexpected ZeroDivisionError: [red]boom"]
        await ask(pilot, "again")
        await until(pilot, lambda: bench.statuses[-1].endswith("complete"))


async def test_regenerate_samples_if_nothing_changed_and_stays_greedy_under_new_adapters() -> None:
    bench = Bench(Script(replies=("one", "two", "three")))
    async with bench.app.run_test(size=(120, 40)) as pilot:
        await ready(pilot, bench)
        await ask(pilot, "q")
        await until(pilot, lambda: "complete" in bench.statuses[0])
        await pilot.press("ctrl+r")
        await until(pilot, lambda: len(bench.engine.asked) == 2 and "sampled at 0.7" in bench.statuses[0])
        await pilot.press("f6", "space", "escape", "ctrl+r")
        await until(pilot, lambda: bench.statuses[0].startswith("lease-2025 @1.0, "))
        await until(pilot, lambda: bench.statuses[0].endswith("complete"))
        assert len(bench.app.screen.query(TurnView)) == 1
    assert [sampling.temperature for sampling in bench.engine.samplings] == [0.0, 0.7, 0.0]
    assert all([message.content for message in messages] == ["q"] for messages in bench.engine.asked)


async def test_adapters_are_switched_and_weighed_and_act_on_the_next_question() -> None:
    bench = Bench()
    async with bench.app.run_test(size=(120, 40)) as pilot:
        await ready(pilot, bench)
        await pilot.press("f6", "space", "left", "left", "down", "enter", "right", "down", "space")
        await until(pilot, lambda: "cannot" not in bench.toasts and "[bold]old" in bench.toasts[-1])
        await pilot.press("escape")
        await ask(pilot, "q")
        await until(pilot, lambda: "complete" in bench.statuses[0])
        assert bench.statuses[0].startswith("lease-2025 @0.8, notes @1.1, ")
    used = [[(use.path.name, use.scale) for use in uses] for uses in bench.engine.adapter_sets]
    assert used == [[("lease-2025.gguf", 0.8), ("notes.gguf", 1.1)]]


async def test_same_question_without_adapters_stands_beside_and_out_of_the_history() -> None:
    bench = Bench(Script(replies=("with", "without", "next")))
    async with bench.app.run_test(size=(120, 40)) as pilot:
        await ready(pilot, bench)
        await pilot.press("f6", "space", "escape")
        await ask(pilot, "q")
        await until(pilot, lambda: "complete" in bench.statuses[0])
        await bench.app.screen.run_action("compare")
        await until(pilot, lambda: "complete" in bench.statuses[1])
        assert [status.split(",")[0] for status in bench.statuses] == ["lease-2025 @1.0", "no adapter"]
        await ask(pilot, "r")
        await until(pilot, lambda: len(bench.engine.asked) == 3)
    assert [message.content for message in bench.engine.asked[2]] == ["q", "with", "r"]


async def test_adapter_that_does_not_fit_is_refused_inline() -> None:
    bench = Bench(Script(set_adapters_error=AdapterError("`notes.gguf` is damaged", "attach it again")))
    async with bench.app.run_test(size=(120, 40)) as pilot:
        await ready(pilot, bench)
        await ask(pilot, "q")
        await until(pilot, lambda: bench.statuses == ["! `notes.gguf` is damaged\nattach it again"])


async def test_library_error_stands_in_the_panel_and_can_be_tried_again() -> None:
    source = FakeSource(error=LibraryError("library.db is damaged", "restore it"))
    bench = Bench(source=source)
    async with bench.app.run_test(size=(120, 40)) as pilot:
        await ready(pilot, bench)
        note = bench.app.screen.query_one("#note")
        assert "library.db is damaged" in str(note.render()) and "restore it" in str(note.render())
        source.error = None
        await bench.app.screen.run_action("reload_library")
        await until(pilot, lambda: bench.app.screen.query_one(AdapterList).option_count == 3)
        assert not note.display


def shown(bench: Bench) -> set[str]:
    """Which of panel and focus there is."""
    facts = {
        "panel": bench.app.screen.query_one("#side").display,
        "list focused": bench.app.screen.query_one(AdapterList).has_focus,
        "prompt focused": bench.prompt.has_focus,
    }
    return {name for name, holds in facts.items() if holds}


async def test_panel_is_hidden_on_narrow_screens_until_asked_for() -> None:
    bench = Bench()
    async with bench.app.run_test(size=(80, 24)) as pilot:
        await ready(pilot, bench)
        assert "panel" not in shown(bench)
        await pilot.press("f6")
        assert shown(bench) == {"panel", "list focused"}
        await pilot.press("escape")
        assert shown(bench) == {"prompt focused"}
        await pilot.resize_terminal(100, 24)
        await until(pilot, lambda: "panel" in shown(bench))


async def test_ctrl_c_copies_the_last_reply_and_says_by_which_way() -> None:
    bench = Bench(Script(replies=("the **reply**",)))
    async with bench.app.run_test() as pilot:
        await ready(pilot, bench)
        await pilot.press("ctrl+c")
        assert bench.copied == []
        await ask(pilot, "q")
        await until(pilot, lambda: "complete" in bench.statuses[0])
        await pilot.press("ctrl+c")
        await until(pilot, lambda: "Copied with scripted-copy" in bench.toasts)
        bench.copy_program = None
        await pilot.press("ctrl+c")
        await until(pilot, lambda: any("OSC 52" in toast for toast in bench.toasts))
    assert bench.copied == ["the **reply**"] * 2


async def test_quitting_while_a_reply_streams_stops_and_frees_the_engine_in_its_own_thread() -> None:
    bench = Bench(Script(replies=("on and on ",), endless=True, piece_seconds=0.02))
    async with bench.app.run_test() as pilot:
        await ready(pilot, bench)
        await ask(pilot, "q")
        await until(pilot, lambda: "token" in bench.statuses[0])
        await pilot.press("ctrl+q")
        await until(pilot, lambda: bench.app._exit)
    assert bench.app.return_code == 0
    assert bench.engine.closed == 1
    assert bench.engine.threads == {"localhyper-engine"}


async def test_keymap_moves_keys_and_the_footer_never_holds_more_than_six() -> None:
    bench = Bench(
        Script(replies=("on ",), endless=True, piece_seconds=0.05), keymap={"chat.new": "ctrl+t", "chat.attach": "f9"}
    )
    async with bench.app.run_test(size=(120, 40)) as pilot:
        await ready(pilot, bench)
        await ask(pilot, "q")
        await until(pilot, lambda: "token" in bench.statuses[0])
        await until(pilot, lambda: len(bench.app.screen.query(FooterKey)) == 6)
        await pilot.press("ctrl+n")
        assert bench.statuses
        assert "f9 attach a document or task   f6 adapters and chats" in bench.empty_text
        await pilot.press("ctrl+t")
        await until(pilot, lambda: not bench.statuses)


async def test_palette_offers_only_what_can_be_done_now() -> None:
    bench = Bench()
    async with bench.app.run_test() as pilot:
        await ready(pilot, bench)

        def titles() -> set[str]:
            return {command.title for command in bench.app.get_system_commands(bench.app.screen)}

        assert "New chat" in titles() and not titles() & {"Stop", "Answer again", "Copy the last reply"}
        await ask(pilot, "q")
        await until(pilot, lambda: "complete" in bench.statuses[0])
        assert {"Answer again", "Copy the last reply", "Theme", "Quit"} <= titles()


async def test_every_binding_has_an_id_and_a_tooltip() -> None:
    from localhyper.tui.app import LocalHyperApp
    from localhyper.tui.chat_screen import ChatScreen
    from localhyper.tui.prompt import Prompt

    own = [
        binding
        for owner in (LocalHyperApp, ChatScreen, Prompt, AdapterList, ErrorDialog)
        for binding in owner.__dict__["BINDINGS"]
    ]
    assert all(binding.id and binding.tooltip for binding in own)
    assert len({binding.id for binding in own}) == len(own)


async def test_old_turns_leave_the_screen_but_not_the_history(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transcript, "_MOST_TURNS_SHOWN", 2)
    bench = Bench(Script(replies=("r",)))
    async with bench.app.run_test() as pilot:
        await ready(pilot, bench)
        for count in range(1, 5):
            await ask(pilot, str(count))
            await answered(pilot, bench, count)
        assert len(bench.statuses) == 2
        assert "2 earlier questions" in str(bench.app.screen.query_one("#left-out", Static).content)
    assert len(bench.engine.asked[-1]) == 2 * 3 + 1


async def test_full_window_drops_the_oldest_turns_and_says_so() -> None:
    bench = Bench(Script(replies=("long reply " * 60, "short")))
    bench.engine.n_ctx = 1024
    async with bench.app.run_test(size=(120, 40)) as pilot:
        await ready(pilot, bench)
        await ask(pilot, "a")
        await answered(pilot, bench, 1)
        bench.prompt.insert("b" * 150)
        await pilot.press("enter")
        await answered(pilot, bench, 2, ending="the first 2 messages no longer fit")
    assert [message.content for message in bench.engine.asked[1]] == ["b" * 150]


async def test_every_theme_knows_all_our_colours_and_an_unknown_one_is_told() -> None:
    bench = Bench(theme="no-such-theme")
    async with bench.app.run_test() as pilot:
        await ready(pilot, bench)
        assert "no theme `no-such-theme`" in bench.toasts[0]
        for theme in bench.app.available_themes:
            bench.app.theme = theme
            await pilot.pause()
        assert bench.app.is_running


async def test_what_a_model_a_file_or_a_clipboard_says_cannot_steer_the_terminal(home: Path) -> None:
    hostile = "bad \x1b[31mred\x1b]0;title\x07 \x9b2J \u202eevil `co\x1b[2Jde`\n\n```\nfence \x1b[2J\n```"
    bench = Bench(Script(replies=(hostile,)), source=None)
    folder = home / "docs"
    folder.mkdir()
    (folder / "na\x1b[31mme [bold].txt").write_text("x", encoding="utf-8")
    bench.store.jobs.submit(JobRequest(source=str(next(folder.iterdir())), base="not-loaded"))
    bench.app.services.remembered.update(source_folder=str(folder))
    seen: list[str] = []

    def look() -> str:
        seen.append("".join(strip.text for strip in bench.app.screen._compositor.render_strips()))
        return seen[-1]

    async with bench.app.run_test(size=(120, 40)) as pilot:
        await ready(pilot, bench)
        bench.app.post_message(events.Paste("quest\x1b[2Jion"))
        await until(pilot, lambda: "ion" in bench.prompt.text)
        look()
        await pilot.press("enter")
        await answered(pilot, bench, 1)
        look()
        await pilot.press("f4")
        await until(pilot, lambda: len(bench.app.screen_stack) == 2)
        look()
        await pilot.press("escape", "ctrl+o", "ctrl+o")
        await until(pilot, lambda: len(bench.app.screen_stack) == 3)
        await until(pilot, lambda: "me [bold].txt" in look())
        assert "na�[31mme [bold].txt" in seen[-1]
        await pilot.press("down", "enter")
        await until(pilot, lambda: len(bench.app.screen_stack) == 2)
        await until(pilot, lambda: "na�[31mme [bold].txt" in look())
    steering = {letter for text in seen for letter in text if letter in "\x07\x1b\x9b\u202e"}
    assert not steering
