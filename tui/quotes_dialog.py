"""The passages of the attached documents that best support a reply, each with its document and position."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import OptionList, Static
from textual.widgets.option_list import Option

from .background import in_background
from .conversation import Turn
from .host_events import Failure
from .store import Quote, Store
from .words import home_text, plain, visible

_WORD = re.compile(r"\w+")
_SHORTEST = 4  # letters of a word worth marking


class QuotesDialog(ModalScreen[None]):
    """Quotes for one reply; the chunk round the highlighted one is shown below."""

    DEFAULT_CSS = """
    QuotesDialog { align: center middle; }
    QuotesDialog > Vertical { width: 94%; max-width: 110; height: 92%; padding: 0 1; border: round $border;
                              background: $surface; }
    QuotesDialog #reply { color: $text-muted; height: auto; max-height: 3; }
    QuotesDialog OptionList { height: 1fr; border: none; padding: 0; background: transparent; }
    QuotesDialog OptionList:focus { border: none; }
    QuotesDialog #around:focus { background: $boost; }
    QuotesDialog #around { height: 1fr; border-top: solid $foreground-muted; padding: 0 1; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "dismiss", "Close", id="quotes.close", tooltip="Back to the conversation"),
        Binding("c", "copy", "Copy", id="quotes.copy", tooltip="Copy the quote with its place"),
    ]

    def __init__(self, store: Store, turn: Turn) -> None:
        super().__init__()
        self._store, self._turn = store, turn
        self._quotes: tuple[Quote, ...] = ()

    def compose(self) -> ComposeResult:
        """The reply, the quotes, the text round one of them."""
        names = ", ".join(adapter.name for adapter in self._turn.adapters)
        with Vertical() as box:
            box.border_title = Content(f"Quotes from {plain(names)}" if names else "Quotes")
            box.border_subtitle = "↑↓ choose, c copy, esc close"
            yield Static(f"Reply: {plain(self._turn.reply)}", id="reply", markup=False)
            yield OptionList()
            with VerticalScroll(id="around"):
                yield Static("", id="text", markup=False)

    def on_mount(self) -> None:
        """Search, unless no document was there to quote."""
        self.query_one(OptionList).focus()
        if not self._turn.adapters:
            self._say("No adapter answered this question, so there is no document to quote.")
            return
        self._say("Searching…")
        words = f"{self._turn.reply} {self._turn.question}"
        names = [adapter.name for adapter in self._turn.adapters]

        def search() -> tuple[Sequence[Quote], bool]:
            return self._store.quotes(words, names), self._store.has_text(names)

        in_background(self, search, lambda found: self._show(*found), failed=self._fail)

    def _say(self, text: str) -> None:
        self.query_one("#text", Static).update(text)

    def _fail(self, failure: Failure) -> None:
        self._say("\n".join(filter(None, [f"! {failure.message}", failure.hint])))

    def _show(self, quotes: Sequence[Quote], has_text: bool) -> None:
        self._quotes = tuple(quotes)
        if not has_text:
            self._say("No text is stored with these adapters: a task has no document, an imported one comes without.")
            return
        if not quotes:
            self._say("The text of the attached documents shares no word with the question and the reply.")
            return
        options = self.query_one(OptionList)
        options.set_options(Option(self._entry(quote)) for quote in quotes)
        options.highlighted = 0

    def _entry(self, quote: Quote) -> Content:
        """The passage with the words it shares marked, under its document and place."""
        head = f"{plain(quote.adapter.title)}  {quote.place}\n"
        text = plain(quote.passage.text)
        content = Content.assemble((head, "$text-accent"), text, "\n")
        for match in _WORD.finditer(text):
            if match[0].casefold() in self._shared:
                content = content.stylize("bold underline", len(head) + match.start(), len(head) + match.end())
        return content

    @property
    def _shared(self) -> frozenset[str]:
        words = _WORD.findall(f"{self._turn.reply} {self._turn.question}")
        return frozenset(word.casefold() for word in words if len(word) >= _SHORTEST or word.isdigit())

    def on_option_list_option_highlighted(self, event: OptionList.OptionHighlighted) -> None:
        """Show what stands round it."""
        quote = self._quotes[event.option_index]
        in_background(
            self,
            lambda: self._store.surroundings(quote),
            lambda text: self._show_around(quote, text),
            failed=self._fail,
            group="around",
            latest=True,
        )

    def _show_around(self, quote: Quote, text: str) -> None:
        origin = f", {home_text(quote.adapter.origin)}" if quote.adapter.origin else ""
        self._say(f"{plain(quote.adapter.title)}, {quote.place}{plain(origin)}\n\n{visible(text)}")

    def action_copy(self) -> None:
        """Copy the highlighted quote."""
        index = self.query_one(OptionList).highlighted
        if index is not None and index < len(self._quotes):
            quote = self._quotes[index]
            self.app.copy_to_clipboard(f"> {plain(quote.passage.text)}\n\n{quote.adapter.title}, {quote.place}\n")
