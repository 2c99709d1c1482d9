"""`localhyper adapters import`, `merge` and `export`: outputs, exit codes, and what an imported adapter can do."""

from __future__ import annotations

import json
from pathlib import Path

import gguf
import pytest

from localhyper.base_header import read_base_info
from localhyper.gguf_adapter import AdapterMetadata, read_metadata, write_adapter
from tests.cli.conftest import SPEC, Shell
from tests.peft_files import write_peft
from tests.tiny_gguf import tiny_lora


@pytest.fixture
def here(shell: Shell) -> Shell:
    """The tiny base lies where models lie, so that commands without --base find it."""
    assert shell.run("paths").returncode == 0
    models = Path(json.loads(shell.run("paths", "--json").stdout)["models"])
    models.mkdir(parents=True, exist_ok=True)
    (models / "tiny.gguf").symlink_to(shell.base)
    return shell


@pytest.fixture
def foreign(here: Shell, tmp_path: Path) -> Path:
    base = read_base_info(here.base)
    write_adapter(tmp_path / "sums.gguf", tiny_lora(SPEC), base, AdapterMetadata(name="sums"), "f32")
    return tmp_path / "sums.gguf"


def rows(shell: Shell) -> list[dict[str, object]]:
    found: list[dict[str, object]] = json.loads(shell.run("adapters", "list", "--json").stdout)
    return found


def test_a_file_is_imported_used_shown_and_exported(here: Shell, foreign: Path, tmp_path: Path) -> None:
    done = here.run("adapters", "import", foreign, "--base", "tiny")
    assert (done.returncode, done.stdout) == (0, "sums\n"), done.stderr
    again = here.run("adapters", "import", foreign, "--base", "tiny", "--json")
    assert json.loads(again.stdout)["reused"] is True
    assert "already" in here.run("adapters", "import", foreign, "--base", "tiny").stderr
    listed = here.run("adapters", "list").stdout.splitlines()[1].split()
    assert listed[:4] == ["sums", "gguf", "-", "3"]
    shown = here.run("adapters", "show", "sums").stdout
    assert "imported from `sums.gguf`" in shown
    for label in ("hypernetwork", "tokens", "text sha256"):
        assert label not in shown
    text = here.run("adapters", "show", "sums", "--text")
    assert text.returncode == 8
    assert "no text is stored with `sums`" in text.stderr
    said = here.run("ask", "Hello?", "--with", "sums@0.5", "--base", here.base)
    assert said.returncode == 0, said.stderr
    out = tmp_path / "out.gguf"
    assert here.run("adapters", "export", "sums", out).returncode == 0
    assert out.read_bytes() == foreign.read_bytes()
    peft = here.run("adapters", "export", "sums", tmp_path / "peft", "--format", "peft")
    assert peft.returncode == 0, peft.stderr


def test_a_peft_folder_is_imported_and_a_strange_one_is_one_line(here: Shell, tmp_path: Path) -> None:
    folder = write_peft(tmp_path / "My Tune")
    done = here.run("adapters", "import", folder, "--base", "tiny", "--name", "tune", "--json")
    row = json.loads(done.stdout)
    assert (row["name"], row["kind"], row["rank"], row["tokens"]) == ("tune", "peft", 4, 0)
    strange = here.run("adapters", "import", write_peft(tmp_path / "dora", use_dora=True), "--base", "tiny")
    assert strange.returncode == 6
    assert strange.stderr.startswith("error: `dora` is DoRA")
    assert here.run("adapters", "import", tmp_path / "nothing", "--base", "tiny").returncode == 6
    assert here.run("adapters", "import", folder, "--base", "no-such-base").returncode == 4
    assert len(rows(here)) == 1


@pytest.mark.parametrize(("dtype", "kind"), [("f32", "F32"), ("f16", "F16"), ("q8_0", "Q8_0"), ("q5_0", "Q5_0")])
def test_a_number_format_is_chosen(here: Shell, foreign: Path, tmp_path: Path, dtype: str, kind: str) -> None:
    here.run("adapters", "import", foreign, "--base", "tiny")
    out = tmp_path / "out.gguf"
    done = here.run("adapters", "export", "sums", out, "--dtype", dtype)
    assert (done.returncode, done.stdout) == (0, f"{out}\n")
    assert gguf.GGUFReader(out).tensors[0].tensor_type.name == kind
    assert "exists already" in here.run("adapters", "export", "sums", out, "--dtype", dtype).stderr
    assert here.run("adapters", "export", "sums", out, "--dtype", dtype, "--force").returncode == 0


def test_wrong_words_are_one_line(here: Shell, foreign: Path, tmp_path: Path) -> None:
    here.run("adapters", "import", foreign, "--base", "tiny")
    for arguments, words in (
        (("sums", "--dtype", "q4_k"), "--dtype is `q4_k`"),
        (("sums", "--dtype", "f16", "--format", "peft"), "for GGUF files"),
        (("sums", "--rank", "8"), "--rank is for --merge"),
        (("sums", "x", "y"), "got 3 words"),
        (("sums", "--merge"), "NAME[@SCALE]... TO"),
        (("sums@x", tmp_path / "y", "--merge"), "is not `NAME`"),
    ):
        done = here.run("adapters", "export", *arguments)
        assert done.returncode == 2, done.stderr
        assert words in done.stderr
    own = next((Path(str(row["path"])) for row in rows(here)), Path())
    assert "the library's own file" in here.run("adapters", "export", "sums", own, "--dtype", "f16", "--force").stderr


def test_adapters_are_merged_into_the_library_and_into_a_file(here: Shell, foreign: Path, tmp_path: Path) -> None:
    here.run("adapters", "import", foreign, "--base", "tiny")
    lease = tmp_path / "lease.txt"
    lease.write_text("The notice period is three months. The rent is 812 a month.\n")
    assert here.attach(lease).returncode == 0
    done = here.run("adapters", "merge", "lease", "sums@-0.5", "--name", "both", "--rank", "0")
    assert (done.returncode, done.stdout) == (0, "both\n"), done.stderr
    assert "100.00% of the energy kept" in done.stderr
    assert "notice period" in here.run("adapters", "show", "both", "--text").stdout
    assert "merged from `sums` at -0.5" in here.run("adapters", "show", "both").stdout
    assert here.run("ask", "Hello?", "--with", "both", "--base", here.base).returncode == 0
    cut = here.run("adapters", "merge", "lease", "sums@-0.5", "--name", "small", "--rank", "2", "--json")
    row = json.loads(cut.stdout)
    assert row["rank"] == 2
    assert 0 < row["energy_kept"] < 1
    out = tmp_path / "both.gguf"
    exported = here.run("adapters", "export", "lease", "sums@0.5", out, "--merge", "--dtype", "f32")
    assert (exported.returncode, exported.stdout) == (0, f"{out}\n"), exported.stderr
    assert [part["scale"] for part in json.loads(read_metadata(out).merged_from)] == [1.0, 0.5]
    folder = here.run("adapters", "export", "lease", foreign, tmp_path / "both", "--merge", "--format", "peft")
    assert folder.returncode == 0, folder.stderr
    assert (tmp_path / "both" / "adapter_config.json").is_file()
    assert len(rows(here)) == 4
    assert here.run("adapters", "merge", "lease", "lease", "--name", "twice").returncode == 6
    assert here.run("adapters", "merge", "lease", "--name", "sums").returncode == 8
