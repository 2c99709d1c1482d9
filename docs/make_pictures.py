"""`python -m docs.make_pictures`: draw `docs/images/chat.svg`, the terminal UI over the tests' scripted engine.

The picture shows the screen, not what a model can do: the reply is written below. Same Textual, same picture.
"""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

from localhyper.atomic import write_text_atomic
from localhyper.tui.adapter_source import AdapterRow
from tests.tui.fake_engine import INFO, Script
from tests.tui.flows import Bench, FakeSource, answered, ask, ready

IMAGES = Path(__file__).resolve().parent / "images"
SIZE = (100, 24)
QUESTION = "Who keeps the lighthouse?"
REPLY = "The keeper of the lighthouse is **Tomas Brekkeli**."
ROWS = (
    AdapterRow("harbour-office", Path("harbour-office.gguf"), "txt, rank 64", INFO.fingerprint),
    AdapterRow("lease-2025", Path("lease-2025.gguf"), "pdf, rank 64", INFO.fingerprint),
)


async def chat_picture() -> str:
    """The chat screen after one question, one adapter attached, as SVG."""
    bench = Bench(Script(replies=(REPLY,)), source=FakeSource(ROWS), theme="textual-dark")
    async with bench.app.run_test(size=SIZE) as pilot:
        await ready(pilot, bench)
        await pilot.press("f6", "space", "escape")
        await ask(pilot, QUESTION)
        await answered(pilot, bench, 1)
        bench.prompt.cursor_blink = False
        bench.app.screen.set_focus(None)
        await pilot.pause()
        return _plain(bench.app.export_screenshot(title="localhyper"))


def _plain(svg: str) -> str:
    """Without fonts from the network, and with ids that are the same each time."""
    svg = re.sub(r"\s*@font-face\s*\{.*?\n    \}", "", svg, flags=re.S)
    unique = re.search(r"terminal-\d+", svg)
    return svg.replace(unique.group(), "terminal") if unique else svg


def main() -> None:
    """Draw every picture."""
    write_text_atomic(IMAGES / "chat.svg", asyncio.run(chat_picture()))


if __name__ == "__main__":
    main()
