"""Measure the shades in extractors/colors.csv anew, and how good words for colours are.

    python -m benchmarks.colors --out colors.csv --raw results/colors.json

Shades are the means of clusters (k-means) of the crops of each colour in Market-1501's dev split
`train`, at most so many for a word and at least 50 crops each; the spread is that by which `train`
is most likely. Accuracy, confusion and calibration are of query and gallery, whose persons `train`
does not have; persons without a marked colour are left out.
"""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray
from scipy.cluster.vq import kmeans2
from scipy.io import loadmat
from scipy.optimize import minimize_scalar

from benchmarks.machine import REPOSITORY, keep
from extractors.attributes_0230 import COLORS, Predictor0230
from extractors.colors import Shades, lab_of, mean_colors, shades_of
from extractors.images import read_image

DATA = REPOSITORY.parent / "shared" / "data"
MODEL = DATA / "models" / "person-attributes-recognition-crossroad-0230.xml"
WORDS = {
    "upper": ("up", ("black", "white", "red", "purple", "yellow", "gray", "blue", "green")),
    "lower": (
        "down",
        ("black", "white", "pink", "purple", "yellow", "gray", "blue", "green", "brown"),
    ),
}


@click.command()
@click.option("--market", default=DATA / "market1501", type=click.Path(path_type=Path))
@click.option("--model", default=MODEL, type=click.Path(path_type=Path))
@click.option("--shades", default=8, show_default=True, help="The most for a word.")
@click.option("--out", type=click.Path(path_type=Path), help="The table of shades, CSV.")
@click.option("--raw", type=click.Path(path_type=Path), help="Raw results as JSON.")
def main(market: Path, model: Path, shades: int, out: Path | None, raw: Path | None) -> None:
    """Fit the shades on `train`, and check them on query and gallery."""
    with (market / "dev-split.csv").open(newline="") as file:
        listed = list(csv.DictReader(file))
    of_train = np.array([row["split"] == "train" for row in listed])
    marked = _marked(market / "market_attribute.mat")
    rgb = _seen(Predictor0230(model), [market / "bounding_box_train" / r["file"] for r in listed])
    table: list[dict[str, Any]] = []
    results: dict[str, Any] = {"shades": shades}
    for (_, clothes, _), colors in zip(COLORS, rgb, strict=True):
        words = WORDS[clothes][1]
        truth = np.array([marked[row["person"]][clothes] for row in listed])
        known = truth >= 0
        fitted = _rows(clothes, colors[known & of_train], truth[known & of_train], words, shades)
        table += fitted
        spread = _spread(fitted, colors[known & of_train], truth[known & of_train], words)
        click.echo(f"{clothes}: {len(fitted)} shades, spread {spread:.1f}")
        model_of = shades_of(fitted, spread=spread)
        held = known & ~of_train
        results[clothes] = {"spread": spread, **_judge(model_of, colors[held], truth[held], words)}
    if out is not None:
        with out.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(table[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(table)
    keep(raw, results)


def _marked(path: Path) -> dict[str, dict[str, int]]:
    """Person → clothes → which word is marked, −1 where not exactly one is."""
    persons: dict[str, dict[str, int]] = {}
    whole = loadmat(path)["market_attribute"]
    for part in ("train", "test"):
        fields = whole[part][0, 0]
        names = [str(one[0]) for one in fields["image_index"][0, 0].ravel()]
        for clothes, (begin, words) in WORDS.items():
            codes = np.stack([fields[begin + word][0, 0].ravel() for word in words], axis=1) == 2
            which = np.where(codes.sum(axis=1) == 1, codes.argmax(axis=1), -1)
            for name, one in zip(names, which.tolist(), strict=True):
                persons.setdefault(name, {})[clothes] = one
    return persons


def _seen(predictor: Predictor0230, paths: Sequence[Path]) -> list[NDArray[np.float64]]:
    """The mean colours (N, 3) of upper and lower clothes, at the model's points."""
    found: list[list[NDArray[np.float64]]] = [[] for _ in COLORS]
    for at in range(0, len(paths), 32):
        batch = np.stack([predictor.prepare(read_image(path)) for path in paths[at : at + 32]])
        _, points = predictor.run(batch)
        for place, (_, _, half) in enumerate(COLORS):
            found[place].append(mean_colors(batch, points[place], half=half))
    return [np.concatenate(some) for some in found]


def _rows(
    clothes: str, rgb: NDArray[Any], truth: NDArray[Any], words: Sequence[str], most: int
) -> list[dict[str, Any]]:
    rows = []
    for place, word in enumerate(words):
        lab = lab_of(rgb[truth == place])
        count = min(most, max(1, len(lab) // 50))
        means, codes = kmeans2(lab, count, iter=100, minit="++", rng=np.random.default_rng(0))
        for shade in np.argsort(means[:, 0]):
            size = int((codes == shade).sum())
            if size:
                values = {
                    name: round(float(v), 1) for name, v in zip("Lab", means[shade], strict=True)
                }
                share = round(size / len(truth), 5)
                rows.append({"clothes": clothes, "word": word, **values, "share": share})
    return rows


def _spread(
    rows: list[dict[str, Any]], rgb: NDArray[Any], truth: NDArray[Any], words: Sequence[str]
) -> float:
    def surprise(log: float) -> float:
        likely = _in_order(shades_of(rows, spread=float(np.exp(log))), rgb, words)
        return -float(np.log(likely[np.arange(len(truth)), truth] + 1e-12).mean())

    return round(float(np.exp(minimize_scalar(surprise, bounds=(2, 8), method="bounded").x)), 1)


def _in_order(shades: Shades, rgb: NDArray[Any], words: Sequence[str]) -> NDArray[np.float64]:
    return shades.probabilities(rgb)[:, [shades.words.index(word) for word in words]]


def _judge(
    shades: Shades, rgb: NDArray[Any], truth: NDArray[Any], words: Sequence[str]
) -> Mapping[str, Any]:
    likely = _in_order(shades, rgb, words)
    said, sure = likely.argmax(axis=1), likely.max(axis=1)
    right = said == truth
    balanced = float(np.mean([right[truth == one].mean() for one in np.unique(truth)]))
    click.echo(f"{len(truth):,} crops: accuracy {right.mean():.3f}, balanced {balanced:.3f}")
    confusion = np.zeros((len(words), len(words)), int)
    np.add.at(confusion, (truth, said), 1)
    for word, row in zip(words, confusion.tolist(), strict=True):
        click.echo(f"  {word:8}" + "".join(f"{count:6}" for count in row))
    bins = []
    for least in np.arange(0.2, 1.0, 0.1).round(1):
        inside = (sure >= least) & (sure < least + 0.1 + (least == 0.9))
        if inside.any():
            one = {"from": float(least), "share": float(inside.mean())}
            bins.append({**one, "right": float(right[inside].mean())})
            click.echo(f"  confidence {least:.1f} to {least + 0.1:.1f}: ", nl=False)
            click.echo(f"{inside.mean():.3f} of all, {right[inside].mean():.3f} right")
    return {
        "crops": len(truth),
        "accuracy": float(right.mean()),
        "balanced": balanced,
        "words": list(words),
        "confusion": confusion.tolist(),
        "calibration": bins,
    }


if __name__ == "__main__":
    main()
