"""Every format: what is in a file comes out, in order, and nothing else. Run in this process, on generated files."""

# ruff: noqa: RUF001 (texts in many scripts and with real typography are what is tested)
from __future__ import annotations

import datetime
import io
from pathlib import Path
from typing import Any, cast

import pytest

from localhyper.errors import SourceError
from localhyper.sources import read_any
from localhyper.sources.formats import extract
from localhyper.sources.frames import Answer, Request
from localhyper.sources.limits import ReadLimits
from tests.sources_files import docx_bytes, epub_bytes, odt_bytes, pdf_bytes, pdf_text, prose_page


def read(data: bytes, name: str, password: str = "") -> Answer:
    return extract(data, Request(name, ReadLimits(), password))


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ("Grüße aus Köln".encode(), "Grüße aus Köln"),
        (b"\xef\xbb\xbf" + "Grüße".encode(), "Grüße"),
        ("Grüße 日本".encode("utf-16"), "Grüße 日本"),
        ("Grüße 日本".encode("utf-16-be"), "Grüße 日本"),
        (b"\xfe\xff" + "Grüße".encode("utf-16-be"), "Grüße"),
        ("Plain English in sixteen bits".encode("utf-16-le"), "Plain English in sixteen bits"),
        (
            "Le café coûte 5 £ à Genève, s'il vous plaît.".encode("latin-1"),
            "Le café coûte 5 £ à Genève, s'il vous plaît.",
        ),
        ("“Smart quotes” – in cp1252 – are common…".encode("cp1252"), "“Smart quotes” – in cp1252 – are common…"),
        ("Über".encode("latin-1"), "Über"),
        (("これは日本語の文章です。" * 8).encode("cp932"), "これは日本語の文章です。" * 8),
        ("名前,年齢,住所\n佐藤太郎,30,東京\n".encode("cp932"), "名前,年齢,住所\n佐藤太郎,30,東京"),
        (
            ("Это русский текст о погоде в Москве. " * 9).encode("cp1251"),
            ("Это русский текст о погоде в Москве. " * 9).strip(),
        ),
        (("这是一个关于天气的中文句子。" * 9).encode("gb18030"), "这是一个关于天气的中文句子。" * 9),
        (b"one\r\ntwo\rthree\x0b\x0cfour\x08five", "one\ntwo\nthree\n\nfourfive"),
        ("Zażółć gęślą jaźń, powiedział król.".encode(), "Zażółć gęślą jaźń, powiedział król."),
        (
            ("テスト データ ソフトウェア の アップデート です。" * 5).encode("cp932"),
            "テスト データ ソフトウェア の アップデート です。" * 5,
        ),
        ("ﬁne oﬃce ﬂow".encode(), "fine office flow"),
        ("H₂O ½ ①".encode(), "H₂O ½ ①"),
        (b"a\n\n\n\n\nb   \n", "a\n\nb"),
    ],
)
def test_plain_text_of_any_encoding(data: bytes, text: str) -> None:
    assert read(data, "file.txt").text == text


def test_markdown_keeps_its_marks_and_gives_its_title() -> None:
    found = read(b"# The *Moon*\n\n- grey\n- round\n", "moon.md")
    assert (found.kind, found.title, found.text) == ("md", "The Moon", "# The *Moon*\n\n- grey\n- round")


@pytest.mark.parametrize(
    ("data", "lines"),
    [
        (b"name,age\nAda,36\nAlan,41\n", ["name | age", "name: Ada, age: 36", "name: Alan, age: 41"]),
        (b"name;town\nAda;London\nAlan;\n", ["name | town", "name: Ada, town: London", "name: Alan"]),
        (
            b"name\ttown\nAda\tLondon\nAlan\tWilmslow",
            ["name | town", "name: Ada, town: London", "name: Alan, town: Wilmslow"],
        ),
        (b"1,2\n3,4\n5,6\n", ["1 | 2", "3 | 4", "5 | 6"]),
        (b'a,b\n"x, y","say ""hi""\nthere"\nc,d\n', ["a | b", 'a: x, y, b: say "hi" there', "a: c, b: d"]),
        (b"left,right\nup,down\n", ["left | right", "up | down"]),
    ],
)
def test_csv_rows_can_be_read_alone(data: bytes, lines: list[str]) -> None:
    found = read(data, "table.csv")
    assert (found.kind, found.title) == ("csv", "table")
    assert found.text.splitlines() == lines


def test_html_text_without_its_machinery() -> None:
    page = (
        "<!DOCTYPE html><html><head><title>Bees &amp; Honey</title><style>p {color: red}</style></head><body>"
        "<nav>Home | About</nav><script>alert('no')</script><h2>How  bees\nwork</h2>"
        "<p>They <b>fly</b>far.<br>And back.</p>"
        "<ul><li>one<li>two</ul><p hidden>secret</p><p style='display: none'>hidden too</p>"
        "<table><tr><th>kind</th><th>size</th></tr><tr><td>queen</td><td>20</td></tr><tr><td>drone</td><td>16</td></tr></table>"
        "<pre>x = 1\n  y = 2</pre><img src=a.png alt='A bee'>tail text</body></html>"
    )
    found = read(page.encode(), "bees.html")
    assert (found.kind, found.title) == ("html", "Bees & Honey")
    assert found.text == (
        "## How bees work\n\nThey flyfar.\nAnd back.\n\n- one\n\n- two\n\n"
        "kind | size\nkind: queen, size: 20\nkind: drone, size: 16\n\nx = 1\n  y = 2\n\n[Image: A bee] tail text"
    )


def test_html_inside_a_form_or_a_layout_table_is_read() -> None:
    page = b"<html><body><form><table><tr><td><h1>Title</h1><p>Words</p><td>Side</tr></table></form></body></html>"
    assert read(page, "page.html").text == "# Title\n\nWords\n\nSide"


@pytest.mark.parametrize("declared", ["iso-8859-1", "windows-1252"])
def test_html_in_its_declared_encoding(declared: str) -> None:
    page = f"<html><head><meta charset={declared}></head><body><p>café</p></body></html>".encode("latin-1")
    assert read(page, "page.htm").text == "café"


def test_docx_text_with_all_its_corners() -> None:
    def paragraph(text: str, style: str = "", extra: str = "") -> str:
        properties = f'<w:pPr><w:pStyle w:val="{style}"/></w:pPr>' if style else ""
        return f"<w:p>{properties}<w:r><w:t>{text}</w:t></w:r>{extra}</w:p>"

    def row(*cells: str) -> str:
        return "<w:tr>" + "".join(f"<w:tc>{paragraph(cell)}</w:tc>" for cell in cells) + "</w:tr>"

    fraction = (
        "<m:oMath><m:f><m:num><m:r><m:t>a</m:t></m:r></m:num><m:den><m:r><m:t>b</m:t></m:r></m:den></m:f></m:oMath>"
    )
    box = "<w:r><w:pict><w:txbxContent>" + paragraph("In a box") + "</w:txbxContent></w:pict></w:r>"
    picture = '<w:r><w:drawing><wp:inline><wp:docPr id="1" name="x" descr="A red kite"/></wp:inline></w:drawing></w:r>'
    body = (
        paragraph("Kites", "Heading1")
        + paragraph("They fly: ", "", fraction + box)
        + "<w:p><w:del><w:r><w:delText>deleted</w:delText></w:r></w:del>"
        + "<w:ins><w:r><w:t>inserted</w:t></w:r></w:ins></w:p>"
        + "<w:p><w:r><w:t>a</w:t><w:tab/><w:t>b</w:t><w:br/><w:t>c</w:t></w:r>"
        + picture
        + "</w:p>"
        + f"<w:tbl>{row('kind', 'span')}{row('delta', '2 m')}{row('box', '1 m')}</w:tbl>"
        + "<w:sdt><w:sdtContent>"
        + paragraph("In a control")
        + "</w:sdtContent></w:sdt>"
    )
    found = read(docx_bytes(body, title="All about kites"), "kites.docx")
    assert (found.kind, found.title) == ("docx", "All about kites")
    assert found.text == (
        "# Kites\n\nThey fly: (a)/(b)\n\nIn a box\n\ninserted\n\na\tb\nc[Image: A red kite]\n\n"
        "kind | span\nkind: delta, span: 2 m\nkind: box, span: 1 m\n\nIn a control"
    )


def test_pptx_slides_with_tables_charts_and_notes() -> None:
    from pptx import Presentation
    from pptx.chart.data import CategoryChartData
    from pptx.enum.chart import XL_CHART_TYPE
    from pptx.util import Inches

    deck = Presentation()
    slide = deck.slides.add_slide(deck.slide_layouts[5])
    slide.shapes.title.text = "Rivers"
    slide.shapes.add_textbox(Inches(1), Inches(5), Inches(3), Inches(1)).text_frame.text = "Below"
    slide.shapes.add_textbox(Inches(1), Inches(2), Inches(3), Inches(1)).text_frame.text = "Above"
    table = slide.shapes.add_table(3, 2, Inches(1), Inches(6), Inches(4), Inches(1)).table
    for index, value in enumerate(["name", "length", "Rhine", "1230", "Elbe", "1094"]):
        table.cell(index // 2, index % 2).text = value
    data = cast(Any, CategoryChartData)()
    data.categories = ["spring", "autumn"]
    data.add_series("flow", (3.5, 2.0))
    slide.shapes.add_chart(XL_CHART_TYPE.COLUMN_CLUSTERED, Inches(1), Inches(7), Inches(4), Inches(3), data)
    slide.notes_slide.notes_text_frame.text = "Mention the Danube"
    deck.slides.add_slide(deck.slide_layouts[6])
    buffer = io.BytesIO()
    deck.save(buffer)
    found = read(buffer.getvalue(), "rivers.pptx")
    assert found.kind == "pptx"
    assert found.text == (
        "# Rivers\n\nAbove\n\nBelow\n\nname | length\nname: Rhine, length: 1230\nname: Elbe, length: 1094\n\n"
        " | flow\nspring | 3.5\nautumn | 2\n\nNotes: Mention the Danube"
    ).replace("\n\n |", "\n\n |")
    assert found.notes == ("slide 2 has no text",)


def test_xlsx_sheets_with_values_as_people_write_them() -> None:
    from xlsxwriter import Workbook

    buffer = io.BytesIO()
    workbook = Workbook(buffer)
    sheet = workbook.add_worksheet("Stock")
    day = workbook.add_format({"num_format": "yyyy-mm-dd"})
    for column, name in enumerate(["part", "count", "price", "since", "sold"]):
        sheet.write(0, column, name)
    for row, part in enumerate(["bolt", "nut"], 1):
        sheet.write(row, 0, part)
        sheet.write(row, 1, 40 * row)
        sheet.write(row, 2, 0.25)
        sheet.write_datetime(row, 3, datetime.datetime(2024, 5, row), day)
        sheet.write(row, 4, row == 1)
    hidden = workbook.add_worksheet("Secret")
    hidden.write(0, 0, "not for you")
    hidden.hide()
    workbook.close()
    found = read(buffer.getvalue(), "stock.xlsx")
    assert found.kind == "xlsx"
    assert found.text.splitlines() == [
        "# Stock",
        "",
        "part | count | price | since | sold",
        "part: bolt, count: 40, price: 0.25, since: 2024-05-01, sold: yes",
        "part: nut, count: 80, price: 0.25, since: 2024-05-02, sold: no",
    ]
    assert found.notes == ("hidden sheet left out: Secret",)


def test_epub_pages_in_the_order_of_the_spine() -> None:
    pages = {"b.xhtml": "<h1>Second</h1><p>two</p>", "a.xhtml": "<h1>First</h1><p>one</p>", "c.xhtml": "<p>three</p>"}
    found = read(epub_bytes(pages, order=["a.xhtml", "b.xhtml", "c.xhtml"]), "book.epub")
    assert (found.kind, found.title) == ("epub", "A Small Book")
    assert found.text == "# First\n\none\n\n# Second\n\ntwo\n\nthree"


def test_odt_headings_lists_tables_and_notes() -> None:
    body = (
        '<text:h text:outline-level="2">Tides</text:h>'
        '<text:p>High<text:s text:c="2"/>water<text:note><text:note-citation>1</text:note-citation><text:note-body>'
        "<text:p>twice a day</text:p></text:note-body></text:note>.<text:line-break/>Low<text:tab/>water</text:p>"
        "<text:list><text:list-item><text:p>spring</text:p><text:list><text:list-item><text:p>full moon</text:p>"
        "</text:list-item></text:list></text:list-item><text:list-item><text:p>neap</text:p></text:list-item></text:list>"
        "<table:table><table:table-row><table:table-cell><text:p>port</text:p></table:table-cell><table:table-cell>"
        "<text:p>range</text:p></table:table-cell></table:table-row><table:table-row><table:table-cell><text:p>Brest</text:p>"
        "</table:table-cell><table:table-cell><text:p>6 m</text:p></table:table-cell></table:table-row></table:table>"
        "<office:annotation><text:p>a comment</text:p></office:annotation>"
    )
    found = read(odt_bytes(body), "tides.odt")
    assert (found.kind, found.title) == ("odt", "Tide tables")
    assert found.text == (
        "## Tides\n\nHigh  water [twice a day].\nLow\twater\n\n- spring\n  - full moon\n- neap\n\n"
        "port | range\nBrest | 6 m"
    )
    assert found.notes == ("comments left out: 1",)


PROSE = [
    "The old harbour lies to the north of the town and was in use until the end of the sev-",
    "enteenth century, when the well-known storm of that year filled it with sand and the",
    "merchants moved their ware-houses to the mouth of the river, where they stand to this",
    "day. A visitor who walks there in the evening will see the lights of a well-",
    "known inn.",
]


def test_pdf_prose_is_unwrapped_and_dehyphenated() -> None:
    found = read(pdf_bytes([prose_page(PROSE)], info="/Title (The Harbour)"), "harbour.pdf")
    assert (found.kind, found.title, found.notes) == ("pdf", "The Harbour", ())
    assert "until the end of the seventeenth century, when the well-known storm of that year filled it" in found.text
    assert "the lights of a well-known inn." in found.text
    assert "\n" not in found.text


def test_pages_are_counted_in_a_file_and_in_a_folder(tmp_path: Path) -> None:
    page = pdf_text([(72, 700, "This page has some words on it.")])
    for name, count in (("a.pdf", 2), ("b.pdf", 3)):
        (tmp_path / name).write_bytes(pdf_bytes([page] * count))
    (tmp_path / "c.txt").write_text("some more words", encoding="utf-8")
    assert [read_any(tmp_path / name).pages for name in ("a.pdf", "b.pdf", "c.txt")] == [2, 3, 0]
    assert read_any(tmp_path).pages == 5


def test_pdf_paragraphs_and_pages_are_apart() -> None:
    first = pdf_text(
        [(72, 760, "A heading"), (72, 700, "A first paragraph stands here."), (72, 640, "And a second one.")]
    )
    found = read(pdf_bytes([first, "", prose_page(["The third page has this text on it."])]), "pages.pdf")
    assert found.text == (
        "A heading\n\nA first paragraph stands here.\n\nAnd a second one.\n\nThe third page has this text on it."
    )
    assert found.notes == ("page without text: 2 (of 3)",)


def test_pdf_table_written_by_columns_is_read_by_rows() -> None:
    columns = [
        ["City", "Oslo", "Rome", "Bern"],
        ["People", "709 037", "2 748 109", "134 591"],
        ["River", "Akerselva", "Tiber", "Aare"],
    ]
    cells = [(72 + 150 * x, 700 - 16 * y, cell) for x, column in enumerate(columns) for y, cell in enumerate(column)]
    found = read(pdf_bytes([pdf_text(cells)]), "cities.pdf")
    assert found.text.splitlines() == [
        "City | People | River",
        "Oslo | 709 037 | Akerselva",
        "Rome | 2 748 109 | Tiber",
        "Bern | 134 591 | Aare",
    ]


def test_pdf_prose_columns_stay_columns() -> None:
    left = [f"Left column line {number} goes on with some words" for number in range(6)]
    right = [f"Right column line {number} goes on with words too" for number in range(6)]
    lines = [(60, 700 - 14 * y, line) for y, line in enumerate(left)] + [
        (320, 700 - 14 * y, line) for y, line in enumerate(right)
    ]
    text = read(pdf_bytes([pdf_text(lines, size=9)]), "columns.pdf").text
    assert text.index("Left column line 5") < text.index("Right column line 0")
    assert "|" not in text


def test_pdf_text_turned_by_a_quarter_is_read() -> None:
    content = (
        "BT /F1 11 Tf 0 1 -1 0 200 72 Tm (Sideways heading here) Tj 0 1 -1 0 220 72 Tm (and a second line below) Tj ET"
    )
    assert read(pdf_bytes([content]), "turned.pdf").text == "Sideways heading here\nand a second line below"


def test_pdf_notes_attached_files_with_a_password_not_needed() -> None:
    page = prose_page(["Some text on a page that is not encrypted."])
    assert (
        read(pdf_bytes([page]), "open.pdf", password="not needed").text == "Some text on a page that is not encrypted."
    )


@pytest.mark.parametrize("name", ["wrong.docx", "wrong.txt", "wrong", "-", "wrong.xlsx"])
def test_content_decides_before_the_name(name: str) -> None:
    assert read(pdf_bytes([prose_page(["This is a PDF under another name."])]), name).kind == "pdf"
    assert read(epub_bytes({"a.xhtml": "<p>a book</p>"}), name).kind == "epub"
    assert read(docx_bytes("<w:p><w:r><w:t>a letter</w:t></w:r></w:p>"), name).kind == "docx"
    assert read(odt_bytes("<text:p>a text</text:p>"), name).kind == "odt"


def test_html_is_known_without_its_ending() -> None:
    assert read(b"<!-- saved --><html><body><p>page</p></body></html>", "-").kind == "html"


@pytest.mark.parametrize(
    ("data", "name", "message"),
    [
        (b"", "a.pdf", "a.pdf: empty, there is nothing to read"),
        (b" \n\t\n", "a.txt", "a.txt: empty, there is nothing to read"),
        (b"just words", "a.pdf", "a.pdf: damaged or not a pdf file: got other text"),
        (b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR", "a.txt", "a.txt: this is a PNG image, not a document"),
        (bytes(range(256)) * 4, "a", "a: binary data, not a document"),
        (b"PK\x03\x04 cut", "a.docx", "a.docx: damaged: cut short, or not a whole zip container"),
        (b"%PDF-1.4 nothing follows", "a.pdf", "a.pdf: damaged or not a PDF file"),
        (
            b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600),
            "a.doc",
            "a.doc: an Office file in the format from before 2007",
        ),
        (
            b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(50) + "EncryptedPackage".encode("utf-16-le"),
            "a.docx",
            "a.docx: encrypted, its text cannot be read",
        ),
        (rb"{\rtf1 Hello}", "a.rtf", "a.rtf: Rich Text (RTF) cannot be read"),
        (b"--- *** ---", "a.txt", "a.txt: has no text in it"),
        (b"<html><body><script>x()</script></body></html>", "a.html", "a.html: has no text in it"),
    ],
)
def test_what_cannot_be_read_says_so(data: bytes, name: str, message: str) -> None:
    with pytest.raises(SourceError) as caught:
        read(data, name)
    assert caught.value.message == message
    assert caught.value.hint


def test_a_pdf_without_text_is_called_a_scan() -> None:
    with pytest.raises(SourceError, match="its 2 pages have no text layer") as caught:
        read(pdf_bytes(["0 0 100 100 re f", ""]), "scan.pdf")
    assert "OCR" in caught.value.hint
    with pytest.raises(SourceError, match="only 3 letters of text"):
        read(pdf_bytes([pdf_text([(72, 700, "p 12")])]), "stamp.pdf")


@pytest.mark.parametrize("title", ["Microsoft Word - letter.doc", "untitled", "report_final.indd", "(anonymous)", ""])
def test_titles_that_programs_make_up_are_not_taken(title: str) -> None:
    info = "/Title (" + title.replace("(", "\\(").replace(")", "\\)") + ")"
    assert (
        read(pdf_bytes([prose_page(["Enough text to be read here."])], info=info), "my letter.pdf").title == "my letter"
    )
