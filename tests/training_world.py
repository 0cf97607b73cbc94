"""Small made-up people to train on: each a colour above and one below, seen by two cameras."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from extractors.preprocess import Preprocess
from extractors.systems import Plan
from extractors.training.augment import Augment
from extractors.training.schedule import Schedule
from extractors.training.train import Training

HEIGHT, WIDTH = 64, 32
FED = Preprocess(
    height=HEIGHT, width=WIDTH, scale=1 / 255, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25)
)


def crop(person: int, *, seed: int, noise: int = 40) -> NDArray[np.uint8]:
    """uint8 (HEIGHT, WIDTH, 3)."""
    colours = np.random.default_rng((7, person)).integers(40, 216, (2, 3))
    rng = np.random.default_rng((seed, person))
    picture = np.repeat(colours, HEIGHT // 2, axis=0)[:, None].repeat(WIDTH, axis=1)
    light = rng.integers(-25, 26)
    noisy = picture + light + rng.integers(-noise, noise + 1, picture.shape)
    return noisy.clip(0, 255).astype(np.uint8)


def people(count: int, *, crops: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Crops and who is on them."""
    found = [crop(person, seed=seed) for person in range(count) for seed in range(crops)]
    return np.stack(found), np.repeat(np.arange(count), crops)


def small(**changes: Any) -> Training:
    """A training of some seconds."""
    properties: dict[str, Any] = {
        "plan": Plan(backbone="resnet18_x0_125", dim=16),
        "preprocess": FED,
        "augment": Augment(pad=2),
        "schedule": Schedule(warmup=1),
        "epochs": 3,
        "persons": 4,
        "crops": 2,
        "rate": 2e-3,
        "seed": 5,
    }
    return Training(**{**properties, **changes})


def write_people(folder: Path, persons: range, *, crops: int) -> Path:
    """Market-style pictures of people, half of them from each of two cameras."""
    folder.mkdir(parents=True, exist_ok=True)
    for person in persons:
        for number in range(crops):
            name = f"{person:04d}_c{number % 2 + 1}s1_{number:06d}_01.png"
            Image.fromarray(crop(person, seed=number)).save(folder / name)
    return folder
