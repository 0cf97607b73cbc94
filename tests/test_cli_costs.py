"""`reid costs`, and what `reid query` says of the way that it takes."""

import json
import re

import numpy as np
import pytest
from cli_world import assert_refused, run, succeed

from reid_index import Fingerprint, Gallery
from reid_index.errors import DeviceTooSmall
from reid_index.search.costs import costs_file, this_machine


@pytest.fixture(scope="module")
def gallery(tmp_path_factory):
    rng = np.random.default_rng(3)
    folder = tmp_path_factory.mktemp("costs")
    fingerprint = Fingerprint(name="external:test", version="1")
    gallery = Gallery.create(folder / "g", dim=16, fingerprint=fingerprint)
    gallery.add(rng.normal(size=(400, 16)), [{"camera": row % 4} for row in range(400)])
    np.save(folder / "query.npy", rng.normal(size=16))
    return folder


def explained(*arguments):
    result = succeed("query", *arguments, "--explain", "--format", "jsonl")
    return result, dict(line.split(maxsplit=1) for line in result.stderr.splitlines())


def test_costs_are_measured_once_and_shown(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    before = succeed("costs").stdout
    assert "measured  not yet: these are of a typical machine\n" in before
    assert "kept in   -\n" in before
    measured = succeed("costs", "--measure").stdout
    assert f"machine   {this_machine()}\n" in measured
    assert f"kept in   {costs_file()}\n" in measured
    assert re.search(r"^ +1,000 rows  scan +[0-9.e-]+ +[0-9.e-]+$", measured, re.MULTILINE)
    assert succeed("costs").stdout == measured
    assert json.loads(costs_file().read_text())["measured"] in measured


def test_explain_tells_the_ways_there_were_and_the_one_taken(gallery):
    _, lines = explained(gallery / "g", gallery / "query.npy", "--where", "camera = 1")
    assert lines["plan"] == "scan of 100 allowed rows of 400"
    ways = re.findall(r"(\w+) [0-9.e-]+ ms", lines["expected"])
    assert sorted(ways) == ["dense", "gather", "scan"]
    assert ways[0] == "scan"
    assert lines["exact"] == "yes"
    assert lines["allowed"] == "100 of 400 items"


def test_a_filter_that_allows_nothing_is_an_empty_answer_that_says_so(gallery):
    result, lines = explained(gallery / "g", gallery / "query.npy", "--where", "camera = 9")
    assert result.stdout == ""
    assert "only 0 match: 0 of 400 items are allowed" in result.stderr
    assert (lines["plan"], lines["expected"]) == ("nothing is allowed", "-")


def test_exact_is_the_default_and_no_recall(gallery):
    query = (gallery / "g", gallery / "query.npy")
    plain, _ = explained(*query)
    for options in (["--exact"], ["--recall", "1"], ["--recall", "0.5"]):
        result, lines = explained(*query, *options)
        assert result.stdout == plain.stdout
        assert lines["exact"] == "yes"
    both = run("query", *query, "--exact", "--recall", "0.9")
    assert_refused(both, code=2, text="--exact and --recall ask for different things")
    for recall in ("0", "-1", "1.01", "nan"):
        refused = run("query", *query, "--recall", recall)
        assert_refused(refused, code=2, text="a recall is more than 0 and at most 1, got")


def test_an_unknown_device_is_refused(gallery):
    query = (gallery / "g", gallery / "query.npy")
    for device in ("abacus", "cuda:", "cuda:0,cuda:0"):
        for options in ([], ["--where", "camera = 9"]):
            refused = run("query", *query, "--search-device", device, *options)
            assert_refused(refused, code=2, text=repr(device))


def test_what_re_ranking_does_not_do_is_refused(gallery):
    query = (gallery / "g", gallery / "query.npy", "--rerank")
    refused = run("query", *query, "--recall", "0.9")
    assert_refused(refused, code=2, text="--rerank asks no index, so --recall says nothing")
    refused = run("query", *query, "--search-device", "cuda")
    assert_refused(refused, code=2, text="--rerank uses no GPU here, so --search-device says")
    assert run("query", *query, "--search-device", "cpu").exit_code == 0


@pytest.mark.parametrize("options", [[], ["--top", "395"], ["--recall", "0.9"], ["--explain"]])
def test_a_gpu_that_does_not_answer_is_no_secret(gallery, monkeypatch, options):
    def load(*_, **__):
        raise DeviceTooSmall("400 rows need 9 GiB on 'cuda:0', 8 GiB are free: use more devices")

    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    monkeypatch.setattr("reid_index.search.device_rows.DeviceRows.load", load)
    query = (gallery / "g", gallery / "query.npy", "--format", "jsonl", *options)
    plain = succeed("query", *query)
    result = succeed("query", *query, "--search-device", "cuda")
    assert result.stdout == plain.stdout
    assert result.stderr.splitlines()[0] == (
        "the GPU did not answer, the processor did: "
        "400 rows need 9 GiB on 'cuda:0', 8 GiB are free: use more devices"
    )
    assert "the GPU" not in plain.stderr
