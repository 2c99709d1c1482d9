"""Excel workbooks through calamine: one section for each visible sheet, values as stored."""

from __future__ import annotations

import datetime
import io

from python_calamine import CalamineError, CalamineWorkbook, PasswordError, SheetVisibleEnum

from localhyper.errors import SourceError
from localhyper.sources.formats.archive import check_archive
from localhyper.sources.formats.extracted import Extracted
from localhyper.sources.formats.rows import table_lines
from localhyper.sources.frames import Request


def read(data: bytes, job: Request) -> Extracted:
    """Every visible sheet's rows under its name."""
    check_archive(data, job)
    try:
        workbook = CalamineWorkbook.from_filelike(io.BytesIO(data))
    except PasswordError as error:
        raise SourceError(f"{job.name}: encrypted, its text cannot be read", "save it without password") from error
    sections, notes = [], []
    for sheet in workbook.sheets_metadata:
        if sheet.visible != SheetVisibleEnum.Visible:
            notes.append(f"hidden sheet left out: {sheet.name}")
            continue
        try:
            rows = workbook.get_sheet_by_name(sheet.name).iter_rows()
            lines = list(table_lines([_cell(value) for value in row] for row in rows))
        except CalamineError as error:
            notes.append(f"sheet that could not be read: {sheet.name} ({error})")
            continue
        if lines:
            sections.append(f"# {sheet.name}\n\n" + "\n".join(lines))
    return Extracted("\n\n".join(sections), notes=tuple(notes))


def _cell(value: object) -> str:
    """A cell as a person would write it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() and abs(value) < 1e15 else f"{value:.12g}"
    if isinstance(value, datetime.datetime) and value.time() == datetime.time():
        return value.date().isoformat()
    if isinstance(value, datetime.datetime):
        return value.isoformat(" ", "seconds")
    return str(value)
