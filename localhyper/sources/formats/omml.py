"""Office equations in one line of text, near to LaTeX: `(m λ)/(a)`, `x^{2}`, `sqrt(y)`. Knows nothing else of Word."""

from __future__ import annotations

from localhyper.sources.formats.xml_tree import Element, attribute, local_name


def equation_text(element: Element) -> str:
    """Text of an equation or of a part of one."""
    return "".join(_part(child) for child in element)


def _part(element: Element) -> str:
    name = local_name(element)
    if name == "t":
        return (element.text or "").replace("\u2061", "")  # function application, an invisible character
    if name.endswith("Pr"):
        return ""
    slots = {local_name(child): equation_text(child) for child in element}
    base = slots.get("e", "")
    if name == "f":
        return f"({slots.get('num', '')})/({slots.get('den', '')})"
    if name in ("sSup", "sSub", "sSubSup", "sPre"):
        return base + _scripts(slots)
    if name == "nary":
        return _property(element, "chr", "∫") + _scripts(slots) + base
    if name == "rad":
        degree = f"[{slots['deg']}]" if slots.get("deg") else ""
        return f"sqrt{degree}({base})"
    if name == "d":
        inside = ", ".join(equation_text(child) for child in element if local_name(child) == "e")
        return _property(element, "begChr", "(") + inside + _property(element, "endChr", ")")
    if name in ("mr", "eqArr"):
        return ", ".join(equation_text(child) for child in element if local_name(child) == "e") + "; "
    return equation_text(element)


def _scripts(slots: dict[str, str]) -> str:
    """Index and exponent, where there are any."""
    below = f"_{{{slots['sub']}}}" if slots.get("sub") else ""
    return below + (f"^{{{slots['sup']}}}" if slots.get("sup") else "")


def _property(element: Element, name: str, default: str) -> str:
    """A character set in an element's own properties."""
    for properties in element:
        if local_name(properties).endswith("Pr"):
            for child in properties:
                if local_name(child) == name:
                    return attribute(child, "val")
    return default
