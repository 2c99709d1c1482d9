"""Files made to do harm: each ends in one clear line, in bounded time and memory, with nothing printed."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from localhyper.errors import SourceError
from localhyper.sources import ReadLimits, child, read_folder, read_source
from localhyper.sources.frames import Request
from localhyper.sources.limits import MIB
from tests.sources_files import docx_bytes, epub_bytes, odt_bytes, pdf_bytes, prose_page, zip_bytes

LIMITS = ReadLimits(seconds=20.0, memory_bytes=600 * MIB, unpacked_bytes=50 * MIB)
LAUGHS = (
    "<!DOCTYPE lolz ["
    + '<!ENTITY a0 "lol">'
    + "".join(f'<!ENTITY a{level} "{f"&a{level - 1};" * 10}">' for level in range(1, 10))
    + "]>"
)
OUTSIDE = '<!DOCTYPE x [<!ENTITY secret SYSTEM "file:///etc/passwd">]>'


def save(folder: Path, name: str, data: bytes) -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


def line_for(path: Path, limits: ReadLimits = LIMITS) -> str:
    with pytest.raises(SourceError) as caught:
        read_source(path, limits=limits)
    error = caught.value
    assert error.message.startswith(path.name)
    assert "\n" not in error.message
    assert "Traceback" not in error.message
    assert len(error.message) < 300
    return error.message


@pytest.mark.parametrize("name", ["bomb.docx", "bomb.odt", "bomb.xlsx", "bomb.pptx", "bomb.epub"])
def test_a_zip_bomb_is_refused_before_it_is_unpacked(tmp_path: Path, name: str) -> None:
    marks = {
        "docx": "word/document.xml",
        "xlsx": "xl/workbook.xml",
        "pptx": "ppt/presentation.xml",
        "epub": "META-INF/container.xml",
        "odt": "content.xml",
    }
    kind = name.rpartition(".")[2]
    members: dict[str, str | bytes] = {marks[kind]: bytes(60 * MIB)}
    if kind == "odt":
        members["mimetype"] = "application/vnd.oasis.opendocument.text"
    assert "unpacks to 60 MiB" in line_for(save(tmp_path, name, zip_bytes(members)))


def test_a_zip_that_lies_about_its_size_cannot_fill_the_memory(tmp_path: Path) -> None:
    data = zip_bytes({"mimetype": "application/vnd.oasis.opendocument.text", "content.xml": bytes(200 * MIB)})
    size = (200 * MIB).to_bytes(4, "little")
    assert size in data
    line_for(save(tmp_path, "liar.odt", data.replace(size, (1000).to_bytes(4, "little"))))


def test_entities_do_not_multiply(tmp_path: Path) -> None:
    assert "entities" in line_for(save(tmp_path, "a.odt", odt_bytes("<text:p>&a9;</text:p>", doctype=LAUGHS)))
    word = zip_bytes(_members(docx_bytes("<w:p><w:r><w:t>BOMB</w:t></w:r></w:p>"), LAUGHS, "BOMB", "&a9;"))
    line_for(save(tmp_path, "a.docx", word))
    book = epub_bytes({"a.xhtml": "<p>&a9;</p>"}, extra={"OEBPS/text/a.xhtml": LAUGHS + "<html><p>&a9; end</p></html>"})
    text = read_source(save(tmp_path, "a.epub", book), limits=LIMITS).text
    assert len(text) < 100


def test_entities_bring_no_other_file_in(tmp_path: Path) -> None:
    line_for(save(tmp_path, "a.odt", odt_bytes("<text:p>&secret;</text:p>", doctype=OUTSIDE)))
    word = zip_bytes(_members(docx_bytes("<w:p><w:r><w:t>HERE</w:t></w:r></w:p>"), OUTSIDE, "HERE", "x &secret;"))
    path = save(tmp_path, "a.docx", word)
    try:
        assert "root" not in read_source(path, limits=LIMITS).text
    except SourceError as error:
        assert "root" not in error.message
    page = save(tmp_path, "a.html", (OUTSIDE + "<html><p>words &secret;</p></html>").encode())
    assert "root" not in read_source(page, limits=LIMITS).text


def _members(container: bytes, doctype: str, mark: str, entity: str) -> dict[str, str | bytes]:
    """A Word file's members with a document type of ours and an entity in place of `mark`."""
    import io
    import zipfile

    with zipfile.ZipFile(io.BytesIO(container)) as archive:
        members: dict[str, str | bytes] = {name: archive.read(name) for name in archive.namelist()}
    main = members["word/document.xml"]
    assert isinstance(main, bytes)
    head, _, body = main.decode().partition("?>")
    members["word/document.xml"] = head + "?>" + doctype + body.replace(mark, entity)
    return members


@pytest.mark.parametrize("kind", ["docx", "odt", "html", "epub"])
def test_deep_nesting_ends_well(tmp_path: Path, kind: str) -> None:
    depth = 20_000
    data = {
        "docx": lambda: docx_bytes("<w:sdt><w:sdtContent>" * 100 + "<w:p><w:r><w:t>deep</w:t></w:r></w:p>"
                                   + "</w:sdtContent></w:sdt>" * 100),
        "odt": lambda: odt_bytes("<text:section>" * depth + "<text:p>deep</text:p>" + "</text:section>" * depth),
        "html": lambda: b"<html><body>" + b"<div>" * depth + b"deep" + b"</div>" * depth + b"<p>and on</p>",
        "epub": lambda: epub_bytes({"a.xhtml": "<div>" * depth + "deep" + "</div>" * depth + "<p>and on</p>"}),
    }[kind]()  # fmt: skip
    path = save(tmp_path, f"deep.{kind}", data)
    try:
        assert read_source(path, limits=LIMITS).text
    except SourceError as error:
        assert error.message.startswith(path.name)


def test_a_pdf_of_endless_pages_ends_at_the_limit(tmp_path: Path) -> None:
    loop = b"%PDF-1.4\n1 0 obj\n<< /Type /Catalog /Pages 2 0 R >>\nendobj\n2 0 obj\n<< /Type /Pages /Count 99999999 "
    loop += b"/Kids [" + b"2 0 R " * 50 + b"] >>\nendobj\ntrailer << /Root 1 0 R >>\n%%EOF"
    line_for(save(tmp_path, "loop.pdf", loop), replace(LIMITS, seconds=3.0))


def test_limits_of_time_text_size_and_memory_are_kept(tmp_path: Path) -> None:
    page = prose_page(["A line of text that stands on a page many times over."] * 40)
    path = save(tmp_path, "long.pdf", pdf_bytes([page] * 60))
    assert "takes more than 0.01 seconds" in line_for(path, replace(LIMITS, seconds=0.01))
    assert "more than 5000" in line_for(path, replace(LIMITS, text_chars=5000))
    assert "memory" in line_for(path, replace(LIMITS, memory_bytes=40 * MIB))
    assert "larger than" in line_for(path, replace(LIMITS, file_bytes=1000))


def _fake_child(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    monkeypatch.setattr(child, "_BOOTSTRAP", "import sys, os, time; sys.path.append(sys.argv[1]); " + code)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("os.abort()", "the reader stopped on it"),
        ("os._exit(0)", "the reader stopped on it"),
        ("print('{}')", "the reader stopped on it"),
        ("time.sleep(60)", "takes more than 1 seconds"),
        ("sys.stdin.close(); time.sleep(60)", "takes more than 1 seconds"),
        ("[os.write(1, bytes(65536)) for _ in range(10**9)]", "gives more text than 1000 characters"),
        ("import no_such_module_here", "the document reader could not start"),
        ("raise MemoryError", "takes more than 600 MiB of memory"),
    ],
)
def test_a_child_that_dies_hangs_or_floods(monkeypatch: pytest.MonkeyPatch, code: str, message: str) -> None:
    _fake_child(monkeypatch, code)
    limits = replace(LIMITS, seconds=1.0, text_chars=1000)
    with pytest.raises(SourceError, match=message):
        child.run_reader(Request("a.txt", limits), bytes(300_000))


@pytest.mark.parametrize(
    "act",
    [
        "import socket; socket.socket()",
        "import socket; socket.getaddrinfo('localhost', 80)",
        "import subprocess; subprocess.Popen(['true'])",
        "os.system('true')",
        "os.fork()",
        "open('written.txt', 'w')",
        "os.open('written.txt', os.O_CREAT | os.O_WRONLY)",
        "os.remove(sys.executable + '.none')",
        "os.kill(os.getppid(), 0)",
    ],
)
def test_the_confined_child_can_do_nothing_else(tmp_path: Path, act: str) -> None:
    code = (
        "import os, sys\nfrom localhyper.sources.confinement import confine\n"
        f"from localhyper.sources.limits import ReadLimits\nconfine(ReadLimits())\n{act}\n"
    )
    root = str(Path(__file__).resolve().parents[2])
    found = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": root},
        capture_output=True,
        text=True,
    )
    assert found.returncode == 1
    assert "PermissionError: a document reader" in found.stderr
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_printed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for name, data in (("a.pdf", b"%PDF-1.7 broken"), ("b.docx", b"PK\x03\x04"), ("c.html", b"<html><p>fine</p>")):
        try:
            read_source(save(tmp_path, name, data), limits=LIMITS)
        except SourceError:
            continue
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("seed", range(6))
def test_damaged_bytes_give_a_text_or_a_line(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    makers = [
        ("a.pdf", pdf_bytes([prose_page(["Some text that stands on a page."])])),
        ("a.docx", docx_bytes("<w:p><w:r><w:t>text in a letter</w:t></w:r></w:p>")),
        ("a.odt", odt_bytes("<text:p>text in a note</text:p>")),
    ]
    name, whole = makers[seed % 3]
    data = bytearray(whole)
    for _ in range(20):
        data[rng.randrange(len(data))] = rng.randrange(256)
    path = save(tmp_path, name, bytes(data[: rng.randrange(len(data) // 2, len(data))]))
    try:
        assert read_source(path, limits=LIMITS).text
    except SourceError as error:
        assert error.message.startswith(name)
        assert "\n" not in error.message


@pytest.mark.skipif(os.name != "posix", reason="links, pipes and devices as POSIX has them")
def test_links_pipes_and_devices_in_a_folder(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("words of a")
    (tmp_path / "loop").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "again.txt").symlink_to(tmp_path / "a.txt")
    (tmp_path / "gone.txt").symlink_to(tmp_path / "nowhere.txt")
    (tmp_path / "self.txt").symlink_to(tmp_path / "self.txt")
    (tmp_path / "zero.txt").symlink_to("/dev/zero")
    os.mkfifo(tmp_path / "pipe.txt")
    result = read_folder(tmp_path, limits=LIMITS)
    assert [document.text for document in result.documents] == ["words of a"]
    assert {path.name: reason for path, reason in result.skipped} == {
        "loop": "a link to a folder",
        "again.txt": "a link to a file that is read already",
        "gone.txt": "a broken link",
        "self.txt": "a broken link",
        "zero.txt": "not a regular file",
        "pipe.txt": "not a regular file",
    }
    with pytest.raises(SourceError, match="not a regular file"):
        read_source(tmp_path / "pipe.txt")
    with pytest.raises(SourceError, match="not a regular file"):
        read_source("/dev/zero")
