"""PowerPoint presentations through python-pptx: slides in order, with tables, charts' data and speaker's notes."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from typing import Any

from pptx import Presentation
from pptx.enum.shapes import MSO_SHAPE_TYPE

from localhyper.sources.cleaning import one_line
from localhyper.sources.formats.archive import check_archive
from localhyper.sources.formats.extracted import Extracted
from localhyper.sources.formats.rows import bar_line, table_lines
from localhyper.sources.frames import Request

Shape = Any  # python-pptx's shape classes share attributes, not a base


def read(data: bytes, job: Request) -> Extracted:
    """Every slide's text under its title."""
    check_archive(data, job)
    deck = Presentation(io.BytesIO(data))
    slides, notes = [], []
    for number, slide in enumerate(deck.slides, 1):
        if text := "\n\n".join(block for block in _slide(slide, number) if block.strip()):
            slides.append(text)
        else:
            notes.append(f"slide {number} has no text")
    count = len(slides) + len(notes)
    return Extracted("\n\n".join(slides), deck.core_properties.title or "", tuple(notes), pages=count)


def _slide(slide: Any, number: int) -> Iterator[str]:
    """Title, shapes from top to bottom, then the speaker's notes."""
    title = slide.shapes.title
    words = one_line(title.text_frame.text) if title is not None else ""
    if words:
        yield f"# {words}"
    for shape in _in_reading_order(slide.shapes):
        if title is None or shape.shape_id != title.shape_id:
            yield from _shape(shape)
    if slide.has_notes_slide and (frame := slide.notes_slide.notes_text_frame) is not None and frame.text.strip():
        yield f"Notes: {frame.text.strip()}"


def _in_reading_order(shapes: Iterable[Shape]) -> list[Shape]:
    """Shapes from top to bottom, then left to right; placeholders that inherit their place keep to the top."""
    return sorted(shapes, key=lambda shape: (shape.top or 0, shape.left or 0))


def _shape(shape: Shape) -> Iterator[str]:
    """Text blocks of a shape."""
    if shape.shape_type == MSO_SHAPE_TYPE.GROUP:
        for part in _in_reading_order(shape.shapes):
            yield from _shape(part)
    elif shape.has_text_frame:
        yield "\n".join(paragraph.text.strip() for paragraph in shape.text_frame.paragraphs if paragraph.text.strip())
    elif getattr(shape, "has_table", False):
        yield "\n".join(table_lines([cell.text for cell in row.cells] for row in shape.table.rows))
    elif getattr(shape, "has_chart", False):
        yield "\n".join(_chart(shape.chart))
    elif words := _description(shape):
        yield f"[Image: {words}]"


def _chart(chart: Any) -> Iterator[str]:
    """A chart's title and its numbers as a table."""
    if chart.has_title and chart.chart_title.has_text_frame:
        yield one_line(chart.chart_title.text_frame.text)
    for plot in chart.plots:
        categories = [str(category) for category in plot.categories]
        series = list(plot.series)
        yield bar_line(["", *(one.name for one in series)])
        for index, category in enumerate(categories):
            values = (one.values[index] if index < len(one.values) else None for one in series)
            yield bar_line([category, *("" if value is None else f"{value:g}" for value in values)])


def _description(shape: Shape) -> str:
    """A picture's alternative text."""
    for element in shape.element.iter("{*}cNvPr"):
        return one_line(element.get("descr") or "")
    return ""
