"""The answer sheet, read back by an HTML parser and by a headless browser."""

import base64
import io
import json
import shutil
import subprocess
from dataclasses import dataclass, field, fields
from datetime import datetime
from html.parser import HTMLParser

import pytest
from PIL import Image

from cli.sheet import render_sheet
from reid_index.metric import Metric
from reid_index.search.result import Match, Result

CSP = (
    '<meta http-equiv="Content-Security-Policy" '
    "content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">"
)
REMOTE_PICTURE = '<img src="http://127.0.0.1:9/x.png" alt="">'
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium or Chrome on PATH")


@dataclass
class Element:
    tag: str
    attributes: dict[str, str | None]
    text: str = ""


@dataclass
class Page(HTMLParser):
    """Every element of a page in order, each with the text inside it."""

    elements: list[Element] = field(default_factory=list)
    open_: list[Element] = field(default_factory=list)

    def __post_init__(self):
        super().__init__()

    def handle_starttag(self, tag, attrs):
        self.elements.append(Element(tag, dict(attrs)))
        if tag not in ("img", "meta"):
            self.open_.append(self.elements[-1])

    def handle_endtag(self, tag):
        assert self.open_.pop().tag == tag

    def handle_data(self, data):
        for element in self.open_:
            element.text += data

    def all(self, tag):
        return [element for element in self.elements if element.tag == tag]

    def of_class(self, name):
        return [
            element
            for element in self.elements
            if name in (element.attributes.get("class") or "").split()
        ]


def parse(html):
    page = Page()
    page.feed(html)
    page.close()
    assert page.open_ == []
    return page


def match(rank, **values):
    defaults = {
        "item": 100 + rank,
        "source": f"c1/{rank}.jpg",
        "root": "/crops",
        "similarity": 1 - rank / 7,
        "extra": {},
    }
    unknown = dict.fromkeys(each.name for each in fields(Match))
    return Match(**(unknown | defaults | {"rank": rank} | values))


def result(*matches, k=None, allowed=50, metric=Metric.COSINE):
    return Result(
        matches=matches,
        k=len(matches) if k is None else k,
        allowed=allowed,
        rows=60,
        threshold=None,
        metric=metric,
        generation=1,
        plan="exact",
        exact=True,
        seconds={},
    )


def picture(width=64, height=128, colour=(200, 30, 30)):
    return Image.new("RGB", (width, height), colour)


def sheet(answer, **values):
    defaults = {
        "query_images": [picture()],
        "query_label": "query.jpg",
        "query_person": "anna",
        "load_crop": lambda match: picture(),
        "title": "Answer",
        "details": [],
    }
    return render_sheet(answer, **(defaults | values))


def full_sheet():
    """A sheet with everything that the template can print: three ranks, the second without crop."""
    people = ("anna", None, "<b>bert</b>")
    return sheet(
        result(*(match(rank, person=people[rank - 1]) for rank in (1, 2, 3)), k=5, allowed=3),
        load_crop=lambda match: None if match.rank == 2 else picture(),
        details=[("source", "http://example.org/")],
        footnote="Judge for yourself.",
    )


def test_cards_give_rank_item_verdict_and_the_mark_in_words():
    answer = result(match(1, person="anna"), match(2, person="bert"), match(3))
    page = parse(sheet(answer))
    cards = page.of_class("card")
    names = ("data-rank", "data-item", "data-person", "data-verdict")
    assert [tuple(card.attributes.get(name) for name in names) for card in cards] == [
        ("1", "101", "anna", "same"),
        ("2", "102", "bert", "other"),
        ("3", "103", None, "unknown"),
    ]
    assert ["same person" in card.text for card in cards] == [True, False, False]
    assert ["other person" in card.text for card in cards] == [False, True, False]


def test_without_a_label_of_the_query_no_verdict_is_given():
    page = parse(sheet(result(match(1, person="anna"), match(2)), query_person=None))
    assert [card.attributes["data-verdict"] for card in page.of_class("card")] == ["unknown"] * 2
    assert page.of_class("mark") == []


def test_scores_follow_the_metric():
    similar = parse(sheet(result(match(1, similarity=0.123456789)))).of_class("card")[0]
    assert similar.attributes["data-similarity"] == "0.123456789"
    assert "data-distance" not in similar.attributes
    assert "0.1235 similarity" in similar.text
    near = match(1, similarity=None, distance=12.00004)
    distant = parse(sheet(result(near, metric=Metric.EUCLIDEAN))).of_class("card")[0]
    assert distant.attributes["data-distance"] == "12.00004"
    assert "data-similarity" not in distant.attributes
    assert "12.0000 distance" in distant.text


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        ({"start": datetime(2024, 5, 3, 14, 5, 9), "video": "a.mp4"}, "2024-05-03 14:05:09"),
        ({"video": "in/a.mp4", "start_s": 12.34}, "a.mp4 at 12.3 s"),
        ({"video": "in/a.mp4"}, "a.mp4"),
        ({"start_s": 0.0}, "0.0 s"),
        ({}, "–"),
    ],
)
def test_time_is_the_clock_else_the_place_in_the_video(values, shown):
    page = parse(sheet(result(match(1, camera=0, **values))))
    assert [(dt.text, dd.text) for dt, dd in zip(page.all("dt"), page.all("dd"), strict=True)] == [
        ("person", "anna"),
        ("camera", "0"),
        ("time", shown),
        ("person", "–"),
        ("file", "1.jpg"),
        ("item", "101"),
    ]


def test_every_text_is_escaped():
    evil = '"><script>alert(1)</script>'
    answer = result(match(1, person=evil, source=evil, video=evil, start_s=1.0), k=2, allowed=1)
    html = sheet(
        answer,
        query_label=evil,
        query_person=evil,
        load_crop=lambda match: None,
        title=evil,
        details=[(evil, evil)],
        footnote=evil,
    )
    page = parse(html)
    assert "<script" not in html
    assert page.all("script") == []
    assert page.all("title")[0].text == evil
    assert page.all("footer")[0].text == evil
    assert page.of_class("card")[0].attributes["data-person"] == evil
    assert page.of_class("details")[0].text.strip() == evil + evil


def test_a_file_name_that_is_not_utf8_can_still_be_written():
    html = sheet(result(match(1)), query_label=b"caf\xe9.jpg".decode(errors="surrogateescape"))
    assert "caf?.jpg" in html
    html.encode()


def test_nothing_outside_the_page_is_referred_to():
    html = full_sheet()
    page = parse(html)
    assert CSP in html
    assert "url(" not in html
    assert "@import" not in html
    assert {element.tag for element in page.elements}.isdisjoint(
        {"a", "audio", "base", "embed", "form", "iframe", "link", "object", "script", "video"}
    )
    loading = [
        value
        for element in page.elements
        for name, value in element.attributes.items()
        if name in ("src", "href", "srcset", "background", "action", "poster", "style")
    ]
    assert len(loading) == 3
    assert all(value.startswith("data:image/jpeg;base64,") for value in loading)


def test_pictures_are_small_jpegs_of_the_same_shape_and_colour():
    crops = {1: picture(512, 512, (0, 0, 255)), 2: picture(300, 1200), 3: picture(10, 20)}
    crops[4] = Image.new("P", (40, 80))
    answer = result(*(match(rank, camera=rank, person="anna") for rank in crops))
    page = parse(sheet(answer, load_crop=lambda match: crops[match.rank]))
    images = page.all("img")
    assert [image.attributes["alt"] for image in images[:2]] == [
        "Query picture 1 of 1",
        "Rank 1: item 101, camera 1, person anna",
    ]
    decoded = [
        Image.open(io.BytesIO(base64.b64decode(image.attributes["src"].split(",")[1])))
        for image in images[1:]
    ]
    assert [image.format for image in decoded] == ["JPEG"] * 4
    assert [image.size for image in decoded] == [(128, 128), (64, 256), (10, 20), (40, 80)]
    assert decoded[0].getpixel((64, 64)) == pytest.approx((0, 0, 255), abs=4)
    assert crops[1].size == (512, 512)


def test_placeholders_for_a_vector_and_for_a_lost_crop():
    answer = result(match(1), match(2), match(3, source=""))
    page = parse(
        sheet(
            answer,
            query_images=[],
            load_crop=lambda match: picture() if match.rank == 1 else None,
        )
    )
    assert [element.text for element in page.of_class("placeholder")] == [
        "vector query",
        "no picturec1/2.jpg",
        "no picture",
    ]
    assert len(page.all("img")) == 1


def test_note_details_and_footnote_are_shown_where_given():
    answer = result(match(1), k=5, allowed=1)
    page = parse(
        sheet(answer, details=[("plan", "exact"), ("time", "3 ms")], footnote="Judge for yourself.")
    )
    assert [note.text for note in page.of_class("note")] == [answer.note]
    assert answer.note.startswith("only 1 match")
    assert page.of_class("details")[0].text.split("\n")[1:-1] == ["planexact", "time3 ms"]
    assert page.all("footer")[0].text == "Judge for yourself."
    bare = parse(sheet(result(match(1))))
    assert bare.of_class("note") + bare.of_class("details") + bare.all("footer") == []


def test_no_match_is_said_in_a_sentence():
    page = parse(sheet(result(k=5, allowed=0)))
    assert "No item of the gallery matches this query." in [p.text for p in page.all("p")]
    assert page.of_class("card") == []


def browse(folder, html):
    """Open a page from disk in a headless browser: its DOM, and the addresses that it asked for.

    The browser's own traffic has "not an origin" as its initiator and is left out; the resolver
    rule keeps it from leaving the machine.
    """
    (folder / "page.html").write_text(html, encoding="utf-8")
    done = subprocess.run(
        [
            CHROMIUM,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
            f"--user-data-dir={folder / 'profile'}",
            f"--log-net-log={folder / 'net.json'}",
            "--virtual-time-budget=2000",
            "--dump-dom",
            (folder / "page.html").as_uri(),
        ],
        capture_output=True,
        encoding="utf-8",
        timeout=60,
        check=True,
    )
    log = json.loads((folder / "net.json").read_text(encoding="utf-8"))
    started = log["constants"]["logEventTypes"]["URL_REQUEST_START_JOB"]
    begin = log["constants"]["logEventPhase"]["PHASE_BEGIN"]
    requests = [
        event["params"]
        for event in log["events"]
        if event["type"] == started and event["phase"] == begin
    ]
    return done.stdout, [
        request["url"]
        for request in requests
        if request["initiator"] != "not an origin"
        and not request["url"].startswith(("file:", "data:", "chrome:"))
    ]


@needs_chromium
def test_a_browser_shows_the_ranks_and_asks_for_nothing(tmp_path):
    # Without the policy, so that the page itself and not the browser's guard is tested.
    dom, requested = browse(tmp_path, full_sheet().replace(CSP, ""))
    cards = parse(dom).of_class("card")
    assert [card.attributes["data-rank"] for card in cards] == ["1", "2", "3"]
    assert "<b>bert</b>" in cards[2].text
    assert requested == []


@needs_chromium
@pytest.mark.parametrize(("policy", "requested"), [("", ["http://127.0.0.1:9/x.png"]), (CSP, [])])
def test_the_policy_stops_a_remote_picture_that_is_else_asked_for(tmp_path, policy, requested):
    html = sheet(result(match(1))).replace(CSP, policy).replace("</main>", REMOTE_PICTURE)
    assert REMOTE_PICTURE in html
    assert browse(tmp_path, html)[1] == requested
