"""The systems of stripes: what they are made of, what they learn, and what they give."""

import itertools
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from test_training import CLASSES, CPU, CROPS
from torch.nn import functional
from training_world import FED, small

from extractors.backbones.convnext import ConvNeXt, simam
from extractors.onnx_export import export_onnx
from extractors.pooling import AveragePool, GeM, StripePool
from extractors.preprocess import MEAN, STD, Preprocess
from extractors.systems import NAMES, OF_SEGMENTS, Plan, make_system
from extractors.systems.aligned import aligned_distances
from extractors.systems.pcb import PCB, RPP
from extractors.systems.system import System
from extractors.trained import Model, TrainedExtractor, read_model, write_model
from extractors.training.losses import Losses, LossPlan
from extractors.training.train import train
from reid_index.errors import BadWeights, UsageError
from reid_index.matcher import Matcher

RESNET = "resnet18_x0_125"  # 64 channels, a map of height / 16
OF_CROPS = tuple(name for name in NAMES if name not in OF_SEGMENTS)
OF_STRIPES = ("pcb", "pcb_mean", "pcb_shared", "pcb_rpp", "icnn", "scpnet", "aligned")


def plan(name: str, **changes) -> Plan:
    """A small system of that name for crops of 64 × 32: a map of 4 × 2."""
    stripes = 4 if name in OF_STRIPES else 0
    backbone = RESNET
    if name == "convnext_ap":
        backbone, stripes = "convnext_atto_simam", 2
    return Plan(**{"system": name, "backbone": backbone, "dim": 8, "stripes": stripes, **changes})


def fed_to(name: str) -> Preprocess:
    """MGN wants halves and thirds: crops of 96 × 32; HAA inputs that it can measure."""
    if name == "haa":
        return replace(FED, mean=MEAN, std=STD)
    return replace(FED, height=96) if name == "mgn" else FED


def crops_for(name: str) -> np.ndarray:
    return CROPS.repeat(3, axis=1)[:, ::2] if name == "mgn" else CROPS


def made(name: str, *, classes: int = 5, **changes) -> System:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return make_system(plan(name, **changes), classes=classes)


def crops(count: int = 4, *, height: int = 64, width: int = 32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, 3, height, width, generator=generator)


# Pooling of stripes


@pytest.mark.parametrize("pool", [AveragePool(), GeM()])
def test_stripes_are_pooled_one_by_one_from_the_top(pool) -> None:
    seen = torch.rand(2, 3, 12, 5)
    found = StripePool(pool, stripes=4)(seen)
    for stripe in range(4):
        rows = seen[:, :, 3 * stripe : 3 * stripe + 3]
        torch.testing.assert_close(found[:, stripe], pool(rows))


def test_a_map_that_does_not_divide_is_refused_with_those_that_do() -> None:
    words = "a map of 8 rows cannot be cut into 6 equal stripes: .* --stripes 1 or 2 or 4 or 8"
    with pytest.raises(UsageError, match=words):
        StripePool(AveragePool(), stripes=6)(torch.zeros(1, 3, 8, 4))
    with pytest.raises(UsageError, match="a map of 4 rows"):
        train(small(plan=plan("pcb", stripes=3)), CROPS, CLASSES, state=None, device=CPU)


# Every system


@pytest.mark.parametrize("name", OF_CROPS)
def test_a_trained_system_gives_the_vectors_it_says_again_from_its_file(
    name: str, tmp_path: Path
) -> None:
    fed_by, pictures = fed_to(name), crops_for(name)
    training = small(plan=plan(name), preprocess=fed_by, epochs=2)
    told = []
    system = train(
        training,
        pictures,
        CLASSES,
        state=None,
        device=CPU,
        after=lambda epoch, _system: told.append(epoch) or {},
    ).system
    assert told[-1].losses["identity"] < 1.1 * told[0].losses["identity"]
    write_model(tmp_path / "m.safetensors", Model(system, training.plan, fed_by, {}))
    again = read_model(tmp_path / "m.safetensors").system
    fed = torch.from_numpy(np.stack([fed_by.normalise(crop) for crop in pictures[:5]]))
    with torch.inference_mode():
        vectors = system.embed(fed)
        torch.testing.assert_close(again.embed(fed), vectors)
        assert vectors.shape == (5, system.dim)
        assert torch.isfinite(vectors).all()
        assert system.map(fed).shape[0] == 5
    extractor = TrainedExtractor(tmp_path / "m.safetensors")
    found = extractor.extract(list(pictures[:5])).global_
    np.testing.assert_allclose(found, vectors.numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_as_onnx_it_gives_the_same_vectors(name: str, tmp_path: Path) -> None:
    assert export_onnx(tmp_path / "m.onnx", made(name), fed_to(name)) >= 0.9999


@pytest.mark.parametrize("name", OF_CROPS)
def test_every_weight_learns(name: str) -> None:
    system = made(name).train()
    out = system(crops(8, height=fed_to(name).height))
    losses = Losses(LossPlan(), classes=5, dims=system.metric_dims)
    assert tuple(one.shape[1] for one in out.metrics) == system.metric_dims
    maps = None if out.regions is None else torch.zeros_like(out.regions[:, 0], dtype=torch.uint8)
    total, _ = losses(out, torch.arange(8) // 2, maps)
    total.backward()
    idle = [
        name
        for name, one in system.named_parameters()
        if one.requires_grad and (one.grad is None or not one.grad.abs().sum() > 0)
    ]
    assert idle == []


# PCB


def test_pcb_is_a_vector_and_a_classifier_for_each_stripe() -> None:
    system = made("pcb").eval()
    seen = system.map(crops())
    out = system(crops())
    assert (out.metrics, len(out.logits)) == ((), 4)
    joined = []
    for number in range(4):
        mean = seen[:, :, number].mean(dim=2)
        layer = system.narrow.each[number]
        joined.append(functional.relu(layer.norm(layer.linear(mean))))
        torch.testing.assert_close(out.logits[number], system.classifier[number](joined[-1]))
    torch.testing.assert_close(system.embed(crops()), torch.cat(joined, dim=1))


def test_variants_have_one_classifier_and_are_searched_alike() -> None:
    shared, mean = made("pcb_shared").eval(), made("pcb_mean").eval()
    stripes = shared.embed(crops()).unflatten(1, (4, 8))
    assert (len(shared.classifier), len(mean.classifier)) == (1, 1)
    for number, one in enumerate(shared(crops()).logits):
        torch.testing.assert_close(one, shared.classifier[0](stripes[:, number]))
    (logits,) = mean(crops()).logits
    stripes = mean.embed(crops()).unflatten(1, (4, 8))
    torch.testing.assert_close(logits, mean.classifier[0](stripes.mean(dim=1)))
    assert mean.dim == shared.dim == 32


def test_without_vectors_to_compare_triplets_and_centres_have_nothing_to_do() -> None:
    system = made("pcb")
    _, parts = Losses(LossPlan(), classes=5, dims=())(system(crops(8)), torch.arange(8) // 2)
    assert parts.keys() == {"identity"}
    with pytest.raises(UsageError, match="no centres to learn"):
        Losses(LossPlan(center=0.1), classes=5, dims=())
    alone = Losses(LossPlan(identity=0.0), classes=5, dims=())
    with pytest.raises(UsageError, match="nothing would be learnt"):
        alone(system(crops(8)), torch.arange(8) // 2)


# RPP


def test_each_place_is_shared_out_among_the_parts() -> None:
    system = made("pcb_rpp").eval()
    torch.nn.init.normal_(system.parts.weight, std=0.02)
    seen = system.map(crops())
    shares = system.shares(seen)
    assert shares.shape == (4, 4, 4, 2)
    torch.testing.assert_close(shares.sum(dim=1), torch.ones(4, 4, 2), rtol=0, atol=1e-6)
    found = system.pooled(seen)
    for part in range(4):
        weights = shares[:, part, None]
        wanted = (weights * seen).sum(dim=(2, 3)) / weights.sum(dim=(2, 3))
        torch.testing.assert_close(found[:, part], wanted)


def test_it_begins_as_pcb_then_its_parts_learn_alone_then_all() -> None:
    """Algorithm 1."""
    system, twin = made("pcb_rpp"), made("pcb")
    assert isinstance(system, RPP)
    assert isinstance(twin, PCB)
    weights = {n: one for n, one in system.state_dict().items() if not n.startswith("parts.")}
    twin.load_state_dict(weights)
    system.stage(0.49)
    torch.testing.assert_close(system.eval().embed(crops()), twin.eval().embed(crops()))
    for done, learning in ((0.49, "all"), (0.5, "parts"), (0.59, "parts"), (0.6, "all")):
        system.train().zero_grad()
        system.stage(done)
        Losses(LossPlan(), classes=5, dims=())(system(crops(8)), torch.arange(8) // 2)[0].backward()
        moved = {
            name.split(".")[0] for name, one in system.named_parameters() if one.grad is not None
        }
        if learning == "parts":
            assert moved == {"parts"}
        else:
            assert moved == {"backbone", "narrow", "classifier"} | (
                {"parts"} if done > 0.5 else set()
            )


def test_a_training_goes_through_the_stages_and_ends_refined(monkeypatch) -> None:
    seen = []
    plain = RPP.stage

    def noted(self: RPP, done: float) -> None:
        seen.append(done)
        plain(self, done)

    monkeypatch.setattr(RPP, "stage", noted)
    done = train(small(plan=plan("pcb_rpp"), epochs=4), CROPS, CLASSES, state=None, device=CPU)
    assert [one for one in dict.fromkeys(seen)] == [0, 0.25, 0.5, 0.75, 1]
    with torch.inference_mode():
        fed = torch.from_numpy(np.stack([FED.normalise(crop) for crop in CROPS[:3]]))
        refined = done.system.embed(fed)
        done.system.stage(0)
        assert not torch.allclose(refined, done.system.embed(fed))


# ICNN, SCPNet, MGN


def test_icnns_cosine_is_the_mean_of_the_wholes_and_the_stripes() -> None:
    system = made("icnn").eval()
    vectors = system.embed(crops())
    stripes, whole = vectors[:, :32], vectors[:, 32:]
    cosine = functional.cosine_similarity(vectors[:2], vectors[2:])
    both = functional.cosine_similarity(stripes[:2], stripes[2:])
    both += functional.cosine_similarity(whole[:2], whole[2:])
    torch.testing.assert_close(cosine, both / 2)
    assert len(system(crops()).logits) == 5


def test_scpnets_channels_are_drawn_to_the_stripes() -> None:
    system = made("scpnet").eval()
    out = system(crops())
    seen = system.map(crops())
    groups = functional.relu(system.reduction(seen.mean(dim=(2, 3)))).unflatten(1, (4, 2))
    _, stripes = system.classifier
    apart = 0.0
    for number in range(4):
        narrow = stripes.each[number](seen[:, :, number].mean(dim=2))
        apart += ((groups[:, number] - narrow) ** 2).mean() / 4
    torch.testing.assert_close(out.also["stripes"], 10 * apart)
    with pytest.raises(UsageError, match="6 dimensions cannot be shared among 4 stripes"):
        made("scpnet", dim=6)


def test_mgn_looks_at_the_whole_at_halves_and_at_thirds() -> None:
    system = made("mgn").eval()
    for number, tail in enumerate(system.tails, 2):  # they begin alike
        for one in tail.parameters():
            torch.nn.init.constant_(one, 0.01 * number)
    x = crops(height=96)  # a map of 6 rows
    out = system(x)
    assert ([one.shape for one in out.metrics], len(out.logits)) == ([(4, 8)] * 3, 8)
    head = system.backbone.head(x)
    seen = [tail(head) for tail in system.tails]
    joined = []
    for number, one in enumerate([system.map(x), *seen]):
        whole = system.narrow[number](one.mean(dim=(2, 3)))
        torch.testing.assert_close(out.metrics[number], whole)
        joined.append(system.necks[number](whole))
    for number, rows in enumerate((3, 2)):
        for place in range(6 // rows):
            stripe = seen[number][:, :, place * rows : (place + 1) * rows].mean(dim=(2, 3))
            joined.append(system.narrow_cuts[number].each[place](stripe))
    torch.testing.assert_close(system.embed(x), torch.cat(joined, dim=1))


def test_all_branches_of_mgn_begin_with_the_weights_given(tmp_path: Path) -> None:
    system, other = made("mgn"), make_system(plan("bot"), classes=5)
    system.begin(other.backbone.state_dict(), path=tmp_path)
    wanted = other.backbone.tail().state_dict()
    for tail in system.tails:
        for name, one in tail.state_dict().items():
            torch.testing.assert_close(one, wanted[name])
    x = crops()
    torch.testing.assert_close(system.eval().map(x), other.eval().map(x))
    with pytest.raises(UsageError, match="mgn splits a ResNet"):
        made("mgn", backbone="osnet_x0_25")


# AlignedReID


def path_by_loop(a: np.ndarray, b: np.ndarray) -> float:
    """The least sum over all paths, tried one by one."""
    count = len(a)
    apart = [[math.tanh(float(np.linalg.norm(one - other)) / 2) for other in b] for one in a]
    best = math.inf
    for downs in itertools.combinations(range(2 * count - 2), count - 1):
        i = j = 0
        total = apart[0][0]
        for step in range(2 * count - 2):
            i, j = (i + 1, j) if step in downs else (i, j + 1)
            total += apart[i][j]
        best = min(best, total)
    return best


def test_aligned_distances_are_the_shortest_paths() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 6, 5, 3))
    found = aligned_distances(torch.from_numpy(a), torch.from_numpy(b))
    wanted = [path_by_loop(one, other) for one, other in zip(a, b, strict=True)]
    np.testing.assert_allclose(found.numpy(), wanted, atol=1e-5)


def test_equal_stripes_are_learnt_from_without_infinite_gradients() -> None:
    a = torch.rand(2, 1, 3).repeat(1, 4, 1).requires_grad_()
    distance = aligned_distances(a, a)
    assert float(distance.detach().max()) < 1e-4
    distance.sum().backward()
    assert a.grad is not None
    assert torch.isfinite(a.grad).all()


def test_stripes_learn_by_the_triplets_of_the_whole() -> None:
    system = made("aligned").eval()
    out, classes = system(crops(6)), torch.arange(6) // 2
    assert out.stripes is not None
    _, parts = Losses(LossPlan(margin=0.3), classes=5, dims=system.metric_dims)(out, classes)
    distance = torch.cdist(out.metrics[0], out.metrics[0])
    found = []
    for row in range(6):
        same, other = classes == classes[row], classes != classes[row]
        far = torch.where(same, distance[row], -1.0).argmax()
        near = torch.where(other, distance[row], math.inf).argmin()
        one, its, others = (out.stripes[place, None] for place in (row, far, near))
        apart = aligned_distances(one, its) - aligned_distances(one, others)
        found.append(max(0.0, float(apart.detach()) + 0.3))
    assert float(parts["aligned"].detach()) == pytest.approx(np.mean(found), rel=1e-4)
    lengths = torch.linalg.vector_norm(out.stripes, dim=2)
    torch.testing.assert_close(lengths, torch.ones_like(lengths))


@pytest.mark.parametrize("losses", [LossPlan(metric="none"), LossPlan(metric_weight=0.0)])
def test_stripes_that_nothing_teaches_are_refused(losses: LossPlan) -> None:
    with pytest.raises(UsageError, match="stripes of aligned learn by triplets alone"):
        small(plan=plan("aligned"), losses=losses)
    assert small(plan=plan("bot"), losses=losses).losses == losses


def test_an_aligned_extractor_gives_the_stripes_that_were_learnt(tmp_path: Path) -> None:
    system = made("aligned").eval()
    write_model(tmp_path / "m.safetensors", Model(system, plan("aligned"), FED, {}))
    extractor = TrainedExtractor(tmp_path / "m.safetensors")
    assert extractor.matcher == Matcher(name="aligned", weight=1 / 7)
    found = extractor.extract(list(CROPS[:3]))
    fed = torch.from_numpy(np.stack([FED.normalise(crop) for crop in CROPS[:3]]))
    with torch.inference_mode():
        assert found.parts is not None
        np.testing.assert_allclose(found.parts, system(fed).stripes, atol=1e-5)
        np.testing.assert_allclose(found.global_, system.embed(fed), atol=1e-4)
    write_model(tmp_path / "bot.safetensors", Model(made("bot"), plan("bot"), FED, {}))
    plain = TrainedExtractor(tmp_path / "bot.safetensors")
    assert (plain.matcher, plain.extract([CROPS[0]]).parts) == (None, None)


# ConvNeXt-AP


def test_simam_weighs_by_the_least_energy() -> None:
    """Equations 3 to 6 of the ConvNeXt-AP paper: w and b that make e least are put into it, with
    mean and variance over all of the channel, as SimAM's paper has them for its answer."""
    x = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    found = simam(x)
    flat = x.flatten(2)
    mean = flat.mean(dim=2, keepdim=True)
    variance = ((flat - mean) ** 2).sum(dim=2, keepdim=True) / 19
    energy = 4 * (variance + 1e-4) / ((flat - mean) ** 2 + 2 * variance + 2 * 1e-4)
    wanted = torch.sigmoid(1 / energy) * flat
    torch.testing.assert_close(found.flatten(2), wanted, rtol=0, atol=1e-6)
    # The closed form is the minimum of equation 3 over w and b.
    t, others, lam = 1.7, np.random.default_rng(0).standard_normal(4000), 1e-4
    mu, var = others.mean(), others.var()

    def e(w: float, b: float) -> float:
        rest = ((-1 - (w * others + b)) ** 2).mean()
        return float(rest + (1 - (w * t + b)) ** 2 + lam * w * w)

    w = 2 * (t - mu) / ((t - mu) ** 2 + 2 * var + 2 * lam)
    b = -(t + mu) * w / 2
    least = 4 * (var + lam) / ((t - mu) ** 2 + 2 * var + 2 * lam)
    assert e(w, b) == pytest.approx(least, abs=1e-6)
    around = [e(w + 1e-3 * dw, b + 1e-3 * db) for dw in (-1, 0, 1) for db in (-1, 0, 1)]
    assert min(around) == pytest.approx(e(w, b), abs=1e-9)


def test_a_map_of_one_place_is_weighed_without_dividing_by_zero() -> None:
    assert torch.isfinite(simam(torch.randn(2, 3, 1, 1))).all()


def test_simam_is_in_every_block_and_has_no_weights() -> None:
    plain, weighing = ConvNeXt(size="atto"), ConvNeXt(size="atto", simam=True)
    assert plain.state_dict().keys() == weighing.state_dict().keys()
    weighing.load_state_dict(plain.state_dict())
    for stage_plain, stage in zip(plain.stages, weighing.stages, strict=True):
        for block_plain, block in zip(stage_plain, stage, strict=True):
            torch.nn.init.ones_(block.gamma)
            torch.nn.init.ones_(block_plain.gamma)
            x = torch.randn(2, len(block.gamma), 4, 3)
            torch.testing.assert_close(
                block(x) - x, simam(block_plain(x) - x), atol=1e-4, rtol=1e-4
            )


def test_convnext_ap_has_as_many_parameters_as_published() -> None:
    """Table 2 of the paper: 88.00 M with SimAM, 90.7 M with PCB and RPP (751 persons)."""
    with torch.device("meta"):
        backbone = ConvNeXt(size="base", simam=True)
        system = make_system(
            Plan(system="convnext_ap", backbone="convnext_base_simam"), classes=751
        )
    count = sum(one.numel() for one in backbone.parameters())
    assert count == pytest.approx(88.0e6, rel=0.01)
    assert sum(one.numel() for one in system.parameters()) == pytest.approx(90.7e6, rel=0.01)


def test_convnext_ap_compares_the_map_and_is_searched_by_its_parts() -> None:
    system = made("convnext_ap").eval()
    out = system(crops())
    torch.testing.assert_close(out.metrics[0], system.map(crops()).mean(dim=(2, 3)))
    assert (len(out.logits), system.embed(crops()).shape) == (2, (4, 16))
    _, parts = Losses(LossPlan(metric="triplet+circle"), classes=5, dims=system.metric_dims)(
        out, torch.arange(4) // 2
    )
    assert parts.keys() == {"identity", "triplet", "circle"}
    for backbone in (RESNET, "convnext_atto"):
        with pytest.raises(UsageError, match=r"--backbone convnext_…_simam"):
            made("convnext_ap", backbone=backbone)


# Plans


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"system": "pcb", "neck": False}, "pcb has no neck"),
        ({"system": "mgn", "stripes": 3}, "mgn has no stripes"),
        ({"system": "pcb", "stripes": 65}, "1 to 64 stripes, not 65"),
        ({"system": "pcb", "stripes": True}, "stripes is not a int"),
    ],
)
def test_plans_that_make_no_sense_are_refused(changes, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        Plan(backbone=RESNET, **changes)


def test_a_checkpoint_of_another_system_is_refused(tmp_path: Path) -> None:
    write_model(tmp_path / "m.safetensors", Model(made("pcb"), plan("icnn"), FED, {}))
    with pytest.raises(BadWeights, match="does not fit ICNN"):
        read_model(tmp_path / "m.safetensors")


def test_a_crop_smaller_than_its_stripes_is_refused() -> None:
    fed = replace(FED, height=32, width=32)
    small_crops = CROPS[:, ::2]
    with pytest.raises(UsageError, match="a map of 2 rows cannot be cut into 4 equal stripes"):
        train(
            small(plan=plan("pcb"), preprocess=fed),
            small_crops,
            CLASSES,
            state=None,
            device=CPU,
        )
