"""The report page, read back by an HTML parser, and the folder that it is written to."""

import base64
import io

import pytest
from PIL import Image
from test_sheet import CSP, parse

from cli.plots import histogram_figure, svg_text
from cli.report import Candidate, Picture, Strip, render_report, write_report
from cli.world import draw_crop

SVG = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1 1"><script>alert(1)</script></svg>'
WHOLE = {
    "mAP": 0.71234,
    "mINP": 0.25,
    "rank1": 1.0,
    "queries": 3368,
    "ap_rule": "standard",
    "rerank": None,
    "seconds": {"ranks": 0.25, "measures": 1.5},
}
CUT = {"mAP@50": 0.5, "rank1": 0.9, "queries": 3368, "ap_rule": "standard", "rerank": "joint"}


def candidate(rank, **values):
    defaults = {"image": Image.new("RGB", (64, 128)), "label": f"c2/{rank}.jpg", "right": False}
    return Candidate(**(defaults | {"rank": rank, "score": f"similarity 0.{rank}"} | values))


def strip(label, *candidates, ap=0.5, image=None):
    return Strip(image=image, label=label, ap=ap, candidates=candidates)


def report(**values):
    defaults = {
        "title": "Market",
        "details": [],
        "tables": {},
        "figures": {},
        "best": [],
        "worst": [],
        "notes": [],
    }
    return render_report(**(defaults | values))


def full_report():
    return report(
        details=[("gallery", "market, generation 3")],
        tables={"plain": WHOLE, "cut": CUT},
        figures={"A curve.": SVG},
        best=[
            strip(
                "a.jpg",
                candidate(1, right=True),
                candidate(2, image=None),
                image=draw_crop(person=1, camera=1, frame=5),
                ap=0.98765,
            ),
            strip("b.jpg", candidate(1)),
        ],
        worst=[strip("z.jpg", candidate(3, right=True), ap=0.0)],
        notes=["21 queries have no match."],
    )


def test_the_measures_of_all_evaluations_stand_side_by_side():
    page = parse(report(tables={"plain": WHOLE, "cut": CUT}))
    cells = [element.text for element in page.elements if element.tag in ("th", "td")]
    assert [tuple(cells[at : at + 3]) for at in range(0, len(cells), 3)] == [
        ("measure", "plain", "cut"),
        ("mAP", "0.7123", "–"),
        ("mINP", "0.2500", "–"),
        ("rank-1", "1.0000", "0.9000"),
        ("queries", "3,368", "3,368"),
        ("AP rule", "standard", "standard"),
        ("re-ranking", "none", "joint"),
        ("seconds", "ranks 0.25 · measures 1.50", "–"),
        ("mAP@50", "–", "0.5000"),
    ]


def test_strips_keep_their_order_and_mark_right_and_wrong_in_words_too():
    page = parse(full_report())
    assert [element.text for element in page.all("h2")] == [
        "Measures",
        "Pictures",
        "Best queries",
        "Worst queries",
    ]
    assert [element.text for element in page.all("h3")] == ["a.jpg", "b.jpg", "z.jpg"]
    assert [element.text for element in page.of_class("ap")] == [
        "AP 0.9877",
        "AP 0.5000",
        "AP 0.0000",
    ]
    shown = page.of_class("candidate")
    assert [(card.attributes["data-rank"], card.attributes["data-verdict"]) for card in shown] == [
        ("1", "right"),
        ("2", "wrong"),
        ("1", "wrong"),
        ("3", "right"),
    ]
    assert [" ".join(card.text.split()) for card in shown] == [
        "#1✓ right similarity 0.1 c2/1.jpg",
        "#2✗ wrong no picture similarity 0.2 c2/2.jpg",
        "#1✗ wrong similarity 0.1 c2/1.jpg",
        "#3✓ right similarity 0.3 c2/3.jpg",
    ]


def test_right_is_framed_in_green_and_wrong_in_red_and_dashed():
    html = full_report()
    for verdict, rules in (
        ("right", "--frame: var(--right);"),
        ("wrong", "--frame: var(--wrong); border-style: dashed;"),
    ):
        assert f'.candidate[data-verdict="{verdict}"] {{ {rules} }}' in html
    assert html.count("--right: #1a7f43; --wrong: #c2302d;") == 2  # on screen and on paper


def test_pictures_are_in_the_page():
    page = parse(full_report())
    curve, query, *others = page.all("img")
    kind, content = curve.attributes["src"].split(",")
    assert (kind, curve.attributes["alt"]) == ("data:image/svg+xml;base64", "A curve.")
    assert base64.b64decode(content).decode() == SVG
    assert [image.attributes["alt"] for image in (query, *others)] == [
        "Query a.jpg",
        "Rank 1, right: c2/1.jpg",
        "Rank 1, wrong: c2/1.jpg",
        "Rank 3, right: c2/3.jpg",
    ]
    kind, content = query.attributes["src"].split(",")
    assert kind == "data:image/jpeg;base64"
    crop = draw_crop(person=1, camera=1, frame=5)
    with Image.open(io.BytesIO(base64.b64decode(content))) as picture:
        assert picture.size == crop.size


def test_nothing_outside_the_page_is_referred_to():
    html = full_report()
    page = parse(html)
    assert CSP in html
    assert "url(" not in html
    assert "@import" not in html
    assert "://" not in html
    loading = {"src", "href", "srcset", "background", "action", "poster", "style", "data"}
    referred = [
        value
        for element in page.elements
        for name, value in element.attributes.items()
        if name in loading
    ]
    ids = {element.attributes["id"] for element in page.elements if "id" in element.attributes}
    links = [value.removeprefix("#") for value in referred if not value.startswith("data:image/")]
    assert links == ["measures", "pictures", "strips-1", "strips-2"]
    assert ids == set(links)


def test_every_text_is_escaped():
    evil = '"><script>alert(1)</script>'
    html = report(
        title=evil,
        details=[(evil, evil)],
        tables={evil: {evil: evil}},
        figures={evil: SVG},
        best=[strip(evil, candidate(1, label=evil, score=evil))],
        notes=[evil],
    )
    page = parse(html)
    assert "<script" not in html
    assert [element.text for element in page.all("h1") + page.all("h3")] == [evil, evil]
    assert page.of_class("note")[0].text == evil
    assert page.all("figcaption")[0].text == evil
    assert page.of_class("file")[0].text == evil
    assert page.all("img")[1].attributes["alt"] == f"Rank 1, wrong: {evil}"


def test_a_file_name_that_is_not_utf8_can_still_be_written():
    html = report(best=[strip(b"caf\xe9.jpg".decode(errors="surrogateescape"))])
    assert "caf?.jpg" in html
    html.encode()


def test_the_warning_stands_on_every_page_and_empty_sections_do_not():
    page = parse(report())
    assert page.all("footer")[0].text == "A high rank is no proof of who somebody is."
    assert page.all("h2") + page.all("dl") + page.all("table") + page.of_class("note") == []
    full = parse(full_report())
    assert [note.text for note in full.of_class("note")] == ["21 queries have no match."]
    assert [element.text for element in full.all("dt") + full.all("dd")] == [
        "gallery",
        "market, generation 3",
    ]


def test_a_folder_gets_the_page_and_each_figure_twice(tmp_path):
    figure = histogram_figure(positives=[1], negatives=[2], edges=[0, 1], thresholds={})
    values = {"details": [], "tables": {"plain": WHOLE}, "best": [], "worst": [], "notes": []}
    folder = tmp_path / "new" / "report"
    pictures = [Picture(name="pairs", caption="Pairs.", figure=figure)]
    write_report(folder, title="First", pictures=pictures, **values)
    (folder / "mine.txt").write_text("kept")
    write_report(folder, title="Second", pictures=pictures, **values)
    assert sorted(path.name for path in folder.iterdir()) == [
        "mine.txt",
        "pairs.png",
        "pairs.svg",
        "report.html",
    ]
    svg = (folder / "pairs.svg").read_text(encoding="utf-8")
    assert svg == svg_text(figure)
    with Image.open(folder / "pairs.png") as picture:
        assert picture.format == "PNG"
    html = (folder / "report.html").read_text(encoding="utf-8")
    assert html == report(title="Second", tables={"plain": WHOLE}, figures={"Pairs.": svg})


def test_a_folder_that_is_a_file_is_an_error(tmp_path):
    (tmp_path / "report").write_text("mine")
    with pytest.raises(FileExistsError):
        write_report(
            tmp_path / "report",
            title="",
            details=[],
            tables={},
            pictures=[],
            best=[],
            worst=[],
            notes=[],
        )
    assert (tmp_path / "report").read_text() == "mine"
