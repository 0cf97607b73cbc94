"""The co-attention network: codes, pairs, its matcher, what it learns from, and what it learns."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from cli_world import run, succeed
from training_world import FED, crop, people, small

from extractors.coattention import CoAttentionEncoder
from extractors.pictures import Person, Picture, find_pictures
from extractors.segments import MeanEncoder
from extractors.systems import Plan, make_system
from extractors.systems.bot import BoT
from extractors.systems.coattention import OF_FRAMES, CoAttention, asked_codes
from extractors.trained import DEFAULT, Model, TrainedExtractor, read_card, read_model, write_model
from extractors.training.batches import Batches
from extractors.training.crops import Labelled, read_labelled
from extractors.training.losses import Losses, LossPlan
from extractors.training.tracks import SegmentBatches, Tracks, tracks_of
from extractors.training.train import train
from reid_index.errors import (
    BadWeights,
    DimensionMismatch,
    NotFiniteError,
    NothingToIndex,
    UsageError,
)

PLAN = Plan(system="coattention", backbone="resnet18_x0_125", dim=16, key=6, value=8)
CPU = torch.device("cpu")


def made(*, classes: int = 5) -> CoAttention:
    """A network whose pair head is no longer as new."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        system = make_system(PLAN, classes=classes)
        assert isinstance(system, CoAttention)
        for one in (system.norm, system.pair):
            for weight in one.parameters():
                torch.nn.init.normal_(weight)
        system.norm.running_mean.normal_(1)
        system.norm.running_var.uniform_(0.5, 2)
        torch.nn.init.normal_(system.key.weight)
        return system.eval()


def frames_of(*lengths: int, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Frames of segments of such lengths, and their offsets."""
    rng = np.random.default_rng(seed)
    frames = rng.standard_normal((sum(lengths), 16)).astype(np.float32)
    return frames, np.cumsum([0, *lengths])


# The network


def test_the_matcher_says_what_normalisation_layer_and_softmax_say() -> None:
    system = made()
    own, other = torch.randn(2, 50, 8, generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        wanted = system.double().scored(own.double(), other.double()).softmax(dim=1)[:, 1]
    matcher = CoAttentionEncoder(made(), device=CPU).matcher
    assert (matcher.name, len(matcher.head)) == ("coattention", 8)
    apart = (own - other).double().numpy() ** 2
    found = 1 / (1 + np.exp(-(matcher.bias + apart @ np.array(matcher.head))))
    assert np.ptp(found) > 0.5
    np.testing.assert_allclose(found, wanted.numpy(), rtol=0, atol=1e-6)


def test_a_candidate_is_coded_as_the_target_asks() -> None:
    """By a loop over targets, candidates and frames; and the pairs in training are of these."""
    system = made()
    x = torch.randn(4, 3, 16, generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        index, keys, values = system.asked(x)
        codes = asked_codes(index, keys, values).numpy()
        pairs = system(x).pairs
        scored = system.scored(
            torch.from_numpy(codes[1, 1])[None], torch.from_numpy(codes[1, 2])[None]
        )
    for p in range(4):
        for g in range(4):
            heat = [sum(index[p, d] * keys[g, t, d] for d in range(6)).item() for t in range(3)]
            shares = [np.exp(one) / sum(np.exp(heat)) for one in heat]
            code = sum(shares[t] * values[g, t].numpy() for t in range(3))
            np.testing.assert_allclose(codes[p, g], code, rtol=1e-4, atol=1e-5)
    assert np.abs(codes[0, 2] - codes[1, 2]).max() > 0.01
    torch.testing.assert_close(pairs[1, 2], scored[0])
    assert (pairs.diagonal() == 0).all()


def test_frames_count_by_their_direction_and_order_by_the_lstm_alone() -> None:
    system = made()
    x = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(2))
    order = torch.tensor([3, 1, 4, 0, 2])
    with torch.inference_mode():
        index, keys, values = system.asked(x)
        longer = system.asked(x * torch.rand(2, 5, 1).add(0.5))
        other, moved_keys, moved_values = system.asked(x[:, order])
        for one, wanted in zip(longer, (index, keys, values), strict=True):
            torch.testing.assert_close(one, wanted)
        torch.testing.assert_close(moved_keys, keys[:, order])
        torch.testing.assert_close(
            asked_codes(index, moved_keys, moved_values), asked_codes(index, keys, values)
        )
    assert not torch.allclose(other, index, atol=1e-2)


def test_a_new_network_scores_by_the_cosine_of_means() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        system = make_system(replace(PLAN, value=16), classes=2)
        assert isinstance(system, CoAttention)
    frames, offsets = frames_of(3, 5, 2, 4)
    means = MeanEncoder(16).encode(frames, offsets).global_
    codes = CoAttentionEncoder(system.eval(), device=CPU).encode(frames, offsets).global_
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    apart = [np.linalg.norm(codes[0] - one) for one in codes]
    wanted = [4 * np.sqrt(2 - 2 * one @ means[0]) for one in means]
    np.testing.assert_allclose(apart, wanted, rtol=0.02, atol=1e-3)
    head, _ = system.head()
    assert (head < 0).all()
    np.testing.assert_allclose(head.detach().numpy(), head[0].item(), rtol=1e-6)


def test_a_new_network_keeps_what_it_can_of_distances() -> None:
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    system = make_system(PLAN, classes=2)
    assert isinstance(system, CoAttention)
    flat = torch.randn(200, 8, generator=generator) @ torch.randn(8, 16, generator=generator)
    before = system.value.weight.detach().clone()
    system.settle(flat)
    frames = torch.nn.functional.normalize(flat, dim=1)
    with torch.inference_mode():
        found, old = frames @ system.value.weight.T, frames @ before.T
    wanted = torch.cdist(frames, frames)
    torch.testing.assert_close(torch.cdist(found, found), wanted, rtol=1e-3, atol=1e-3)
    assert (torch.cdist(old, old) - wanted).abs().max() > 0.1
    spread = found.var(dim=0)
    assert spread.max() < 4 * spread.min()
    kept = system.value.weight.detach().clone()
    system.settle(torch.randn(200, 16, generator=generator))
    assert torch.equal(system.value.weight, kept)


# The encoder


def test_segments_are_encoded_each_for_itself() -> None:
    system = made()
    encoder = CoAttentionEncoder(system, device=CPU)
    frames, offsets = frames_of(3, 1, 8)
    found = encoder.encode(frames, offsets)
    assert found.index is not None
    assert found.key is not None
    assert found.value is not None
    shapes = [one.shape for one in (found.global_, found.index, found.key, found.value)]
    assert shapes == [(3, 8), (3, 6), (12, 6), (12, 8)]
    assert encoder.dim == 8
    assert {one.dtype for one in (found.global_, found.index, found.key, found.value)} == {
        np.dtype(np.float32)
    }
    for i, (first, stop) in enumerate([(0, 3), (3, 4), (4, 12)]):
        alone = encoder.encode(frames[first:stop], np.array([0, stop - first]))
        np.testing.assert_array_equal(alone.global_[0], found.global_[i])
        with torch.inference_mode():
            index, key, value = system.asked(torch.from_numpy(frames[first:stop])[None])
        np.testing.assert_allclose(found.index[i], index[0], atol=1e-5)
        np.testing.assert_allclose(found.key[first:stop], key[0], atol=1e-5)
        np.testing.assert_allclose(found.value[first:stop], value[0], atol=1e-5)
        heat = found.key[first:stop] @ found.index[i]
        shares = np.exp(heat) / np.exp(heat).sum()
        np.testing.assert_allclose(found.global_[i], shares @ found.value[first:stop], atol=1e-4)


@pytest.mark.parametrize(
    ("wrong", "error", "words"),
    [
        (np.zeros((2, 16), np.float32), NotFiniteError, "length 0"),
        (np.full((2, 16), np.nan, np.float32), NotFiniteError, "NaN"),
        (np.ones((2, 15), np.float32), DimensionMismatch, r"\(2, 15\), not \(F, 16\)"),
    ],
)
def test_frames_that_cannot_be_are_refused(wrong, error, words: str) -> None:
    with pytest.raises(error, match=words):
        CoAttentionEncoder(made(), device=CPU).encode(wrong, np.array([0, 2]))


def test_a_model_file_has_it_all(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    system = made()
    write_model(path, Model(system, PLAN, FED, {}))
    assert read_card(path)["plan"]["key"] == 6
    extractor = TrainedExtractor(path)
    assert extractor.matcher is None
    crops = [crop(person, seed=1) for person in range(4)]
    frames = extractor.extract(crops).global_
    assert frames.shape == (4, 16)
    encoder = extractor.segments
    assert isinstance(encoder, CoAttentionEncoder)
    assert encoder.matcher == CoAttentionEncoder(system, device=CPU).matcher
    found = encoder.encode(frames, np.array([0, 4]))
    wanted = CoAttentionEncoder(system, device=CPU).encode(frames, np.array([0, 4]))
    np.testing.assert_allclose(found.global_, wanted.global_, rtol=1e-5, atol=1e-6)
    assert isinstance(TrainedExtractor().segments, MeanEncoder)


def test_cards_of_others_do_not_speak_of_keys() -> None:
    assert {"key", "value"}.isdisjoint(Plan().to_json())
    with pytest.raises(UsageError, match="bot has no keys and values"):
        Plan(key=3)
    with pytest.raises(UsageError, match="not 9,000"):
        replace(PLAN, value=9000)


def test_a_head_that_no_matcher_can_say_is_refused() -> None:
    system = made()
    system.norm.running_var[0] = -1
    with pytest.raises(BadWeights, match="NaN"):
        CoAttentionEncoder(system, device=CPU)


# Tracks and batches


def labelled(*rows: dict) -> Labelled:
    """Crops with such columns; `at`, the picture's folder."""
    people = [
        (Picture(Path("x"), f"{row.pop('at', 'a')}/{i}.png", root=Path()), Person(columns=row))
        for i, row in enumerate(dict(row) for row in rows)
    ]
    names = sorted({person.columns["person"] for _, person in people})
    classes = np.array([names.index(person.columns["person"]) for _, person in people])
    return Labelled(people, classes, names)


def test_tracks_are_by_person_camera_and_track_or_sequence() -> None:
    one = {"person": "1", "camera": 1}
    found = tracks_of(
        labelled(
            {**one, "sequence": 1, "frame_first": 9},
            {**one, "sequence": 1, "frame_first": 5},
            {**one, "sequence": 2},
            {**one, "camera": 2, "sequence": 1},
            {"person": "2", "camera": 1, "sequence": 1},
            {"person": "2", "track": "7", "camera": 3},
            {"person": "2", "track": "7", "camera": 3, "at": "b"},
            {"person": "2", "track": "7", "camera": 3},
            {"person": "3"},
        )
    )
    crops = [some.tolist() for some in found.crops]
    assert crops == [[1, 0], [2], [3], [4], [5, 7], [6], [8]]
    assert found.cameras.tolist() == [1, 1, 2, 1, 3, 3, -1]
    with pytest.raises(NothingToIndex, match="each of the 2 persons has one track only"):
        tracks_of(labelled(one, one, {"person": "2"}))


@pytest.mark.parametrize(
    ("names", "tracks"),
    [
        (("0001C1T0001F001", "0001C1T0001F002", "0001C1T0002F001", "0002C2T0001F001"), 3),
        (("0001_c1s1_000001_00", "0001_c1s1_000026_00", "0001_c1s2_000001_00"), 2),
    ],
)
def test_names_tell_tracks(names, tracks: int, tmp_path: Path) -> None:
    """As MARS has them, and Market-1501."""
    for name in (*names, names[0].replace("0001", "0007", 1), names[0].replace("0001", "0008", 1)):
        (tmp_path / f"{name}.jpg").touch()
    found = tracks_of(read_labelled([find_pictures([tmp_path])]))
    assert sorted(map(len, found.crops), reverse=True) == [2] + [1] * (tracks + 1)


def test_a_batch_has_segments_in_order_and_cameras_apart() -> None:
    lengths = [6, 2, 1, 9, 5, 5, 5, 5, 5, 5, 3, 3]
    stops = np.cumsum(lengths)
    crops = [np.arange(stop - n, stop) for stop, n in zip(stops, lengths, strict=True)]
    of_track = np.repeat([0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2], lengths)
    cameras = np.array([1, 1, 2, 2, 1, 1, 2, 2, 1, 1, 2, 2])
    made = SegmentBatches(Tracks(crops, cameras), of_track, persons=2, segments=2, frames=4, seed=0)
    starts = set()
    for epoch in range(20):
        batches = made.epoch(epoch)
        assert [one.tolist() for one in batches] == [one.tolist() for one in made.epoch(epoch)]
        tracks = []
        for batch in batches:
            assert batch.shape == (16,)
            for segment in batch.reshape(4, 4):
                (track,) = {int(np.searchsorted(stops, one, side="right")) for one in segment}
                tracks.append(track)
                if lengths[track] >= 4:
                    assert (np.diff(segment) == 1).all()
                else:
                    assert set(segment) == set(crops[track])
                    assert (np.diff(segment) >= 0).all()
                if track == 3:
                    starts.add(int(segment[0]))
            seen = cameras[tracks[-4:]].reshape(2, 2)
            assert (seen[:, 0] != seen[:, 1]).all()
        assert sorted(tracks) == list(range(12))
    assert starts == set(range(9, 15))
    with pytest.raises(UsageError, match="one frame at least"):
        SegmentBatches(Tracks(crops, cameras), of_track, persons=2, segments=2, frames=0, seed=0)


def test_crops_come_as_before_where_no_cameras_are_said() -> None:
    classes = np.arange(40) // 8
    plain = Batches(classes, persons=3, crops=4, seed=1).epoch(2)
    alike = Batches(classes, persons=3, crops=4, seed=1, cameras=np.zeros(40, np.int64)).epoch(2)
    assert [one.tolist() for one in plain] == [one.tolist() for one in alike]


# Training


def test_pairs_of_either_kind_have_half_of_the_weight() -> None:
    generator = torch.Generator().manual_seed(0)
    out = made()(torch.randn(6, 2, 16, generator=generator))
    classes = torch.tensor([0, 0, 1, 1, 2, 2]).repeat_interleave(2)
    assert out.pairs is not None
    _, parts = Losses(LossPlan(metric="none"), classes=5, dims=(16,))(out, classes)
    # One pair in 101 is of the same person: the loss is of as many of either kind.
    chances = (out.pairs + torch.tensor([0, math.log(100)])).softmax(dim=2).detach()
    same = [
        -chances[p, g, 1].log() for p in range(6) for g in range(6) if p != g and p // 2 == g // 2
    ]
    other = [-chances[p, g, 0].log() for p in range(6) for g in range(6) if p // 2 != g // 2]
    assert (len(same), len(other)) == (6, 24)
    wanted = (torch.stack(same).mean() + torch.stack(other).mean()) / 2
    torch.testing.assert_close(parts["verification"].detach(), wanted)
    alone = Losses(LossPlan(metric="none"), classes=5, dims=(16,))(out, torch.zeros(12).long())
    assert torch.isfinite(alone[1]["verification"])


def test_every_weight_learns_and_with_the_backbone_frozen_the_rest() -> None:
    system = made().train()
    x = torch.randn(4, 2, 3, 64, 32, generator=torch.Generator().manual_seed(1))
    out = system(x)
    losses = Losses(LossPlan(), classes=5, dims=system.metric_dims)
    assert tuple(one.shape[1] for one in out.metrics) == system.metric_dims
    losses(out, torch.arange(8) // 4)[0].backward()
    idle = [
        name
        for name, one in system.named_parameters()
        if one.requires_grad and (one.grad is None or not one.grad.abs().sum() > 0)
    ]
    assert idle == []
    system.zero_grad()
    system.freeze()
    losses(system(x[:, :, 0, :4, :4].flatten(2)), torch.arange(8) // 4)[0].backward()
    learning = {name for name, one in system.named_parameters() if one.requires_grad}
    assert {name.split(".")[0] for name in learning} == {
        *("key", "value", "index", "norm", "pair", "classifier")
    }
    assert all(one.grad is not None for one in system.parameters() if one.requires_grad)


def test_frames_are_bots() -> None:
    torch.manual_seed(0)
    bot = make_system(replace(PLAN, system="bot", key=0, value=0), classes=3)
    assert isinstance(bot, BoT)
    system = made()
    state = {n: one for n, one in bot.state_dict().items() if not n.startswith("classifier")}
    system.begin(state, path=Path("m"))
    x = torch.randn(3, 3, 64, 32)
    with torch.inference_mode():
        torch.testing.assert_close(system.embed(x), bot.eval().embed(x))
    vectors = torch.randn(50, 16)
    before = system.value.weight.clone()
    system.settle(vectors)
    assert not torch.equal(system.value.weight, before)
    other = made()
    torch.nn.init.zeros_(other.pair.bias)
    other.begin(system.state_dict(), path=Path("m"))
    other.settle(vectors.flip(1))
    for name, one in system.state_dict().items():
        if not name.startswith("classifier."):
            torch.testing.assert_close(other.state_dict()[name], one)
    other.begin(bot.backbone.state_dict(), path=Path("m"))
    with pytest.raises(BadWeights, match=r"missing: bottleneck"):
        other.begin({n: o for n, o in state.items() if "bottleneck" not in n}, path=Path("m"))


def tracks() -> tuple[np.ndarray, np.ndarray, Tracks]:
    """Crops of 8 persons with 4 tracks of 3 crops each, from 2 cameras."""
    crops, classes = people(8, crops=12)
    some = Tracks(list(np.arange(96).reshape(32, 3)), np.arange(32) % 2)
    return crops, classes, some


@pytest.mark.parametrize("views", [0, 3])
def test_what_is_the_same_is_learnt_from_crops_and_from_frozen_vectors(views: int) -> None:
    crops, classes, some = tracks()
    training = small(
        plan=PLAN, frames=2, views=views, epochs=12, rate=5e-3, losses=LossPlan(metric="none")
    )
    told = []
    begun = {}

    systems = []

    def start(system) -> None:
        systems.append(system)
        begun.update({n: one.clone() for n, one in system.state_dict().items()})

    def after(epoch, _system):
        told.append(epoch.losses)
        return {}

    done = train(
        training, crops, classes, state=None, device=CPU, tracks=some, start=start, after=after
    )
    assert told[0].keys() == {"identity", "verification"}
    assert told[-1]["verification"] < 0.9 * told[0]["verification"]
    assert told[-1]["identity"] < told[0]["identity"]
    kept = [
        torch.equal(one, begun[name])
        for name, one in done.system.state_dict().items()
        if name.startswith(OF_FRAMES)
    ]
    assert all(kept) if views else not any(kept[:3])
    learning = [name for name, one in systems[0].named_parameters() if one.requires_grad]
    assert any(name.startswith(OF_FRAMES) for name in learning) is not bool(views)


@pytest.mark.parametrize("views", [0, 1])
def test_a_training_begins_with_values_that_keep_distances(views: int) -> None:
    crops, classes, some = tracks()
    training = small(plan=PLAN, frames=2, views=views, epochs=1, rate=1e-12)
    begun = []

    def start(system) -> None:
        begun.append(system.value.weight.detach().clone())

    done = train(training, crops, classes, state=None, device=CPU, tracks=some, start=start)
    assert isinstance(done.system, CoAttention)
    weight = done.system.value.weight.detach()
    torch.testing.assert_close(weight @ weight.T, torch.eye(8), rtol=0, atol=1e-4)
    assert not torch.allclose(weight, begun[0], atol=0.05)


def test_the_same_seed_gives_the_same_network_and_an_interrupted_one_goes_on(
    tmp_path: Path,
) -> None:
    crops, classes, some = tracks()
    training = small(plan=PLAN, frames=2, views=2, epochs=2)
    fed = {"device": CPU, "tracks": some}
    one = train(training, crops, classes, state=None, **fed).system.state_dict()

    def stop(epoch, _system):
        if epoch.number == 2:
            raise KeyboardInterrupt
        return {}

    state = tmp_path / "state"
    with pytest.raises(KeyboardInterrupt):
        train(training, crops, classes, state=state, after=stop, **fed)
    again = train(training, crops, classes, state=state, **fed).system.state_dict()
    assert all(torch.equal(one[name], again[name]) for name in one)
    state = tmp_path / "other"
    with pytest.raises(KeyboardInterrupt):
        train(training, crops, classes, state=state, after=stop, **fed)
    fewer = Tracks([*some.crops[:-1], some.crops[-1][:2]], some.cameras)
    with pytest.raises(UsageError, match="another crops_sha256"):
        train(training, crops, classes, state=state, device=CPU, tracks=fewer)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"frames": 2}, "bot learns from crops, with its backbone"),
        ({"views": 1}, "bot learns from crops, with its backbone"),
        ({"plan": PLAN, "frames": 0}, "one frame at least"),
    ],
)
def test_trainings_that_make_no_sense_are_refused(changes, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        small(**changes)


def test_without_tracks_nothing_is_learnt() -> None:
    crops, classes, _ = tracks()
    with pytest.raises(UsageError, match="learns from tracks, and none are said"):
        train(small(plan=PLAN), crops, classes, state=None, device=CPU)


# `reid train`

SMALL = "--system coattention --backbone resnet18_x0_125 --dim 16 --key 6 --value 8 --frames 2"
SMALL += " --input-size 64x32 --batch 4x2 --rate 0.002 --warmup 1 --epochs 2 --pad 2"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`tracks.csv`: 8 persons, 2 cameras, a track of 3 crops from each."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("coattention")
    rows = ["file,person,camera,track"]
    for person in range(8):
        for number in range(6):
            camera = number // 3 + 1
            name = f"{person}/{camera}/{number}.png"
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(crop(person, seed=number)).save(folder / name)
            rows.append(f"{name},{person},{camera},{person}-{camera}")
    (folder / "tracks.csv").write_text("\n".join(rows))
    return folder


def test_from_the_command_line_a_model_comes_of_it(place: Path, monkeypatch) -> None:
    monkeypatch.chdir(place)
    done = succeed(*f"train tracks.csv --out m.safetensors {SMALL} --onnx m.onnx".split())
    assert "48 crops of 8 persons, 0 of them with one crop only\n16 tracks\n" in done.stderr
    assert ", verification 0." in done.stderr
    card = read_card(place / "m.safetensors")
    assert (card["training"]["frames"], card["training"]["views"]) == (2, 0)
    extractor = TrainedExtractor(place / "m.safetensors")
    assert (extractor.dim, extractor.segments.dim) == (16, 8)
    assert extractor.segments.matcher is not None
    words = f"train tracks.csv --out n.safetensors {SMALL} --init m.safetensors --freeze 2"
    said = succeed(*words.split()).stderr
    assert "\nfirst, 2 views of each crop are embedded, once\n" in said
    one, two = (read_model(place / f"{n}.safetensors").system.state_dict() for n in "mn")
    kept = {name: torch.equal(one[name], two[name]) for name in one if "classifier" not in name}
    assert {name for name in kept if name.startswith(OF_FRAMES)} <= {
        n for n, k in kept.items() if k
    }
    assert not kept["value.weight"]


def test_it_can_begin_with_the_model_that_comes_along(place: Path, monkeypatch) -> None:
    monkeypatch.chdir(place)
    words = "--system coattention --backbone resnet18_ibn_x0_375 --input-size 64x32 --batch 4x2"
    words += " --epochs 1 --init default --freeze 1"
    succeed(*f"train tracks.csv --out d.safetensors {words}".split())
    card = read_card(place / "d.safetensors")
    assert (card["plan"]["dim"], card["training"]["init"]) == (512, DEFAULT.name)
    one, two = read_model(DEFAULT).system, read_model(place / "d.safetensors").system
    assert torch.equal(one.state_dict()["bottleneck.weight"], two.state_dict()["bottleneck.weight"])


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        ("--freeze 2", 2, "say which by --init"),
        ("--freeze 2 --init b.safetensors", 2, "random ones are not to stay"),
        ("--freeze 2 --init default", 1, "does not fit"),
        ("--system bot --key 0 --value 0", 2, "frames and views are of coattention"),
        ("--system bot --frames 1", 2, "bot has no keys and values"),
        ("--batch 9x2", 2, "a batch of 9 persons cannot be had of 8"),
    ],
)
def test_bad_input_gets_one_line(place: Path, monkeypatch, words, code, text) -> None:
    from safetensors.torch import save_file

    monkeypatch.chdir(place)
    save_file(made().backbone.state_dict(), place / "b.safetensors")
    result = run("train", "tracks.csv", "--out", "x.safetensors", *SMALL.split(), *words.split())
    assert (result.exit_code, result.stdout) == (code, "")
    last = result.stderr.splitlines()[-1]
    assert last.startswith("reid: ")
    assert text in last
    assert not (place / "x.safetensors").exists()
