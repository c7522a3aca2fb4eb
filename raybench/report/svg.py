"""An SVG file as a part of an HTML page: its drawing and nothing else, under names of its own, without a network."""

from __future__ import annotations

import re
from xml.etree import ElementTree

SVG = "{http://www.w3.org/2000/svg}"
XLINK = "{http://www.w3.org/1999/xlink}"
SHAPES = {"path", "rect", "circle", "ellipse", "line", "polyline", "polygon", "image", "text", "tspan", "use"}
PAINT = {"clipPath", "mask", "pattern", "marker", "linearGradient", "radialGradient", "stop"}
DRAWING = frozenset({"svg", "g", "defs", "symbol", "title", "desc", "style"} | SHAPES | PAINT)
"""Elements of a drawing that stands still; scripts, foreign content, links, animation and metadata are none."""
NAMES = re.compile(r"#([\w.:-]+)")
URLS = re.compile(r"url\(\s*['\"]?(?!['\"]?(?:#|data:image/))[^)]*\)", re.IGNORECASE)
PIXELS = {"pt": 4 / 3, "pc": 16.0, "in": 96.0, "cm": 96 / 2.54, "mm": 96 / 25.4}
"""CSS pixels of a unit."""


def inline_svg(text: str, prefix: str, label: str) -> tuple[str, float]:
    """The drawing in `text` as an element of an HTML page, and its natural width in CSS pixels.

    Every id begins with `prefix`, so that several may stand in one page; styles hold for this drawing alone. Event
    handlers, addresses outside the file, and what is no part of a still drawing (`DRAWING`) are left out. `label` is
    read out in its place.

    Raises:
        ValueError: not XML, or not an SVG with a size.
    """
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise ValueError(f"figure {label!r}: not an SVG file: {error}") from error
    if root.tag != f"{SVG}svg":
        raise ValueError(f"figure {label!r}: the outermost element is {root.tag}, not svg")
    width, height = (_pixels(root.get(side, "")) for side in ("width", "height"))
    if "viewBox" not in root.attrib:
        if not (width and height):
            raise ValueError(f"figure {label!r}: the SVG has neither a viewBox nor a width and height")
        root.set("viewBox", f"0 0 {width:g} {height:g}")
    ids = {element.get("id", "") for element in root.iter()}
    _keep_drawing(root)
    for element in root.iter():
        _rename(element, ids, prefix)
    for side in ("width", "height"):
        root.attrib.pop(side, None)
    root.attrib |= {"id": root.get("id", f"{prefix}svg"), "role": "img", "aria-label": label}
    for style in root.iter("style"):
        # Nested in a rule of this drawing; a sheet inside an SVG holds for the whole page otherwise.
        style.text = f"#{root.get('id')} {{{_local(style.text or '', ids, prefix)}}}"
    return ElementTree.tostring(root, encoding="unicode"), width or float(root.get("viewBox", "").split()[2])


def _keep_drawing(element: ElementTree.Element) -> None:
    for child in list(element):
        if isinstance(child.tag, str) and child.tag.removeprefix(SVG) in DRAWING and child.tag.startswith(SVG):
            _keep_drawing(child)
        else:
            element.remove(child)


def _rename(element: ElementTree.Element, ids: set[str], prefix: str) -> None:
    """HTML knows SVG's elements without their namespace, and `href` for `xlink:href`."""
    element.tag = element.tag.removeprefix(SVG)
    found = {name.removeprefix(XLINK): value for name, value in element.attrib.items()}
    element.attrib.clear()
    for name, value in found.items():
        if name == "id":
            element.set(name, prefix + value)
        elif name == "href":
            if value.startswith("#"):
                element.set(name, _local(value, ids, prefix))
            elif value.startswith("data:image/"):
                element.set(name, value)
        elif "{" not in name and not name.lower().startswith(("on", "src", "aria-", "xmlns")):
            element.set(name, _local(value, ids, prefix) if "url" in value.lower() else value)


def _local(text: str, ids: set[str], prefix: str) -> str:
    """`text` with ids of the drawing renamed, and without addresses outside of it."""
    named = NAMES.sub(lambda found: f"#{prefix}{found[1]}" if found[1] in ids else found[0], text)
    return URLS.sub("none", named)


def _pixels(length: str) -> float | None:
    found = re.fullmatch(r"\s*([\d.]+)\s*(px|pt|pc|in|cm|mm|)\s*", length)
    return float(found[1]) * PIXELS.get(found[2], 1.0) if found else None
