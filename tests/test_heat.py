"""Heat maps: what they are of, how they are scaled to the crop, and their colours."""

import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate
from training_world import FED, crop

from extractors.heat import heat_maps, overlay, paint
from extractors.systems import NAMES, Plan, make_system
from extractors.trained import Model
from reid_index.errors import UsageError


def model(system="bot", backbone="resnet18_x0_125"):
    torch.manual_seed(1)
    plan = Plan(system=system, backbone=backbone)
    return Model(make_system(plan, classes=3).eval(), plan, FED, {})


def norms(made, pixels):
    with torch.inference_mode():
        return made.system.map(torch.from_numpy(FED.apply(pixels))[None])[0].norm(dim=0)


def test_heat_is_the_norm_over_channels_scaled_and_interpolated():
    made = model()
    crops = [crop(1, seed=0), crop(2, seed=0)[:50, 3:], np.tile(crop(3, seed=0), (5, 7, 1))]
    found = heat_maps(made, crops)
    for pixels, heat in zip(crops, found, strict=True):
        assert (heat.shape, heat.dtype) == (pixels.shape[:2], np.float32)
        norm = norms(made, pixels)
        scaled = (norm - norm.min()) / (norm.max() - norm.min())
        large = interpolate(scaled[None, None], pixels.shape[:2], mode="bilinear")
        np.testing.assert_allclose(heat, large[0, 0].numpy(), atol=1e-5)
        assert 0 <= heat.min() < heat.max() <= 1


def test_more_crops_than_a_batch_come_in_their_order():
    made = model()
    crops = [crop(person, seed=4) for person in range(40)]
    found = heat_maps(made, crops)
    assert len(found) == 40
    np.testing.assert_allclose(found[37], heat_maps(made, crops[37:38])[0], atol=1e-5)
    assert not np.allclose(found[37], found[5], atol=1e-2)


def test_a_map_that_is_the_same_all_over_is_no_heat():
    made = model()
    for weight in made.system.backbone.parameters():
        torch.nn.init.zeros_(weight)
    (heat,) = heat_maps(made, [crop(1, seed=0)])
    assert (heat == 0).all()


@pytest.mark.parametrize("system", NAMES)
def test_every_system_has_a_map(system):
    made = model(system, "convnext_atto_simam" if system == "convnext_ap" else "resnet18_x0_125")
    (heat,) = heat_maps(made, [crop(1, seed=0)])
    assert heat.max() > 0.5


def test_a_device_that_is_not_there_is_refused():
    with pytest.raises(UsageError, match="not to be had"):
        heat_maps(model(), [crop(1, seed=0)], device="cuda:77")


# Colours


def lightness(colours):
    """CIE 1976 L*, of sRGB colours (n, 3)."""
    values = colours / 255
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    luminance = linear @ [0.2126, 0.7152, 0.0722]
    return np.where(luminance > 0.008856, 116 * np.cbrt(luminance) - 16, 903.3 * luminance)


def test_equal_steps_of_heat_are_equal_steps_of_light():
    colours = paint(np.linspace(0, 1, 9, dtype=np.float32)[None])[0]
    steps = np.diff(lightness(colours))
    assert (steps > 0).all()
    assert steps.max() < 1.8 * steps.min()
    assert colours[0].tolist() < [64, 64, 128]
    assert colours[-1].min() > 120


def test_heat_outside_its_range_has_the_colour_of_its_end():
    ends = paint(np.array([[-1, 0, 1, 2]], np.float32))[0]
    assert ends[0].tolist() == ends[1].tolist() != ends[2].tolist() == ends[3].tolist()


def test_an_overlay_is_heat_over_the_crop_in_grey():
    pixels = np.full((4, 3, 3), (255, 0, 0), np.uint8)
    heat = np.linspace(0, 1, 12, dtype=np.float32).reshape(4, 3)
    np.testing.assert_array_equal(overlay(pixels, heat, share=1), paint(heat))
    assert (overlay(pixels, heat, share=0) == 76).all()  # 0.299 · 255
    mixed = overlay(pixels, heat, share=0.5)
    np.testing.assert_allclose(mixed, (paint(heat) + 76.0) / 2, atol=0.51)
