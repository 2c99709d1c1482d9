"""Documents whose small chunks answer: what `attach` tells, and their adapter as a whole, made when first wanted."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from localhyper.base_header import read_base_info
from localhyper.config import load_config, with_value
from localhyper.engine import AdapterUse
from localhyper.errors import Cancelled
from localhyper.gguf_adapter import read_metadata
from localhyper.paths import get_paths
from localhyper.progress import CancelToken, Progress
from localhyper.workbench import Workbench
from tests.cli.conftest import SPEC, Shell
from tests.tiny_gguf import write_tiny_gguf
from tests.tiny_onnx import TinyBundle, search_arrays, write


@pytest.fixture
def here(shell: Shell) -> Shell:
    """A base model and a bundle that answers with chunks of 16 tokens lie where a command without --base finds them."""
    paths = json.loads(shell.run("paths", "--json").stdout)
    for folder in (Path(paths["models"]), Path(paths["hypernetworks"]), Path(paths["config"]).parent):
        folder.mkdir(parents=True, exist_ok=True)
    Path(paths["models"], "tiny.gguf").symlink_to(shell.base)
    fingerprint = read_base_info(shell.base).fingerprint
    tiny = TinyBundle(
        hidden=SPEC.hidden, ffn=SPEC.ffn, blocks=SPEC.blocks, fingerprint=fingerprint, chunk_tokens=64, gain=0.002
    )
    tiny = replace(tiny, metadata={"cut_tokens": 16}, constants=search_arrays(tiny))
    bundle = write(Path(paths["hypernetworks"], "small.onnx"), tiny)
    (shell.home / "config" / "config.toml").write_text('[base]\nname = "tiny"\n')
    return replace(shell, bundle=bundle)


def row(shell: Shell, name: str = "lease") -> dict[str, object]:
    """The adapter as scripts get it."""
    found: dict[str, object] = json.loads(shell.run("adapters", "show", name, "--json").stdout)
    return found


@pytest.fixture
def attached(here: Shell, lease: Path) -> Shell:
    """With a document in the library."""
    done = here.run("attach", lease)
    assert done.returncode == 0, done.stderr
    return here


def test_attach_tells_of_the_chunks_adapters_and_where_they_are(here: Shell, lease: Path) -> None:
    done = here.run("attach", lease)
    about, folder = done.stdout.splitlines()
    assert about.startswith("lease  ") and " chunks, an adapter of each chunk, " in about and "rank" not in about
    assert folder.endswith(".chunks") and Path(folder).is_dir()
    assert "encode" in done.stderr and "merge" not in done.stderr
    assert here.run("attach", lease).stdout.splitlines() == ["lease  attached before, nothing to do", folder]
    info = row(here)
    assert (info["whole_made"], info["usable"], info["size_bytes"], info["rank"]) == (False, True, 0, 256)
    assert here.run("adapters", "list").stdout.splitlines()[1].split()[3] == "-"
    shown = here.run("adapters", "show", "lease").stdout
    assert "made when it is first exported, merged or asked as a whole, of rank 256 at most" in shown
    assert "energy" not in shown


def test_the_first_export_makes_it_and_the_next_one_does_not(attached: Shell, tmp_path: Path) -> None:
    first = attached.run("adapters", "export", "lease", tmp_path / "one.gguf")
    assert first.returncode == 0 and "encode lease chunk 1" in first.stderr, first.stderr
    info = row(attached)
    assert info["whole_made"] and info["size_bytes"] == (tmp_path / "one.gguf").stat().st_size
    assert read_metadata(tmp_path / "one.gguf").rank == info["rank"]
    for words in (("two.gguf", "--dtype", "q8_0"), ("peft", "--format", "peft")):
        again = attached.run("adapters", "export", "lease", tmp_path / words[0], *words[1:])
        assert again.returncode == 0 and "encode" not in again.stderr


def test_a_place_that_is_taken_is_found_before_the_work(attached: Shell, tmp_path: Path) -> None:
    (tmp_path / "taken.gguf").write_bytes(b"mine")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "adapter_config.json").write_text("{}")
    for words in (("taken.gguf",), ("taken.gguf", "--dtype", "q8_0"), ("taken", "--format", "peft")):
        done = attached.run("adapters", "export", "lease", tmp_path / words[0], *words[1:])
        assert done.returncode == 8 and "exists already" in done.stderr and "encode" not in done.stderr
    done = attached.run("adapters", "export", "lease", tmp_path / "taken.gguf", "--merge")
    assert done.returncode == 8 and "encode" not in done.stderr
    for name, told in (("LEASE", "`LEASE` already"), ("../evil", "cannot be an adapter's name")):
        done = attached.run("adapters", "merge", "lease", "lease@0.5", "--name", name)
        assert done.returncode == 8 and told in done.stderr and "encode" not in done.stderr, done.stderr
    assert (tmp_path / "taken.gguf").read_bytes() == b"mine" and not row(attached)["whole_made"]


def test_a_question_in_a_chat_tells_how_far_it_is_and_stops(attached: Shell) -> None:
    config = with_value(load_config(attached.home / "config" / "config.toml"), "adapter.choose_chunk", False)
    path, told, token = str(row(attached)["path"]), list[Progress](), CancelToken()

    def stop(progress: Progress) -> None:
        if progress.stage == "encode" and progress.done == 1:
            token.cancel()

    with Workbench(get_paths(attached.home), config) as bench:
        uses, engine = (AdapterUse(Path(path)),), bench.engine()
        with pytest.raises(Cancelled):
            bench.choosing(stop, token)(["When?"], uses, engine)
        assert not row(attached)["whole_made"] and not Path(path).exists()
        assert bench.choosing(told.append)(["When?"], uses, engine).uses == uses
        assert row(attached)["whole_made"] and Path(path).is_file()
        assert next(one.done for one in told if one.stage == "encode") == 1, "it goes on where it stopped"
        told.clear()
        bench.choosing(told.append)(["When?"], uses, engine)
        assert not told


def test_a_merge_and_a_question_to_the_whole_make_it(attached: Shell, tmp_path: Path) -> None:
    note = tmp_path / "note.txt"
    note.write_text("The harbour opens in April and closes in October. Boats lie at the third pier all the year.\n" * 2)
    assert attached.run("attach", note).returncode == 0
    merged = attached.run("adapters", "merge", "lease", "note@0.5", "--name", "both")
    assert merged.returncode == 0, merged.stderr
    assert row(attached)["whole_made"] and row(attached, "note")["whole_made"]
    tale = tmp_path / "tale.txt"
    tale.write_text("Once upon a time a fox met a hen by the well. They spoke of the weather and of the moon.\n" * 2)
    said = attached.run("ask", "Hello there?", "--document", tale, "--max-tokens", "2")
    assert said.returncode == 0 and not row(attached, "tale")["whole_made"]
    said = attached.run("ask", "Hello there?", "--with", "tale", "--whole", "--max-tokens", "2")
    assert said.returncode == 0 and row(attached, "tale")["whole_made"], said.stderr


def test_asked_as_a_whole_it_is_made_with_the_document(here: Shell, lease: Path) -> None:
    said = here.run("ask", "Hello there?", "--document", lease, "--whole", "--max-tokens", "2")
    assert said.returncode == 0 and row(here)["whole_made"], said.stderr


def test_models_that_were_named_by_a_path_make_it_at_once(here: Shell, lease: Path, tmp_path: Path) -> None:
    elsewhere = here.bundle.rename(tmp_path / "elsewhere.onnx")
    assert here.run("attach", lease, "--hypernet", elsewhere, "--name", "one").returncode == 0
    elsewhere.rename(here.bundle)
    (link,) = here.home.rglob("tiny.gguf")
    link.unlink()
    assert here.run("attach", lease, "--base", here.base, "--rank", "8", "--name", "two").returncode == 0
    assert row(here, "one")["whole_made"] and row(here, "two")["whole_made"]


def test_paths_in_the_settings_are_found_again(here: Shell, lease: Path, tmp_path: Path) -> None:
    elsewhere = here.bundle.rename(tmp_path / "elsewhere.onnx")
    (link,) = here.home.rglob("tiny.gguf")
    link.unlink()
    settings = f'[base]\nname = "{here.base}"\n[hypernet]\nname = "{elsewhere}"\n'
    (here.home / "config" / "config.toml").write_text(settings)
    assert here.run("attach", lease).returncode == 0 and not row(here)["whole_made"]
    done = here.run("adapters", "export", "lease", tmp_path / "x.gguf")
    assert done.returncode == 0 and row(here)["whole_made"], done.stderr


def test_what_made_it_has_to_be_here_still(attached: Shell, tmp_path: Path) -> None:
    away = attached.bundle.rename(tmp_path / "away.onnx")
    done = attached.run("adapters", "export", "lease", tmp_path / "x.gguf")
    assert done.returncode == 5, done.stderr
    assert "error: hypernetwork `" in done.stderr and "is not on this machine as it was" in done.stderr
    assert "hint: attach the document again" in done.stderr and not (tmp_path / "x.gguf").exists()
    away.rename(attached.bundle)
    (link,) = (file for file in attached.home.rglob("tiny.gguf"))
    link.unlink()
    done = attached.run("adapters", "export", "lease", tmp_path / "x.gguf")
    assert done.returncode != 0 and "Traceback" not in done.stderr and not (tmp_path / "x.gguf").exists()


def test_another_base_model_being_set_does_not_matter(attached: Shell, tmp_path: Path) -> None:
    models = Path(json.loads(attached.run("paths", "--json").stdout)["models"])
    write_tiny_gguf(models / "other.gguf", replace(SPEC, blocks=SPEC.blocks + 1))
    (attached.home / "config" / "config.toml").write_text('[base]\nname = "other"\n')
    done = attached.run("adapters", "export", "lease", tmp_path / "x.gguf")
    assert done.returncode == 0, done.stderr
    assert row(attached)["whole_made"]


def test_evaluations_make_it_where_they_measure_it(here: Shell, lease: Path, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("Hello there?\n")
    done = here.run("eval", "unrelated", "--documents", lease, "--prompts", prompts, "--json")
    assert done.returncode == 0, done.stderr
    words = ("--tokens", "100", "--cases", "2", "--max-tokens", "2", "--columns", "adapter,whole", "--json")
    done = here.run("eval", "needle", *words)
    assert done.returncode == 0, done.stderr
    with_whole = json.loads(done.stdout)
    done = here.run("eval", "needle", *words[:-3], "--columns", "adapter", "--json")
    assert done.returncode == 0, done.stderr
    without = json.loads(done.stdout)
    text = json.dumps(with_whole), json.dumps(without)
    assert '"rank": null' not in text[0] and '"rank": null' in text[1], "only the first one has a file of the whole"
