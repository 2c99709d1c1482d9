"""Conversations, driven by keys over a real database: kept, opened, renamed, deleted, changed, exported, compared."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

from textual.pilot import Pilot
from textual.widgets import Input, Markdown, OptionList

from localhyper.history import StoredTurn
from localhyper.tui.chats_panel import ChatList, ChatsPanel
from localhyper.tui.text_dialog import TextDialog
from localhyper.tui.turn_view import ReplyView, TurnView
from tests.tui.fake_engine import Script
from tests.tui.flows import ROWS, Bench, answered, ask, ready, until

WIDE = (120, 40)


async def talk(pilot: Pilot[None], bench: Bench, *questions: str) -> None:
    """Ask, and wait until each reply is there and written down."""
    before = len(bench.engine.asked)
    for count, question in enumerate(questions, start=before + 1):
        await ask(pilot, question)
        await answered(pilot, bench, count)
    await until(pilot, lambda: kept(bench) and kept(bench)[0].stats is not None)


def kept(bench: Bench) -> list[StoredTurn]:
    """The turns of the newest conversation in the database, the last first."""
    chats = bench.store.history.list()
    return list(reversed(bench.store.history.turns(chats[0].id))) if chats else []


def titles(bench: Bench) -> list[str]:
    return [chat.title for chat in bench.app.chat.query_one(ChatsPanel).chats]


def sources(bench: Bench) -> list[str]:
    return [view.query_one(Markdown).source for view in bench.app.chat.query(ReplyView)]


def told_in(bench: Bench, words: str) -> Callable[[], bool]:
    return lambda: any(words in toast for toast in bench.toasts)


async def to_chats(pilot: Pilot[None], bench: Bench) -> None:
    await pilot.press("f6")
    if not bench.app.chat.query_one(ChatList).has_focus:
        await pilot.press("f6")
    await until(pilot, lambda: bench.app.chat.query_one(ChatList).has_focus)


async def test_conversation_is_kept_with_what_made_it_and_opened_again() -> None:
    bench = Bench(Script(replies=("one", "two", "three", "four")))
    async with bench.app.run_test(size=WIDE) as pilot:
        await ready(pilot, bench)
        await pilot.press("f6", "space", "escape")
        await talk(pilot, bench, "a", "b")
        turn = bench.store.history.turns(bench.store.history.list()[0].id)[1]
        assert (turn.question, turn.reply, turn.model) == ("b", "two", "smollm2-135m-instruct")
        assert [(use.name, use.scale) for use in turn.adapters] == [(ROWS[0].name, 1.0)]
        assert turn.sampling is not None and turn.asked_at
        await pilot.press("ctrl+n")
        await talk(pilot, bench, "c")
        await until(pilot, lambda: titles(bench) == ["c", "a"])
        await to_chats(pilot, bench)
        bench.app.chat.query_one(ChatList).highlighted = 1
        await pilot.press("enter")
        await until(pilot, lambda: sources(bench) == ["one", "two"])
        await until(pilot, lambda: bench.prompt.has_focus)
        assert bench.statuses[1].startswith("lease-2025 @1.0, 1 token")
        await talk(pilot, bench, "d")
    assert [message.content for message in bench.engine.asked[-1]] == ["a", "one", "b", "two", "d"]
    assert [chat.turns for chat in bench.store.history.list()] == [3, 1]


async def test_rename_delete_and_undo() -> None:
    bench = Bench(Script(replies=("one",)))
    async with bench.app.run_test(size=WIDE) as pilot:
        await ready(pilot, bench)
        await talk(pilot, bench, "a")
        await to_chats(pilot, bench)
        await pilot.press("r")
        await until(pilot, lambda: isinstance(bench.app.screen, TextDialog))
        bench.app.screen.query_one(Input).value = "[red]mine"
        await pilot.press("enter")
        await until(pilot, lambda: titles(bench) == ["[red]mine"])
        prompt = str(bench.app.chat.query_one(ChatList).get_option_at_index(0).prompt)
        assert "[red]mine" in prompt, "a title is no markup"
        await pilot.press("delete")
        await until(pilot, lambda: titles(bench) == [] and not bench.statuses)
        await pilot.press("f6")
        bench.app.chat.query_one(ChatsPanel).undo()
        await until(pilot, lambda: titles(bench) == ["[red]mine"])


async def test_export_writes_markdown_and_never_over_a_file(tmp_path: Path) -> None:
    bench = Bench(Script(replies=("**one**",)))
    target = tmp_path / "talk.md"
    async with bench.app.run_test(size=WIDE) as pilot:
        await ready(pilot, bench)
        await talk(pilot, bench, "a")
        for told in ("Written to", "exists already"):
            await to_chats(pilot, bench)
            await pilot.press("e")
            await until(pilot, lambda: isinstance(bench.app.screen, TextDialog))
            bench.app.screen.query_one(Input).value = str(target)
            await pilot.press("enter")
            await until(pilot, told_in(bench, told))
            await pilot.press("escape")
    text = target.read_text(encoding="utf-8")
    assert text.startswith("# a\n\n**You**\n\n> a\n\n**one**\n\n*smollm2-135m-instruct, no adapter, ")


async def test_last_question_is_changed_in_place_and_an_earlier_one_branches() -> None:
    bench = Bench(Script(replies=("one", "two", "TWO", "ONE")))
    async with bench.app.run_test(size=WIDE) as pilot:
        await ready(pilot, bench)
        await talk(pilot, bench, "a", "b")
        await pilot.press("up")
        await until(pilot, lambda: bench.prompt.text == "b")
        await pilot.press("x", "enter")
        await until(pilot, lambda: sources(bench) == ["one", "TWO"] and bench.statuses[-1].endswith("complete"))
        await until(pilot, lambda: [turn.question for turn in turns(bench, 0)] == ["a", "bx"])
        await pilot.press("up", "up")
        await until(pilot, lambda: bench.prompt.text == "a")
        await pilot.press("down")
        await until(pilot, lambda: bench.prompt.text == "bx")
        await pilot.press("up", "y", "enter")
        await until(pilot, lambda: sources(bench) == ["ONE"] and bench.statuses[-1].endswith("complete"))
        await until(pilot, lambda: len(bench.store.history.list()) == 2)
    assert [message.content for message in bench.engine.asked[-1]] == ["ay"]
    assert sorted(tuple(turn.question for turn in turns(bench, place)) for place in (0, 1)) == [("a", "bx"), ("ay",)]


def turns(bench: Bench, place: int) -> tuple[StoredTurn, ...]:
    return bench.store.history.turns(bench.store.history.list()[place].id)


async def test_escape_leaves_the_question_that_was_to_be_changed() -> None:
    bench = Bench(Script(replies=("one", "two")))
    async with bench.app.run_test(size=WIDE) as pilot:
        await ready(pilot, bench)
        await talk(pilot, bench, "a")
        await pilot.press("up")
        await until(pilot, lambda: bench.prompt.text == "a")
        await pilot.press("escape")
        await until(pilot, lambda: bench.prompt.text == "")
        await talk(pilot, bench, "b")
    assert [message.content for message in bench.engine.asked[-1]] == ["a", "one", "b"]


async def test_quitting_keeps_half_a_reply_half_a_question_and_the_adapters() -> None:
    bench = Bench(Script(replies=("word " * 50,), gate=threading.Event()))
    async with bench.app.run_test(size=WIDE) as pilot:
        await ready(pilot, bench)
        await pilot.press("f6", "space", "left", "escape")
        await ask(pilot, "go")
        await until(pilot, lambda: "1 token" in bench.statuses[0])
        await pilot.press(*"half")
        await pilot.press("ctrl+q")
        await until(pilot, lambda: bench.app._exit)
    again = Bench()
    assert again.store.history.turns(1)[0].reply == "word"
    async with again.app.run_test(size=WIDE) as pilot:
        await ready(pilot, again)
        assert again.prompt.text == "half"
        assert [(each.name, each.use.scale) for each in again.app.chat.attached()] == [("lease-2025", 0.9)]
        await to_chats(pilot, again)
        await pilot.press("enter")
        await until(pilot, lambda: again.statuses == ["lease-2025 @0.9, cut off"])


async def test_comparison_stands_side_by_side_and_survives_the_history() -> None:
    bench = Bench(Script(replies=("with", "without", "new")))
    async with bench.app.run_test(size=WIDE) as pilot:
        await ready(pilot, bench)
        await pilot.press("f6", "space", "escape", *"q", "f7")
        await until(pilot, lambda: len(bench.statuses) == 2 and bench.statuses[1].endswith("complete"))
        pair = list(bench.app.chat.query(ReplyView))
        assert pair[0].region.y == pair[1].region.y and pair[0].region.x < pair[1].region.x
        assert len(bench.app.chat.query(TurnView)) == 1
        assert [status.split(",")[0] for status in bench.statuses] == ["lease-2025 @1.0", "no adapter"]
        await until(pilot, lambda: kept(bench) and len(kept(bench)) == 2 and kept(bench)[0].stats is not None)
        await pilot.press("ctrl+n")
        await to_chats(pilot, bench)
        await pilot.press("enter")
        await until(pilot, lambda: sources(bench) == ["with", "without"])
        assert len(bench.app.chat.query(TurnView)) == 1
        await pilot.press("f7")
        await until(pilot, lambda: sources(bench) == ["with", "new"])
    assert all([message.content for message in messages] == ["q"] for messages in bench.engine.asked)


async def test_palette_finds_adapters_and_conversations_by_what_was_said() -> None:
    bench = Bench(Script(replies=("the word is lanternfish",)))
    async with bench.app.run_test(size=WIDE) as pilot:
        await ready(pilot, bench)
        await talk(pilot, bench, "a")
        await pilot.press("ctrl+n", "ctrl+p", *"lanternfish")
        await until(pilot, lambda: found(bench) == ["Open chat: a"])
        await pilot.press("enter")
        await until(pilot, lambda: sources(bench) == ["the word is lanternfish"])
        await pilot.press("ctrl+p", *"lease-2025")
        await until(pilot, lambda: found(bench) == ["Adapter on: lease-2025"])
        await pilot.press("enter")
        await until(pilot, lambda: [each.name for each in bench.app.chat.attached()] == ["lease-2025"])


def found(bench: Bench) -> list[str]:
    return [str(option.prompt).split("\n")[0] for option in bench.app.screen.query_one(OptionList).options]
