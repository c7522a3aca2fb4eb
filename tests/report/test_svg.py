"""Drawings inside a page: names and styles of their own, nothing that runs or asks an address."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from raybench.report.svg import inline_svg

HEAD = '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
DRAWN = f"""<?xml version="1.0"?>
{HEAD}width="72pt" height="36pt" viewBox="0 0 72 36" onload="alert(1)">
 <metadata><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"/></metadata>
 <!-- <script> -->
 <style>* {{stroke-linecap: butt}} #p1 {{fill: url(#grad); stroke: #0072B2}}</style>
 <defs><path id="p1" d="M0 0"/><clipPath id="clip.1"><rect width="3"/></clipPath><linearGradient id="grad"/></defs>
 <script>alert(1)</script>
 <foreignObject><body xmlns="http://www.w3.org/1999/xhtml"><b>x</b></body></foreignObject>
 <a xlink:href="https://example.org"><path d="M1 1"/></a>
 <g clip-path="url(#clip.1)" style="fill: #0072B2; mask: url('https://example.org/m')" onclick="alert(1)">
  <use xlink:href="#p1" x="1"/><use href="https://example.org/a.svg#p"/>
  <image xlink:href="data:image/png;base64,AAAA" width="1"/><image href="https://example.org/i.png" src="https://e.org"/>
  <animate attributeName="href" to="javascript:alert(1)"/>
  <text>a &lt;b&gt; &amp; c</text>
 </g>
</svg>"""


def drawn(prefix: str = "f1_", label: str = "A & B") -> str:
    return inline_svg(DRAWN, prefix, label)[0]


def test_nothing_runs_and_nothing_is_asked_for() -> None:
    text = drawn()
    for word in ("script", "alert", "http", "e.org", "metadata", "foreignObject", "animate", "onload", "<a", "<b>"):
        assert word not in text
    assert text.count("data:image/png;base64,AAAA") == 1
    assert "a &lt;b&gt; &amp; c" in text


def test_every_name_is_renamed_where_it_stands_and_where_it_is_used() -> None:
    text = drawn()
    names = re.findall(r' id="([^"]+)"', text)
    assert names == ["f1_svg", "f1_p1", "f1_clip.1", "f1_grad"]
    used = re.findall(r'(?:url\(|href=")#([\w.]+)', text)
    assert sorted(used) == ["f1_clip.1", "f1_grad", "f1_p1"]
    assert set(re.findall(r'id="([^"]+)"', drawn("f2_"))).isdisjoint(names)
    # A colour is no name.
    assert text.count("#0072B2") == 2


def test_styles_hold_for_this_drawing_alone() -> None:
    (style,) = re.findall(r"<style>(.*?)</style>", drawn())
    assert re.fullmatch(r"#f1_svg \{.*\}", style)
    assert "#f1_p1 {" in style


def test_it_stays_xml_and_is_named_for_those_who_hear_it() -> None:
    root = ElementTree.fromstring(drawn(label='"A" & <B>'))
    assert (root.tag, root.get("role"), root.get("aria-label")) == ("svg", "img", '"A" & <B>')
    assert root.get("viewBox") == "0 0 72 36"
    # The page sets the size.
    assert not {"width", "height"} & set(root.attrib)


@pytest.mark.parametrize(
    ("size", "pixels"),
    [
        ('width="72pt" height="36pt" viewBox="0 0 72 36"', 96),
        ('width="2in" height="1in"', 192),
        ('width="120" height="60"', 120),
        ('width="120px" height="60px" viewBox="0 0 12 6"', 120),
        ('viewBox="0 0 150 60"', 150),
        ('width="100%" viewBox="0 0 150 60"', 150),
    ],
)
def test_width_in_pixels(size: str, pixels: float) -> None:
    text, width = inline_svg(f"{HEAD}{size}/>", "f_", "any")
    assert width == pytest.approx(pixels)
    assert "viewBox" in text


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("<svg", "not an SVG file"),
        ("", "not an SVG file"),
        ("<html/>", "outermost element is html"),
        (f"{HEAD}/>", "neither a viewBox nor"),
    ],
)
def test_what_is_no_drawing_is_refused_by_its_title(text: str, rule: str) -> None:
    with pytest.raises(ValueError, match=f"figure 'Curves': .*{rule}"):
        inline_svg(text, "f_", "Curves")
