"""The chat's business with earlier conversations: opening, deleting, renaming, exporting."""

from __future__ import annotations

from localhyper.history import StoredChat, StoredTurn

from .background import in_background
from .chats_panel import ChatsPanel
from .conversation import Conversation, from_stored
from .places import Place


class ChatHistory(Place):
    """The part of the chat screen that goes back to what was said before."""

    conversation: Conversation

    async def show_conversation(self, conversation: Conversation) -> None:
        """Put a conversation in the place of the one on the screen."""
        raise NotImplementedError

    def action_back(self) -> None:
        """Back to the question."""
        raise NotImplementedError

    def on_chats_panel_opened(self, message: ChatsPanel.Opened) -> None:
        """Go on with it."""
        self.open_chat(message.chat)

    def open_chat(self, chat: StoredChat) -> None:
        """Go on with an earlier conversation."""
        if chat.id != self.conversation.number:
            in_background(
                self, lambda: self.services.store.history.turns(chat.id), lambda turns: self._opened(chat, turns)
            )
        else:
            self.action_back()

    async def _opened(self, chat: StoredChat, turns: tuple[StoredTurn, ...]) -> None:
        await self.show_conversation(Conversation(from_stored(turns), chat.id, chat.title))
        self.remove_class("-panel")

    async def on_chats_panel_deleted(self, message: ChatsPanel.Deleted) -> None:
        """The open conversation is gone: begin another."""
        if message.number == self.conversation.number:
            await self.show_conversation(Conversation())

    def on_chats_panel_renamed(self, message: ChatsPanel.Renamed) -> None:
        """The open conversation knows its title."""
        if message.number == self.conversation.number:
            self.conversation.title = message.title

    def action_export_chat(self) -> None:
        """Write this conversation as Markdown."""
        title = self.conversation.title or self.conversation.turns[0].question
        chat = StoredChat(self.conversation.number, title, len(self.conversation.turns), "", "")
        self.query_one(ChatsPanel).export(chat)
