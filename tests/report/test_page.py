"""A page is one self-contained, deterministic file, whatever its texts contain; its only script is that of a grid."""

import base64
import builtins
import hashlib
import html.parser
import io
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from PIL import Image

from wordsight.errors import ImageError, MissingExtraError, OutputError
from wordsight.metrics import Score
from wordsight.report import (
    Commands,
    Curve,
    Gallery,
    GridImage,
    ImageCard,
    ImageGrid,
    Matrix,
    Page,
    Plot,
    RankedText,
    Section,
    Table,
    Tiles,
    plots,
    tile,
)

pytest.importorskip("jinja2")
pytest.importorskip("matplotlib")

HOSTILE = "<script>alert('x')</script> \"><img src=x onerror=alert(1)> {{ 7 * 7 }} $\\frac{ & </style></svg>"


def _image(format: str = "PNG") -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(content, format)
    return content.getvalue()


def _page(text: str) -> Page:
    """A page with every kind of block, and the text in every text field."""
    image = _image()
    curve = Curve(text, [0, 1, 2], [0.1, float("nan"), 0.3])
    score = Score(dataset=text, metric=text, value=0.12, low=0.1, high=0.14, n=1000, chance=0.01, method=text)
    return Page(
        text,
        text,
        [
            Section(
                text,
                text,
                [
                    Tiles([tile(score)]),
                    Table([text, text], [[text, 1234567], [text, float("nan")]], text),
                    Plot([curve], text, text, text, level=0.05, level_name=text, is_share=True),
                ],
            ),
            Section(
                text,
                "one\n\ntwo",
                [
                    Plot([curve], text, text),
                    Matrix([[0.1, float("nan")], [0.3, 0.2]], [image, image], [text, text], [0, 1], text),
                    Gallery(
                        [ImageCard(text, image, [RankedText(text, 0.4, True), RankedText(text, 0.2)], True, text)], text
                    ),
                    Gallery([ImageCard(text, None, [RankedText(text, 0, True, image)], False)], text),
                    Commands([text, text], text),
                ],
            ),
        ],
        [text],
    )


class _Elements(html.parser.HTMLParser):
    """Collects all elements, attributes and text of a page, and checks that tags are balanced."""

    void_tags = frozenset({"meta", "img", "br", "use", "path", "rect", "link", "input", "wbr"})

    def __init__(self) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open_tags: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attributes)))
        if tag not in self.void_tags:
            self.open_tags.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.void_tags:
            assert self.open_tags.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def _parse(page: Page) -> _Elements:
    elements = _Elements()
    elements.feed(page.render())
    elements.close()
    assert not elements.open_tags
    return elements


def test_hostile_text_is_escaped_everywhere() -> None:
    hostile, benign = _parse(_page(HOSTILE)), _parse(_page("words"))
    assert [tag for tag, _ in hostile.elements] == [tag for tag, _ in benign.elements]
    assert [sorted(attributes) for _, attributes in hostile.elements] == [
        sorted(attributes) for _, attributes in benign.elements
    ]
    assert "script" not in {tag for tag, _ in hostile.elements}
    assert hostile.text.count("alert('x')") > 20
    assert "{{ 7 * 7 }}" in hostile.text


def test_the_page_loads_nothing() -> None:
    elements = _parse(_page("words")).elements
    for tag, attributes in elements:
        assert tag not in {"script", "link", "iframe", "object", "embed", "base"}
        for name, value in attributes.items():
            if name in {"src", "href", "xlink:href", "srcset"}:
                assert (value or "").startswith(("data:image/", "#")), (tag, name, value)
    html = _page("words").render()
    assert "@import" not in html
    assert not [url for url in re.findall(r"url\((.*?)\)", html) if not url.startswith("#")]
    assert any("default-src 'none'" in (attributes.get("content") or "") for _, attributes in elements)


def test_equal_input_gives_equal_bytes() -> None:
    assert _page("a").render() == _page("a").render()
    assert _page("a").render() != _page("b").render()


def test_ids_are_unique_and_references_resolve() -> None:
    elements = _parse(_page("words")).elements
    ids = [attributes["id"] for _, attributes in elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    html = _page("words").render()
    for target in re.findall(r'(?:url\(|href=")#([\w.-]+)', html):
        assert target in ids


def test_a_plot_is_small_xml_without_fixed_colours() -> None:
    long_curve = Curve("loss", list(range(2000)), [5 / (1 + step) for step in range(2000)])
    svg = plots.draw(Plot([long_curve], "step", "loss", level=1.0), 1)
    ElementTree.fromstring(svg)
    assert len(svg) < 20_000
    assert "var(--series-1)" in svg
    assert "#" not in re.sub(r"url\(#\w+\)", "", svg)


def test_drawing_does_not_change_the_settings_of_matplotlib() -> None:
    import matplotlib

    before = dict(matplotlib.rcParams)
    plots.draw(Plot([Curve("a", [1], [1])], "x", "y"), 1)
    assert dict(matplotlib.rcParams) == before
    code = "import sys; from wordsight.report import *; from wordsight.report import plots\n"
    code += "plots.draw(Plot([Curve('a', [1, 2], [1, 2])], 'x', 'y'), 1); sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_constant_and_empty_curves_are_drawn() -> None:
    for y in ([1.0, 1.0], [float("nan"), float("nan")], []):
        drawn = plots.draw(Plot([Curve("a", list(range(len(y))), y)], "x", "y", is_share=True), 1)
        assert ElementTree.fromstring(drawn).tag == "{http://www.w3.org/2000/svg}svg"


@pytest.mark.parametrize("format", ["PNG", "JPEG", "GIF", "WEBP"])
def test_images_are_embedded(format: str) -> None:
    page = Page("a", "", [Section("b", blocks=[Gallery([ImageCard("c", _image(format))])])]).render()
    assert f'src="data:image/{format.lower()};base64,' in page


def test_an_unsupported_image_format_is_a_one_line_error() -> None:
    for image in (b"hello", b"RIFF0000AVI ", _image("TIFF"), b"<svg onload=alert(1)>"):
        with pytest.raises(ImageError, match="not PNG"):
            Page("a", "", [Section("b", blocks=[Gallery([ImageCard("c", image)])])]).render()


def test_the_file_is_complete_utf_8(tmp_path: Path) -> None:
    path = tmp_path / "new" / "report.html"
    _page("naïve 猫 \ud800 é").write(path)
    text = path.read_bytes().decode("utf-8")
    assert text.startswith("<!doctype html>")
    assert r"naïve 猫 \ud800 é" in text
    assert [entry.name for entry in path.parent.iterdir()] == ["report.html"]


def test_an_unwritable_path_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="file"):
        _page("a").write(tmp_path / "file" / "report.html")


@pytest.mark.parametrize("missing", ["jinja2", "matplotlib"])
def test_a_missing_package_names_the_extra(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    original_import = builtins.__import__

    def import_without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.split(".")[0] == missing:
            raise ModuleNotFoundError(name)
        return original_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", import_without)
    with pytest.raises(
        MissingExtraError, match=r"the report needs optional packages: pip install 'wordsight\[report\]'"
    ):
        _page("a").render()


def test_importing_the_package_loads_neither_jinja2_nor_matplotlib_nor_torch() -> None:
    code = "import sys, wordsight.report; sys.exit(bool({'jinja2', 'matplotlib', 'torch'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_control_characters_are_escaped_everywhere(tmp_path: Path) -> None:
    hostile = "a\x1b[31m\u202eb\x00\x9b<script>"
    html = _page(hostile).render()
    assert r"a\x1b[31m\u202eb\x00\x9b&lt;script&gt;" in html
    assert not [character for character in html if not character.isprintable() and character != "\n"]


def _grid_page(text: str, total: int = 0) -> Page:
    """A page with a grid that has every kind of value, and the text in every text field."""
    images = [
        GridImage(text, _image(), [text, 0.5, (text, "tag")], True, text),
        GridImage(text, None, [text, float("nan"), ()], False),
        GridImage(text, _image("JPEG"), [None, 3, None]),
    ]
    return Page(text, text, [Section(text, text, [ImageGrid([text, text, text], images, total, text, text)])])


def test_the_script_of_a_grid_is_admitted_by_its_hash_and_is_the_only_one() -> None:
    html = _grid_page("words").render()
    (script,) = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in html
    assert "fetch(" not in script
    assert "innerHTML" not in script
    assert "script-src" not in _page("words").render()


def test_hostile_text_is_escaped_in_a_grid() -> None:
    hostile, benign = _parse(_grid_page(HOSTILE[:80])), _parse(_grid_page("a/word"))  # a title may break after a slash
    assert [tag for tag, _ in hostile.elements] == [tag for tag, _ in benign.elements]
    assert [sorted(attributes) for _, attributes in hostile.elements] == [
        sorted(attributes) for _, attributes in benign.elements
    ]
    assert hostile.text.count("alert('x')") > 10


def test_the_values_of_a_grid_match_its_menus_whatever_they_contain() -> None:
    """The script compares the values of an image with the values of the options, so both are escaped alike."""
    for text in ("words", HOSTILE[:80], "a\x1b[31m\u202eb\nc\x7f"):
        elements = _parse(_grid_page(text)).elements
        values = [
            json.loads(attributes["data-values"] or "") for _, attributes in elements if "data-values" in attributes
        ]
        choices = [attributes.get("value") for tag, attributes in elements if tag == "option"]
        assert f"={values[0][0][0]}" in choices
        assert f"={values[0][2][0]}" in choices
        assert values[0][1] == 0.5
        assert values[1][1:] == [None, []]
        assert values[2] == [None, 3, None]


def test_a_grid_states_that_images_are_cut_off() -> None:
    assert "Only the first 3 of 1,200 images are shown. words" in _grid_page("words", 1200).render()
    assert "Only the first" not in _grid_page("words", 3).render()
    with pytest.raises(ValueError, match="1 values of 'a', 0 fields"):
        ImageGrid([], [GridImage("a", None, [1])])


def test_only_fields_whose_texts_repeat_have_a_menu() -> None:
    images = [GridImage(str(number), None, [str(number), "ab"[number % 2], number, "x" * 90]) for number in range(4)]
    grid = ImageGrid(["name", "label", "share", "long"], images)
    assert grid.menus == [(1, [("a", 2), ("b", 2)], 0)]
    assert grid.numeric_fields == [2]


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (10017, "10017"),
        (12.5, "12.5"),
        (0.123456789, "0.123457"),
        (1234567.891, "1234567.89"),
        (float("nan"), "\u2013"),
    ],
)
def test_numbers_of_a_grid_are_shown_in_full(number: float, text: str) -> None:
    grid = ImageGrid(["id"], [GridImage("a", None, [number])])
    assert f"<dd>{text}</dd>" in Page("a", "", [Section("b", blocks=[grid])]).render()
