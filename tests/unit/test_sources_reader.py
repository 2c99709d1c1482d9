"""The doors to documents: files, stdin, texts and folders, through the real child process."""

# ruff: noqa: RUF001 (texts in many scripts and with real typography are what is tested)
from __future__ import annotations

import hashlib
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from localhyper.errors import Cancelled, SourceError
from localhyper.progress import CancelToken, Progress
from localhyper.sources import ReadLimits, read_any, read_folder, read_source, read_text
from localhyper.sources.frames import Answer, Request, pack_answer, pack_request, parse_answer, read_request
from tests.sources_files import epub_bytes, pdf_bytes, prose_page, shared_documents


def test_a_file_becomes_a_document(tmp_path: Path) -> None:
    path = tmp_path / "Grüße an alle.txt"
    path.write_bytes("Grüße\r\naus Köln".encode("latin-1"))
    document = read_any(path)
    assert (document.title, document.text, document.kind) == ("Grüße an alle", "Grüße\naus Köln", "txt")
    assert document.origin == str(path)
    assert document.sha256 == hashlib.sha256("Grüße\naus Köln".encode()).hexdigest()


def test_the_same_words_in_another_container_have_the_same_digest(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("Just these words.")
    (tmp_path / "b.epub").write_bytes(epub_bytes({"a.xhtml": "<p>Just these words.</p>"}))
    assert read_source(tmp_path / "a.txt").sha256 == read_source(tmp_path / "b.epub").sha256


def test_stdin_is_read_by_its_content() -> None:
    document = read_any("-", stdin=io.BytesIO(pdf_bytes([prose_page(["A PDF through a pipe."])])))
    assert (document.title, document.text, document.kind, document.origin) == (
        "stdin",
        "A PDF through a pipe.",
        "stdin",
        "-",
    )


def test_stdin_that_is_empty_or_too_long_is_an_error() -> None:
    with pytest.raises(SourceError, match="-: empty"):
        read_any("-", stdin=io.BytesIO(b""))
    with pytest.raises(SourceError, match="-: larger than 1 MiB"):
        read_any("-", stdin=io.BytesIO(b"x" * 2_000_000), limits=ReadLimits(file_bytes=1024 * 1024))


def test_a_text_becomes_a_document() -> None:
    document = read_text("  One\r\ntwo\x00 ", "Note")
    assert (document.title, document.text, document.kind, document.origin) == ("Note", "  One\ntwo", "text", "")
    with pytest.raises(SourceError, match="the text is empty"):
        read_text(" \n ", "Note")


@pytest.mark.parametrize(
    ("origin", "message"),
    [
        ("nothing.pdf", "no such file"),
        ("https://example.org/a.pdf", "a web address, not a file"),
        ("a\x00b", "not a possible file name"),
        ("x" * 5000, "cannot be opened"),
    ],
)
def test_what_is_no_file_says_so(origin: str, message: str) -> None:
    with pytest.raises(SourceError, match=message) as caught:
        read_any(origin)
    assert caught.value.hint
    assert caught.value.message.isprintable()


def test_a_folder_is_not_read_as_a_file(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="a folder, where one file is wanted"):
        read_source(tmp_path)


def make_folder(root: Path) -> None:
    (root / "b").mkdir(parents=True)
    (root / "b" / "two.md").write_text("# Second\n\nwords of two")
    (root / "a.txt").write_text("words of one")
    (root / "broken.docx").write_bytes(b"PK\x03\x04 cut")
    (root / "locked.pdf").write_bytes(b"")
    (root / "photo.bin").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(range(256)))
    (root / ".hidden.txt").write_text("hidden")
    (root / ".git").mkdir()
    (root / ".git" / "config.txt").write_text("hidden too")


def test_a_folder_goes_on_after_files_that_fail(tmp_path: Path) -> None:
    make_folder(tmp_path)
    reports: list[Progress] = []
    result = read_folder(tmp_path, progress=reports.append)
    assert [document.title for document in result.documents] == ["a", "Second"]
    assert [(path.name, error.message) for path, error in result.failures] == [
        ("broken.docx", "broken.docx: damaged: cut short, or not a whole zip container"),
        ("locked.pdf", "locked.pdf: empty, there is nothing to read"),
    ]
    assert [(path.name, reason) for path, reason in result.skipped] == [("photo.bin", "binary, not a document")]
    assert [(report.done, report.total) for report in reports] == [(0, 4), (1, 4), (2, 4), (3, 4), (4, 4)]
    assert reports[-2].item == os.path.join("b", "two.md")


def test_a_folder_becomes_one_document(tmp_path: Path) -> None:
    make_folder(tmp_path / "papers")
    document = read_any(tmp_path / "papers")
    assert (document.title, document.kind) == ("papers", "folder")
    assert document.text == "# a\n\nwords of one\n\n# Second\n\nwords of two"
    assert document.notes == (
        "not read: broken.docx: damaged: cut short, or not a whole zip container",
        "not read: locked.pdf: empty, there is nothing to read",
        "skipped: photo.bin: binary, not a document",
    )


def test_a_folder_without_documents_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no document in this folder"):
        read_any(tmp_path)
    (tmp_path / "a.pdf").write_bytes(b"")
    (tmp_path / "b.pdf").write_bytes(b"")
    with pytest.raises(SourceError, match=r"none of its 2 documents could be read; the first: a\.pdf: empty"):
        read_any(tmp_path)


def test_a_folder_is_bounded(tmp_path: Path) -> None:
    for number in range(5):
        (tmp_path / f"{number}.txt").write_text("x" * 100)
    result = read_folder(tmp_path, limits=ReadLimits(folder_files=4, folder_chars=150))
    assert [document.title for document in result.documents] == ["0", "1"]
    assert [path.name for path, _ in result.skipped] == ["4.txt", "2.txt", "3.txt"]


def test_cancelling_ends_reading(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("words")
    cancel = CancelToken()
    cancel.cancel()
    with pytest.raises(Cancelled):
        read_folder(tmp_path, cancel=cancel)
    (tmp_path / "big.txt").write_text("word " * 1_000_000)
    with pytest.raises(Cancelled):
        read_source(tmp_path / "big.txt", cancel=cancel)


def test_importing_sources_brings_no_reader_library() -> None:
    code = (
        "import sys, localhyper.sources; "
        "print([name for name in 'lxml docx pptx pypdfium2 python_calamine numpy'.split() if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_frames_carry_any_text() -> None:
    request = Request("näme \u2028.pdf", ReadLimits(seconds=1.5), "pässword")
    assert read_request(io.BytesIO(pack_request(request) + b"file")) == request
    answer = Answer("t", "text \U0001f642 \x00", "txt", ("note",), pages=3)
    frame = pack_answer(answer)
    assert parse_answer(frame) == answer
    assert parse_answer(frame[:-1]) is None
    assert parse_answer(frame + b" ") is None
    assert parse_answer(b"") is None
    assert parse_answer(pack_answer(answer).replace(b'"txt"', b"12345")) is None
    for pages in (b"-1", b"true", b"1.5", b'"3"'):
        assert parse_answer(_with_pages(answer, pages)) is None


def _with_pages(answer: Answer, pages: bytes) -> bytes:
    body = pack_answer(answer)[8:].replace(b'"pages": 3', b'"pages": ' + pages)
    return len(body).to_bytes(8, "little") + body


EXPECTED = {
    "alice.epub": "Alice was beginning to get very tired",
    "alice_utf8_bom.txt": "Project Gutenberg’s Alice’s Adventures in Wonderland",
    "api_reference.md": "Creates a new Book",
    "arabic.pdf": "habibi",
    "blog.html": "Large language models (LLMs) are powerful tools that can generate natural language texts",
    "booking.pdf": "Downtown Multiplex",
    "comments.docx": "Ouch.",
    "court_transcript_page.pdf": "IN THE SUPREME COURT OF THE UNITED STATES",
    "equations.docx": "The angle is θ=sin^{-1}(2.2×10^{-4})",
    "footnotes.docx": "Ouch [A tachyon walks into a bar.]",
    "geotopo_book_de.pdf": "Einführung in die",
    "google_doc.pdf": "Beautiful is better than ugly.",
    "images.docx": "[Image: python.bmp]",
    "invoice_borderless_table.pdf": "SKU-9201 | Hardware | $32.50 | $25,285.00 | 2024-10-22 | Verified",
    "latex_4_pages.pdf": "Hello, here is some text without a meaning. This text should show what a printed text",
    "latex_multicolumn.pdf": "Lorem ipsum dolor sit amet, consectetuer adipiscing elit. Ut purus elit, vestibulum ut",
    "layoff_notice_table.pdf": "Maxim Integrated Product | San Jose | 150 | Closure Permanent",
    "libreoffice_form.pdf": "Agree to privacy policy",
    "minimal.pdf": "Lorem ipsum dolor sit amet, consetetur sadipscing elitr",
    "outlines.pdf": "If you read this text, you will get no information.",
    "paper_page.pdf": "at least three reasons confirming its general feasibility and utility thanks to recent advances",
    "people_cp932.csv": "名前: 佐藤太郎, 年齢: 30, 住所: 東京",
    "receipt.pdf": "SUBTOTAL $863.91",
    "repair_invoice_multipage.pdf": "Claim # | SF-1008 | Make | Jeep",
    "report.docx": "AutoGen is an open-source framework that allows developers",
    "senate_expenditures.pdf": "SMITH, ALVARO R | LEGISLATIVE CORRESPONDENT | 21,000.00",
    "sheet.xlsx": "6ff4173b-42a5-4784-9b19-f49caff4d93d",
    "slides.pptx": "1b92870d-e3b5-4e65-8153-919f4ff45592",
    "small.epub": "Here's a second chapter with a different style.",
    "tables.docx": "Bottom left | Bottom right",
    "two_cities_latin1.txt": "It was the best of times",
    "war_of_the_worlds.epub": "The chances against anything manlike on Mars are a million to one",
    "with_attachment.pdf": "Lorem ipsum dolor sit amet",
}
BAD = {
    "empty.pdf": "empty, there is nothing to read",
    "encrypted_example.pdf": "encrypted, it opens only with a password",
    "encrypted_writer.pdf": "encrypted, it opens only with a password",
    "malformed.pdf": "only 7 letters of text",
    "random.bin": "binary data, not a document",
    "scanned_no_text.pdf": "its 3 pages have no text layer",
    "truncated.docx": "damaged: cut short",
}


def test_every_real_document_gives_its_text() -> None:
    folder = shared_documents()
    result = read_folder(folder)
    assert result.failures[0][0].parent.name == "bad"
    documents = {Path(document.origin).name: document for document in result.documents}
    assert set(documents) == {path.name for path in folder.iterdir() if path.is_file()}
    missing = [name for name, words in EXPECTED.items() if words not in documents[name].text]
    assert missing == []
    assert set(documents) - set(EXPECTED) == set()
    for document in result.documents:
        assert not [letter for letter in document.text if ord(letter) < 32 and letter not in "\n\t"]
        assert "\ufffd" not in document.text
        assert "\n\n\n" not in document.text


@pytest.mark.parametrize("name", sorted(BAD))
def test_every_bad_document_gets_its_line(name: str) -> None:
    with pytest.raises(SourceError) as caught:
        read_any(shared_documents() / "bad" / name)
    assert caught.value.message.startswith(name)
    assert BAD[name] in caught.value.message
    assert "\n" not in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize(
    ("name", "password", "words"),
    [
        ("encrypted_example.pdf", "test", "Backup4all"),
        ("encrypted_writer.pdf", "openpassword", "Lorem ipsum dolor sit amet"),
    ],
)
def test_passwords_open_encrypted_documents(name: str, password: str, words: str) -> None:
    path = shared_documents() / "bad" / name
    assert words in read_any(path, password=password).text
    with pytest.raises(SourceError, match="the password given does not open it"):
        read_any(path, password="wrong")
