"""What the top-level screens have in common: header, job line, footer, and the way back to the chat."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from textual.app import ComposeResult, SystemCommand
from textual.binding import Binding, BindingType
from textual.screen import Screen
from textual.widgets import Footer

from .app_state import AppState
from .header import HeaderBar
from .job_bar import JobBar
from .services import Services


class Place(Screen[None]):
    """A top-level screen over the services and the state that all share."""

    PLACE = "localhyper"

    def __init__(self, services: Services, state: AppState) -> None:
        super().__init__()
        self.services = services
        self.state = state

    def compose(self) -> ComposeResult:
        """Header, the place's own, job line, footer."""
        yield HeaderBar(self.state, self.PLACE)
        yield from self.compose_place()
        yield JobBar(self.state)
        yield Footer()

    def compose_place(self) -> ComposeResult:
        """What the place itself shows."""
        yield from ()

    def commands(self) -> Iterator[SystemCommand]:
        """The palette's entries of this place: those that can be done now."""
        yield from ()


class SidePlace(Place):
    """A place one comes back from."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "leave", "Back", id="place.back", tooltip="Back to where you were"),
    ]

    async def action_leave(self) -> None:
        """Back to the conversation."""
        await self.run_action("app.place('chat')")
