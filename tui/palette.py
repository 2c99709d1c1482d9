"""What the palette finds beside commands: adapters to switch and conversations to open."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, cast

from textual.command import DiscoveryHit, Hit, Hits, Provider
from textual.content import Content
from textual.types import IgnoreReturnCallbackType

from localhyper.errors import LocalHyperError

from .adapter_panel import AdapterPanel
from .words import day_text, plain

if TYPE_CHECKING:
    from .chat_screen import ChatScreen

_MOST = 20


class _Entries(Provider):
    """Named things of the chat screen, matched by name. Titles are strangers' texts, never markup."""

    @property
    def chat(self) -> ChatScreen:
        """The screen the palette was opened on."""
        return cast("ChatScreen", self.screen)

    def entries(self) -> Iterator[tuple[str, str, IgnoreReturnCallbackType]]:
        """Text, help, what it does."""
        yield from ()

    async def discover(self) -> Hits:
        """What stands there before anything is typed."""
        for text, help_text, command in self.entries():
            yield DiscoveryHit(Content(text), command, text=text, help=help_text)

    async def search(self, query: str) -> Hits:
        """What fits what is typed."""
        matcher = self.matcher(query)
        for text, help_text, command in self.entries():
            score, offsets = matcher.fuzzy_search.match(query, text)
            if score > 0:
                shown = Content(text)
                for offset in offsets:
                    shown = shown.stylize(matcher.match_style, offset, offset + 1)
                yield Hit(score, shown, command, text=text, help=help_text)


class AdapterCommands(_Entries):
    """Switch an adapter on or off."""

    def entries(self) -> Iterator[tuple[str, str, IgnoreReturnCallbackType]]:
        """One for each adapter."""
        panel = self.chat.query_one(AdapterPanel)
        for row in panel.rows[:_MOST]:
            if panel.is_on(row.name):
                yield f"Adapter off: {plain(row.name)}", "It does not answer any more", partial(panel.detach, row.name)
            else:
                yield f"Adapter on: {plain(row.name)}", row.detail, partial(panel.attach, row.name)


class ChatCommands(Provider):
    """Open an earlier conversation: searched in titles, questions and replies."""

    async def search(self, query: str) -> Hits:
        """Conversations that hold what is typed."""
        chat = cast("ChatScreen", self.screen)
        try:
            found = await asyncio.to_thread(lambda: chat.services.store.history.list(query))
        except LocalHyperError:
            return
        for stored in found[:_MOST]:
            text = f"Open chat: {plain(stored.title)}"
            help_text = f"{day_text(stored.changed_at)}, {stored.turns} questions"
            yield Hit(0.5, Content(text), partial(chat.open_chat, stored), text=text, help=help_text)
