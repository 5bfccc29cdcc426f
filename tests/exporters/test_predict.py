"""predict.py reads images like training does, and reports unreadable ones."""

import re

import numpy as np
import pytest
from PIL import Image, ImageOps
from support.exports import (
    loaded,
    run_alone,
)

from nas.data import datasets

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.slow
def test_predict_matches_network_for_all_image_modes_and_inversion(exported, tmp_path):
    val = datasets.load("digits").val
    module = loaded(exported.folder)
    for index in range(3):
        pixels = val.images[index, 0].numpy()
        grey = Image.fromarray(pixels)
        grey.save(tmp_path / "grey.png")
        Image.fromarray(255 - pixels).save(tmp_path / "inverted.png")
        grey.convert("RGB").save(tmp_path / "colour.png")
        grey.convert("P").save(tmp_path / "palette.png")
        shares = module["network"](module["normalised"](val.images[index : index + 1])).softmax(1)[0]
        best = int(shares.argmax())
        expected = f"{best} ({shares[best]:.2%})"
        names = ["grey.png", "colour.png", "palette.png"]
        done = run_alone(tmp_path, exported.folder / "predict.py", "--top", "1", *names)
        assert done.stdout.splitlines() == [f"{name}: {expected}" for name in names], done.stderr
        done = run_alone(tmp_path, exported.folder / "predict.py", "--top", "1", "--invert", "inverted.png")
        assert done.stdout == f"inverted.png: {expected}\n"


def test_predict_crops_and_resizes_images_and_reports_it(exported, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (40, 50), np.uint8)
    Image.fromarray(noise).save(tmp_path / "large.png")
    ImageOps.fit(Image.fromarray(noise), (28, 28)).save(tmp_path / "small.png")
    Image.new("RGB", (50, 40)).save(tmp_path / "colour.jpg")
    Image.new("L", (56, 56)).save(tmp_path / "square.png")
    names = ["large.png", "small.png", "colour.jpg", "square.png"]
    done = run_alone(tmp_path, exported.folder / "predict.py", *names)
    assert done.returncode == 0
    assert done.stderr.splitlines() == [
        "large.png: the middle 40x40 of 50x40 cut out, resized to 28x28",
        "colour.jpg: colours made grey, the middle 40x40 of 50x40 cut out, resized to 28x28",
        "square.png: resized to 28x28",
    ]
    large, small, *_ = done.stdout.splitlines()
    assert large.removeprefix("large.png") == small.removeprefix("small.png")
    assert re.fullmatch(r"small\.png: (\d \(\d+\.\d\d%\)(, |$)){3}", small)


def test_predict_reads_transparent_pixels_as_white(exported, tmp_path):
    digit = datasets.load("digits").val.images[0, 0].numpy() // 128 * np.uint8(255)  # a palette holds it exactly
    Image.fromarray(255 - digit).save(tmp_path / "opaque.png")
    ink = Image.new("L", (28, 28), 0)
    ink.putalpha(Image.fromarray(digit))
    modes = ["LA", "RGBA", "P"]
    for mode in modes:
        drawing = ink.convert("RGBA").quantize(256) if mode == "P" else ink.convert(mode)
        drawing.save(tmp_path / f"{mode}.png")
    Image.open(tmp_path / "opaque.png").convert("RGBA").save(tmp_path / "filled.png")
    names = ["opaque.png", "filled.png", *(f"{mode}.png" for mode in modes)]
    done = run_alone(tmp_path, exported.folder / "predict.py", "--invert", *names)
    assert len({line.partition(": ")[2] for line in done.stdout.splitlines()}) == 1, done.stdout
    grey = ", colours made grey"
    assert done.stderr.splitlines() == [
        "filled.png: colours made grey",
        *(f"{mode}.png: transparent pixels made white{grey * (mode != 'LA')}" for mode in modes),
    ]


def test_predict_reports_unreadable_files_and_continues(exported, tmp_path):
    (tmp_path / "text.png").write_text("no image")
    Image.new("I;16", (28, 28)).save(tmp_path / "deep.png")
    Image.new("L", (28, 28)).save(tmp_path / "good.png")
    done = run_alone(tmp_path, exported.folder / "predict.py", "text.png", "missing.png", "deep.png", "good.png")
    assert done.returncode == 2
    assert done.stdout.startswith("good.png: ")
    errors = done.stderr.splitlines()
    assert [line.partition(" (")[0] for line in errors] == [
        "error: text.png: not a readable image",
        "error: missing.png: No such file or directory",
        "error: deep.png: not a readable image",
    ]
