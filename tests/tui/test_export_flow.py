"""Number formats and sums in the export dialog, driven by keys over real adapter files."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from textual.pilot import Pilot
from textual.widgets import Button, DataTable, Input

from localhyper.base_header import read_base_info
from localhyper.config import Config
from localhyper.errors import Cancelled, LibraryError
from localhyper.gguf_adapter import AdapterMetadata, read_adapter, write_adapter
from localhyper.gguf_header import read_header
from localhyper.jobs import JobRequest
from localhyper.library import AdapterInfo
from localhyper.tui.adapter_details import details
from localhyper.tui.export_dialog import ExportDialog
from localhyper.tui.exporting import GGUF, LIBRARY, ExportWish, export
from localhyper.workbench import Workbench
from tests.tiny_gguf import TinySpec, lora_deltas, tiny_lora, write_tiny_gguf
from tests.tiny_onnx import TinyBundle, search_arrays, write
from tests.tui.flows import Bench, until
from tests.tui.test_library_flow import names, open_library, put, told_by

pytestmark = pytest.mark.asyncio
SMALL = (80, 24)


def put_real(bench: Bench, name: str, seed: int, rank: int) -> AdapterInfo:
    """Store an adapter whose file is one."""
    base = read_base_info(write_tiny_gguf(bench.paths.cache_dir / "tiny.gguf"))
    made = bench.paths.cache_dir / "made.gguf"
    weights = tiny_lora(seed=seed, rank=rank)
    write_adapter(made, weights, base, AdapterMetadata(name=name, base_fingerprint=base.fingerprint), "f32")
    data = made.read_bytes()
    info = put(bench.store, name, (f"text of {name}",), size_bytes=len(data), rank=rank,
               base_fingerprint=base.fingerprint, base_name="tiny-llama")  # fmt: skip
    info.path.write_bytes(data)
    return info


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """Two adapters of one base model; the newest is the first in the list."""
    bench = Bench(source=None)
    put_real(bench, "lease", 1, 3)
    put_real(bench, "sort", 2, 4)
    bench.app.chat.services.remembered.update(export_folder=str(tmp_path))
    return bench


async def opened(pilot: Pilot[None], bench: Bench) -> ExportDialog:
    """The dialog, once it is there."""
    await until(pilot, lambda: isinstance(bench.app.screen, ExportDialog))
    dialog = bench.app.screen
    assert isinstance(dialog, ExportDialog)
    return dialog


async def merging(pilot: Pilot[None], bench: Bench) -> ExportDialog:
    """The dialog for both adapters."""
    screen = await open_library(pilot, bench)
    await until(pilot, lambda: len(names(screen)) == 2)
    await pilot.press("m", "m")
    await until(pilot, lambda: "2 marked" in str(screen.query_one("#summary").render()))
    assert [str(screen.query_one(DataTable).get_row_at(row)[0])[1] for row in (0, 1)] == ["+", "+"]
    await pilot.press("e")
    return await opened(pilot, bench)


def types(path: Path) -> set[str]:
    """Number formats of a file's tensors."""
    return {tensor.type_name for tensor in read_header(path).tensors}


@pytest.mark.parametrize(("steps", "wanted"), [(0, "F32"), (1, "F16"), (2, "F32"), (3, "Q8_0"), (4, "Q5_0")])
async def test_the_number_format_is_chosen_by_keys(bench: Bench, tmp_path: Path, steps: int, wanted: str) -> None:
    async with bench.app.run_test(size=SMALL) as pilot:
        await open_library(pilot, bench)
        await pilot.press("e")
        dialog = await opened(pilot, bench)
        await pilot.press("tab", "tab", *["right"] * steps, "enter", "shift+tab", "shift+tab", "enter")
        await until(pilot, lambda: "✓ Written" in told_by(dialog) or "! " in told_by(dialog))
        file = tmp_path / f"{names(bench.app.screen_stack[0])[0]}.gguf"  # type: ignore[arg-type]
        if wanted in ("Q8_0", "Q5_0") and "! " in told_by(dialog):
            assert wanted.lower() in told_by(dialog)
            return
        assert wanted in types(file)
        assert f"--lora {file}" in told_by(dialog)


async def test_marked_adapters_become_one_file_at_their_strengths(bench: Bench, tmp_path: Path) -> None:
    async with bench.app.run_test(size=SMALL) as pilot:
        dialog = await merging(pilot, bench)
        box = dialog.query_one("#adapters", Input)
        assert sorted(box.value.split()) == ["lease", "sort"]
        box.value = "lease sort@0.5"
        dialog.query_one("#rank", Input).value = "none"
        await pilot.press("enter")
        await until(pilot, lambda: "! rank is `none`" in told_by(dialog))
        dialog.query_one("#rank", Input).value = "0"
        dialog.query_one("#to", Input).value = str(tmp_path / "both.gguf")
        await pilot.press("enter")
        await until(pilot, lambda: "✓ Written" in told_by(dialog))
        assert "rank 7, 100.00% of the energy kept" in told_by(dialog) and "llama-server" in told_by(dialog)
        assert dialog.query_one("#close").region.bottom <= 24
        wanted = lora_deltas(tiny_lora(seed=1, rank=3))
        for name, delta in lora_deltas(tiny_lora(seed=2, rank=4), 0.5).items():
            wanted[name] = wanted[name] + delta
        for name, delta in lora_deltas(read_adapter(tmp_path / "both.gguf")[0]).items():
            np.testing.assert_allclose(delta, wanted[name], atol=2e-3)


async def test_marked_adapters_become_a_peft_folder_on_the_smallest_screen(bench: Bench, tmp_path: Path) -> None:
    async with bench.app.run_test(size=SMALL) as pilot:
        dialog = await merging(pilot, bench)
        await pilot.press("tab", "right", "enter")
        await until(pilot, lambda: dialog.query_one("#to", Input).value.endswith("-peft"))
        dialog.query_one("#to", Input).value = str(tmp_path / "both-peft")
        await pilot.press("shift+tab", "enter")
        await until(pilot, lambda: "PeftModel" in told_by(dialog))
        assert (tmp_path / "both-peft" / "adapter_config.json").is_file()
        assert dialog.query_one("#close").region.bottom <= 24


async def test_a_place_that_is_taken_is_found_before_a_sum_is_made(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def work(*_: object, **__: object) -> None:
        pytest.fail("the sum was made")

    monkeypatch.setattr(Workbench, "merge", work)
    (tmp_path / "taken.gguf").write_bytes(b"mine")
    for form, to, told in (
        (GGUF, str(tmp_path / "taken.gguf"), "exists already"),
        (LIBRARY, "Lease", "`Lease` already"),
    ):
        with pytest.raises(LibraryError, match=told):
            export(bench.store, Config(), ExportWish(("lease", "sort"), form, to, is_sum=True))
    assert (tmp_path / "taken.gguf").read_bytes() == b"mine"


async def test_marked_adapters_become_one_of_the_library(bench: Bench) -> None:
    async with bench.app.run_test(size=SMALL) as pilot:
        dialog = await merging(pilot, bench)
        await pilot.press("tab", "left", "enter")
        await until(pilot, lambda: "A new adapter" in told_by(dialog))
        to = dialog.query_one("#to", Input)
        assert to.value in ("lease-sort", "sort-lease")
        to.value = "lease"
        await pilot.press("shift+tab", "enter")
        await until(pilot, lambda: "an adapter named `lease` already" in told_by(dialog))
        assert "--name" not in told_by(dialog)
        to.value = "both"
        await pilot.press("enter")
        await until(pilot, lambda: "✓ both is in the library" in told_by(dialog))
        assert not dialog.query_one("#copy", Button).display
        await pilot.press("escape")
        screen = bench.app.screen
        await until(pilot, lambda: "both" in names(screen))  # type: ignore[arg-type]
        assert "marked" not in str(screen.query_one("#summary").render())
        info = bench.store.library.get("both")
        assert info.kind == "merge" and "text of lease" in bench.store.text(info)


async def test_mistakes_in_a_sum_are_one_line(bench: Bench, tmp_path: Path) -> None:
    async with bench.app.run_test(size=SMALL) as pilot:
        dialog = await merging(pilot, bench)
        box = dialog.query_one("#adapters", Input)
        for words, told in (
            ("", "no adapters are named"),
            ("lease nobody", "no adapter named `nobody`"),
            ("lease sort@much", "is not `NAME` or `NAME@SCALE`"),
            ("lease sort@0", "has scale 0"),
            ("lease lease", "given twice"),
        ):
            box.value = words
            await pilot.press("enter")
            await until(pilot, lambda told=told: told in told_by(dialog))  # type: ignore[misc]
        assert list(tmp_path.glob("*.gguf")) == []


async def test_marks_are_taken_away_by_escape_and_by_m(bench: Bench) -> None:
    async with bench.app.run_test(size=SMALL) as pilot:
        screen = await open_library(pilot, bench)
        await pilot.press("m")
        await until(pilot, lambda: "1 marked" in str(screen.query_one("#summary").render()))
        await pilot.press("escape")
        await until(pilot, lambda: "marked" not in str(screen.query_one("#summary").render()))
        assert bench.app.current_mode == "library"


@pytest.fixture
def unmade(bench: Bench) -> AdapterInfo:
    """The newest in the list: a document whose chunks answer, its adapter as a whole yet to be made."""
    spec = TinySpec(blocks=4, context=512)
    (bench.paths.data_dir / "models").mkdir(parents=True, exist_ok=True)
    base = read_base_info(write_tiny_gguf(bench.paths.data_dir / "models" / "tiny.gguf", spec))
    tiny = TinyBundle(
        hidden=spec.hidden, ffn=spec.ffn, blocks=spec.blocks, fingerprint=base.fingerprint, chunk_tokens=64, gain=0.002
    )
    tiny = replace(tiny, metadata={"cut_tokens": 16}, constants=search_arrays(tiny))
    write(bench.paths.hypernetworks_dir / "small.onnx", tiny)
    with Workbench(bench.paths, Config(), base="tiny") as workbench:
        document = workbench.read(
            JobRequest(text="The notice period is three months. The rent is due. " * 20, name="deed")
        )
        info = workbench.attach(document, workbench.options("deed")).result.adapter
    assert not info.whole_made
    return info


async def test_an_export_of_a_whole_document_makes_its_adapter_and_tells_how_far_it_is(
    bench: Bench, unmade: AdapterInfo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    say = ExportDialog._say

    def heard(self: ExportDialog, text: str, **how: bool) -> None:
        said.append(text)
        say(self, text, **how)

    monkeypatch.setattr(ExportDialog, "_say", heard)
    async with bench.app.run_test(size=SMALL) as pilot:
        screen = await open_library(pilot, bench)
        await until(pilot, lambda: len(names(screen)) == 3)
        assert str(screen.query_one(DataTable).get_row_at(0)[3]) == "-"
        assert dict(details(unmade, ""))["file"] == "made when it is first exported or merged"
        await pilot.press("e")
        dialog = await opened(pilot, bench)
        await pilot.press("enter")
        await until(pilot, lambda: "✓ Written" in told_by(dialog) or "! " in told_by(dialog))
        file = tmp_path / "deed.gguf"
        assert f"--lora {file}" in told_by(dialog) and file.is_file()
        assert any(text.startswith("Making one adapter of all of deed: chunk 1 of ") for text in said)
        await pilot.press("escape")
        made = bench.store.library.get("deed")
        assert made.whole_made
        await until(pilot, lambda: str(screen.query_one(DataTable).get_row_at(0)[3]) == str(made.rank))


async def test_closing_the_dialog_stops_the_reading(
    bench: Bench, unmade: AdapterInfo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[str] = []
    work = Workbench.made_whole

    def slow(self: Workbench, info: AdapterInfo, **how: Any) -> AdapterInfo:
        try:
            while not how["cancel"].cancelled:
                time.sleep(0.01)
            return work(self, info, **how)
        except Cancelled:
            ended.append("stopped")
            raise

    monkeypatch.setattr(Workbench, "made_whole", slow)
    async with bench.app.run_test(size=SMALL) as pilot:
        screen = await open_library(pilot, bench)
        await until(pilot, lambda: len(names(screen)) == 3)
        await pilot.press("e")
        await opened(pilot, bench)
        await pilot.press("enter", "escape")
        await until(pilot, lambda: ended == ["stopped"])
        assert not bench.store.library.get("deed").whole_made and not (tmp_path / "deed.gguf").exists()
