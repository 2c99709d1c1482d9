"""Strangers' XML to trees: no entities beyond the five, no network, no external files. Knows no document format."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from lxml import etree

Element = Any  # lxml ships no types


def parse_xml(data: bytes) -> Element:
    """Root element of `data`.

    Raises:
        etree.XMLSyntaxError: Not well-formed, or it defines entities that multiply.
    """
    if b"<!ENTITY" in data[:65536] or "<!ENTITY".encode("utf-16-le") in data[:65536]:
        raise ValueError("its XML defines entities of its own, as XML bombs do")
    parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False, recover=False)
    return etree.fromstring(data, parser)


def local_name(element: Element) -> str:
    """Tag without its namespace; empty for comments and processing instructions."""
    tag = element.tag
    return tag.rpartition("}")[2] if isinstance(tag, str) else ""


def attribute(element: Element, name: str) -> str:
    """Value of the attribute with this local name in any namespace; empty when absent."""
    for key, value in element.attrib.items():
        if key.rpartition("}")[2] == name:
            return str(value)
    return ""


def find_all(root: Element, name: str) -> Iterator[Element]:
    """All descendants (and the root) with this local name, in document order."""
    return iter(root.iter("{*}" + name))


def first_text(root: Element, name: str) -> str:
    """Text of the first element with this local name; empty when there is none."""
    found = next(find_all(root, name), None)
    return "".join(found.itertext()).strip() if found is not None else ""
