"""How the app looks, at both sizes, dark and in a light terminal's own colours. Textual is pinned for these.

After a change that was meant: `pytest tests/tui/test_snapshots.py --snapshot-update`, and look at the pictures.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

import pytest
from textual.pilot import Pilot

from localhyper.errors import ModelError
from localhyper.tui.app import LocalHyperApp
from localhyper.tui.error_dialog import ErrorDialog
from localhyper.tui.host_events import Failure
from tests.tui.fake_engine import Script
from tests.tui.flows import Bench, answered, ask, ready, until

REPLY = """The notice period is **three months**:

- it starts on the first day of the month
- see `lease.pdf`

```python
months = 3
```
"""
SMALL, LARGE = (80, 24), (120, 40)


class SnapCompare(Protocol):
    """What pytest-textual-snapshot's fixture is called with."""

    def __call__(
        self,
        app: LocalHyperApp,
        *,
        terminal_size: tuple[int, int],
        run_before: Callable[[Pilot[None]], Awaitable[None]],
    ) -> bool: ...


def still(bench: Bench) -> None:
    """Nothing on the screen may depend on the moment of the picture."""
    bench.prompt.cursor_blink = False
    bench.app.screen.set_focus(bench.prompt)


@pytest.mark.parametrize("theme", ["textual-dark", "ansi-light"])
@pytest.mark.parametrize("size", [SMALL, LARGE], ids=["80x24", "120x40"])
def test_conversation(snap_compare: SnapCompare, size: tuple[int, int], theme: str) -> None:
    bench = Bench(Script(replies=(REPLY,)), theme=theme)

    async def talk(pilot: Pilot[None]) -> None:
        await ready(pilot, bench)
        await pilot.press("f6", "space", "left", "escape")
        await ask(pilot, "When may I give notice?")
        await answered(pilot, bench, 1)
        still(bench)

    assert snap_compare(bench.app, terminal_size=size, run_before=talk)


def test_missing_model(snap_compare: SnapCompare) -> None:
    error = ModelError("base model `smollm2-135m-instruct` is not here", "run `localhyper models pull`")
    bench = Bench(load_errors=[error])

    async def wait(pilot: Pilot[None]) -> None:
        await until(pilot, lambda: "no model" in bench.header)
        still(bench)

    assert snap_compare(bench.app, terminal_size=SMALL, run_before=wait)


def test_error_dialog(snap_compare: SnapCompare) -> None:
    bench = Bench()
    failure = Failure(
        "unexpected ZeroDivisionError: boom", details="error     builtins.ZeroDivisionError", traceback="x"
    )

    async def fail(pilot: Pilot[None]) -> None:
        await ready(pilot, bench)
        bench.prompt.cursor_blink = False
        bench.app.show_failure(failure)
        await until(pilot, lambda: isinstance(bench.app.screen, ErrorDialog) and bench.app.screen.focused)

    assert snap_compare(bench.app, terminal_size=SMALL, run_before=fail)
