"""Formulas as MathML, made when the docs are built: browsers show it themselves, also offline."""

from typing import Any
from xml.etree import ElementTree

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx

NAMESPACE = "http://www.w3.org/1998/Math/MathML"
ElementTree.register_namespace("", NAMESPACE)


def mathml(tex: str, *, block: bool = False) -> str:
    """A formula as a MathML element.

    Args:
        tex: In LaTeX's mathematics, without dollars.
        block: Whether it stands by itself.

    Returns:
        The element.

    Raises:
        ValueError: If a command is not known.
    """
    # A backslash before a line's end is a space, which the converter does not know.
    element = convert(" ".join(tex.split()), display="block" if block else "inline")
    if "\\" in element:
        raise ValueError(f"the formula {tex!r} holds a command that can't be converted to MathML")
    # It takes the relation for a letter, which stands without space.
    root = ElementTree.fromstring(element.replace("<mi>&#x0007E;</mi>", "<mo>&#x0223C;</mo>"))
    for row in root.iter(f"{{{NAMESPACE}}}mrow"):
        _space_functions(row)
    return ElementTree.tostring(root, encoding="unicode")


def _space_functions(row: ElementTree.Element) -> None:
    """Put a thin space between a function's name, such as log, and letters beside it."""
    parts = list(row)
    for place in reversed(range(1, len(parts))):
        beside = parts[place - 1 : place + 1]
        if any(map(_is_function, beside)) and not any(p.tag.endswith("}mo") for p in beside):
            row.insert(place, ElementTree.Element(f"{{{NAMESPACE}}}mspace", width="0.167em"))


def _is_function(part: ElementTree.Element) -> bool:
    name = part[0] if part.tag.endswith("}msub") else part
    return name.tag.endswith("}mi") and len(name.text or "") > 1


def _inline(writer: Any, node: nodes.math) -> None:
    writer.body.append(mathml(node.astext()))
    raise nodes.SkipNode


def _block(writer: Any, node: nodes.math_block) -> None:
    writer.body.append(f'<div class="formula">{mathml(node.astext(), block=True)}</div>')
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the renderer, under the name that `html_math_renderer` gives."""
    app.add_html_math_renderer("mathml", (_inline, None), (_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
