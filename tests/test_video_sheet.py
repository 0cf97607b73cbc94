"""The sheet of an answer to a video, read back by an HTML parser."""

import pytest
from test_sheet import CSP, browse, needs_chromium, parse, picture
from video_answer import at, candidate, in_video, result, winner

from cli.sheet import data_uri
from cli.strips import picture_shot, shots_of
from cli.video_sheet import TargetSegment, TargetShown, render_video_sheet

FRAMES = ["7@0.28:1,2,30,60", "9@0.36:2,2,30,60", "11@0.44:3,2,30,60"]
OF_A_VIDEO = {"source": "a.mp4", "video": "a.mp4", "extra": {"frames": FRAMES}}
TRACK = {"source": "t/2.jpg", "extra": {"frames": ["t/1.jpg", "t/2.jpg"]}}
URI = data_uri(picture())


def target(segments=2, person="anna"):
    made = (
        TargetSegment(shots=(picture_shot(f"q/{n}.jpg", root="/q", box=None),), span=f"0:0{n}.0")
        for n in range(segments)
    )
    return TargetShown(label="target.mp4, track 3", person=person, segments=list(made))


def sheet(answer, *, weights=None, **values):
    known = {
        "target": target(),
        "pictures": lambda shots: dict.fromkeys(shots, URI),
        "weights": weights or [[None] * len(one.winners) for one in answer.candidates],
        "title": "Answer",
        "rule": "the best fifth",
        "details": [],
    }
    return render_video_sheet(answer, **(known | values))


def answer():
    return result(
        candidate(
            1,
            winner(1, 0.875, 40, **OF_A_VIDEO, **in_video(0.25)),
            winner(1, 0.5, 41, **TRACK),
            person="anna",
            camera=1,
            **in_video(0.0),
        ),
        candidate(2, winner(0, 0.25, 3), person="bert", camera=2, **in_video(1.0)),
        candidate(3, camera=2),
        k=5,
    )


def strips(page):
    """Of each strip: its title, and how many pictures and frames it has."""
    found = []
    for element in page.elements:
        if "strip" in (element.attributes.get("class") or "").split():
            found.append([element.text.split("\n")[1], 0, 0])
        elif element.tag == "img":
            found[-1][1] += 1
        elif element.attributes.get("class") == "frame":
            found[-1][2] += 1
    return found


def test_cards_give_rank_score_verdict_and_what_is_known():
    cards = parse(sheet(answer())).of_class("card")
    names = ("data-rank", "data-score", "data-person", "data-verdict")
    assert [tuple(card.attributes.get(name) for name in names) for card in cards] == [
        ("1", "9.0", "anna", "same"),
        ("2", "8.0", "bert", "other"),
        ("3", "7.0", None, "unknown"),
    ]
    head = cards[0].text
    for text in ("same person", "camera 1", "person anna", "seen 0:00.0–0:03.0", "2 of 6"):
        assert text in head
    assert "seen –" in cards[2].text


def test_strips_have_the_frames_of_the_target_and_of_the_winners():
    page = parse(sheet(answer()))
    assert strips(page) == [
        ["segment 1 · 0:00.0", 1, 1],
        ["segment 2 · 0:01.0", 1, 1],
        ["0.8750 with segment 2 · 0:00.2–0:03.2 · item 40", 3, 3],
        ["0.5000 with segment 2 · item 41", 2, 2],
        ["0.2500 with segment 1 · item 3", 1, 1],
    ]
    texts = [image.attributes["alt"] for image in page.all("img")]
    assert texts[2:6] == [
        *("a.mp4, frame 7 at 0:00.3", "a.mp4, frame 9 at 0:00.4", "a.mp4, frame 11 at 0:00.4"),
        "t/1.jpg",
    ]


def test_pictures_are_asked_for_once_and_those_missing_have_a_placeholder():
    asked = []

    def pictures(shots):
        asked.extend(shots)
        return {shot: None if shot.video else URI for shot in shots}

    page = parse(sheet(answer(), pictures=pictures))
    assert len(asked) == len(set(asked)) == 2 + 3 + 2 + 1
    assert [counts for _, *counts in strips(page)] == [[1, 1], [1, 1], [0, 3], [2, 2], [1, 1]]
    gone = page.of_class("gone")
    assert [one.text for one in gone] == ["no picture"] * 3
    assert gone[0].attributes["title"] == "a.mp4, frame 7 at 0:00.3"


def test_attention_is_drawn_as_bars_under_its_frames():
    weights = [[[0.125, 0.5, 0.375], None], [None], []]
    page = parse(sheet(answer(), weights=weights))
    drawn = page.of_class("weight")
    assert [one.attributes["aria-label"] for one in drawn] == [
        *("attention 12%", "attention 50%", "attention 38%")
    ]
    assert [one.attributes["height"] for one in page.of_class("part")] == ["2.50", "10.00", "7.50"]
    assert parse(sheet(answer())).of_class("weight") == []


def test_the_target_is_shown_by_its_segments_that_decided_most():
    winners = [winner(9 - n % 9, 0.5, n) for n in range(17)]
    page = parse(sheet(result(candidate(1, *winners)), target=target(segments=12)))
    shown = [title for title, *_ in strips(page) if title.startswith("segment")]
    # Numbers from 0: 9 to 2 are named twice, 1 once, 0, 10 and 11 never.
    assert [title.split(" · ")[0] for title in shown] == [f"segment {n}" for n in range(3, 11)]
    assert "4 more segments of the target are not shown" in [p.text for p in page.all("p")]


def test_the_time_line_has_a_bar_for_each_candidate_that_has_a_time():
    page = parse(sheet(answer()))
    assert [lane.text for lane in page.of_class("lane-name")] == ["camera 1", "camera 2", ""]
    found = page.of_class("bar")
    assert [bar.attributes["data-rank"] for bar in found if "data-rank" in bar.attributes] == [
        *("1", "2")
    ]
    assert (
        "time in the video; 1 of the candidates are not on it" in page.of_class("heading")[0].text
    )
    bare = parse(sheet(result(candidate(1))))
    assert bare.of_class("timeline") == []


def test_no_candidate_is_said_in_a_sentence_and_the_target_is_shown():
    page = parse(sheet(result(k=5), note="only 0 candidates"))
    assert "No candidate of the gallery matches this target." in [p.text for p in page.all("p")]
    assert [title for title, *_ in strips(page)] == ["segment 1 · 0:00.0", "segment 2 · 0:01.0"]
    assert [note.text for note in page.of_class("note")] == ["only 0 candidates"]


def test_every_text_is_escaped():
    evil = '"><script>alert(1)</script>'
    frames = {"source": evil, "video": evil, "extra": {"frames": [evil]}}
    one = candidate(
        1, winner(0, 0.5, 1, **frames, **at(0)), person=evil, track=evil, video=evil, **at(0)
    )
    html = sheet(
        result(one),
        target=TargetShown(label=evil, person=evil, segments=[]),
        pictures=lambda shots: dict.fromkeys(shots),
        title=evil,
        rule=evil,
        details=[(evil, evil)],
        note=evil,
        footnote=evil,
    )
    assert "<script" not in html
    assert parse(html).all("script") == []


def test_a_text_that_names_no_frame_is_a_shot_without_one():
    shots = shots_of(
        winner(0, 0.5, 1, source="a.mp4", video="a.mp4", extra={"frames": ["x"]}).match
    )
    assert [(shot.frame, shot.text) for shot in shots] == [(None, "x")]


def test_nothing_outside_the_page_is_referred_to():
    html = sheet(answer())
    page = parse(html)
    assert CSP in html
    assert "url(" not in html
    loading = [
        value
        for element in page.elements
        for name, value in element.attributes.items()
        if name in ("src", "href", "srcset", "background", "action", "poster")
    ]
    assert len(loading) == 8
    assert all(value.startswith("data:image/jpeg;base64,") for value in loading)


@needs_chromium
def test_a_browser_shows_the_cards_and_asks_for_nothing(tmp_path):
    # Without the policy, so that the page itself and not the browser's guard is tested.
    dom, requested = browse(tmp_path, sheet(answer()).replace(CSP, ""))
    cards = parse(dom).of_class("card")
    assert [card.attributes["data-rank"] for card in cards] == ["1", "2", "3"]
    assert requested == []


@pytest.mark.parametrize("count", [1, 3, 12])
def test_strips_are_as_wide_as_their_frames(count):
    frames = {"source": "t/0.jpg", "extra": {"frames": [f"t/{n}.jpg" for n in range(count)]}}
    page = parse(sheet(result(candidate(1, winner(0, 0.5, 1, **frames)))))
    assert page.of_class("frames")[-1].attributes["style"] == f"--columns: {min(count, 8)}"
