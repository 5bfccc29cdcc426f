"""Image folders as datasets."""

import os
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from support.data import check, error_of, rows, write_images

from nas.data.datasets import Split, load, load_test
from nas.data.image_folder import read_pixels


def test_test_folder_becomes_test_split(folder):
    dataset = load(f"folder:{folder}")
    check(dataset)
    assert dataset.name == f"folder:{folder}"
    assert dataset.classes == ("a", "b")
    assert dataset.input_shape == (1, 4, 6)
    assert dataset.split_id == "val 6 of 36, stratified, seed 0"
    test = load_test(f"folder:{folder}")
    assert test.labels.tolist() == [0, 0, 0, 1, 1]
    assert torch.equal(test.images[3, 0], torch.from_numpy(np.array(Image.open(folder / "test" / "b" / "000.png"))))


def test_folder_without_test_folder_holds_out_test_split(folder):
    shutil.rmtree(folder / "test")
    dataset, test = load(f"folder:{folder}"), load_test(f"folder:{folder}")
    check(dataset)
    assert [len(split.labels) for split in (dataset.train, dataset.val, test)] == [25, 5, 6]
    assert test.labels.tolist() == [0, 0, 1, 1, 1, 1]
    files = [*sorted((folder / "train" / "a").iterdir()), *sorted((folder / "train" / "b").iterdir())]
    images = torch.stack([torch.from_numpy(np.array(Image.open(file))).unsqueeze(0) for file in files])
    labels = torch.tensor([0] * 12 + [1] * 24)
    assert rows(dataset.train, dataset.val, test) == rows(Split(images=images, labels=labels))


def test_one_colour_image_makes_dataset_colour(folder):
    write_images(folder / "test" / "b", 1, mode="RGB")
    dataset = load(f"folder:{folder}")
    check(dataset)
    assert dataset.input_shape == (3, 4, 6)
    assert torch.equal(dataset.train.images[:, 0], dataset.train.images[:, 2])
    colour = torch.from_numpy(np.array(Image.open(folder / "test" / "b" / "000.png"))).permute(2, 0, 1)
    assert torch.equal(load_test(f"folder:{folder}").images[3], colour)


@pytest.mark.parametrize("mode", ["1", "L", "LA"])
def test_grey_modes_load_as_one_channel(mode, folder):
    Image.new(mode, (6, 4), 1).save(folder / "train" / "a" / "000.png")
    assert load(f"folder:{folder}").input_shape == (1, 4, 6)


@pytest.mark.parametrize("mode", ["P", "RGBA", "CMYK"])
def test_colour_modes_load_as_three_channels(mode, folder):
    image = Image.new("RGB", (6, 4), (255, 0, 0)).convert(mode)
    options = {"transparency": bytes([0] * 256)} if mode == "P" else {}
    image.save(folder / "train" / "a" / ("000.tiff" if mode == "CMYK" else "000.png"), **options)
    assert load(f"folder:{folder}").input_shape == (3, 4, 6)


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_transparent_pixels_are_white(mode, folder):
    image = Image.new(mode, (6, 4), 0)
    image.putpixel((0, 0), (0, 255) if mode == "LA" else (0, 0, 0, 255))
    file = folder / "train" / "a" / "000.png"
    image.save(file)
    found = read_pixels(file, "L")
    assert found[0, 0, 0] == 0
    assert found.flatten()[1:].unique().tolist() == [255]


def test_sixteen_bit_image_is_rejected(folder):
    file = folder / "train" / "b" / "001.png"
    Image.fromarray(np.full((4, 6), 40_000, dtype=np.uint16)).save(file)
    assert error_of(load, f"folder:{folder}") == f"{file}: mode I;16 found, expected 8 bits per channel"


def test_constant_channel_has_std_of_one(tmp_path):
    for label, value in (("a", 10), ("b", 20)):
        (tmp_path / "train" / label).mkdir(parents=True)
        for i in range(12):
            Image.new("RGB", (4, 4), (value, 7, value)).save(tmp_path / "train" / label / f"{i}.png")
    dataset = load(f"folder:{tmp_path}")
    assert dataset.mean == pytest.approx([15 / 255, 7 / 255, 15 / 255])
    assert dataset.std == pytest.approx([5 / 255, 1, 5 / 255])


@pytest.mark.parametrize("part", ["train", "test"])
def test_image_of_different_size_is_rejected(part, folder):
    write_images(folder / part / "b", 1, size=(4, 6))
    first = folder / "train" / "a" / "000.png"
    text = f"{folder / part}/b/000.png: 4x6 pixels found, expected 6x4 as in {first}"
    mended = "resize all images to one size, for example with PIL.ImageOps.fit (docs/guides/own_images.md)"
    assert error_of(load, f"folder:{folder}") == f"{text}; {mended}"


def test_damaged_image_error_names_file(folder):
    file = folder / "train" / "b" / "003.png"
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    assert error_of(load, f"folder:{folder}").startswith(f"{file}: not a readable image (")  # and Pillow's message
    file.write_bytes(b"hello")
    text = f"{file}: not a readable image (cannot identify image file '{file}')"
    assert error_of(load, f"folder:{folder}") == text


def test_folder_without_class_folders_is_rejected(folder):
    text = "{0}: no folder for each class found, expected {0}/CLASS/*.png"
    assert error_of(load, f"folder:{folder}/none") == text.format(folder / "none" / "train")
    shutil.rmtree(folder / "train")
    assert error_of(load, f"folder:{folder}") == text.format(folder / "train")
    (folder / "train").mkdir()
    assert error_of(load, f"folder:{folder}") == text.format(folder / "train")


def test_single_class_is_rejected(folder):
    shutil.rmtree(folder / "test" / "a")
    text = f"{folder}/test: only class 'b' found, expected at least 2 classes"
    assert error_of(load, f"folder:{folder}") == text
    shutil.rmtree(folder / "train" / "b")
    text = f"{folder}/train: only class 'a' found, expected at least 2 classes"
    assert error_of(load, f"folder:{folder}") == text


def test_class_without_images_is_rejected(folder):
    (folder / "train" / "c").mkdir()
    (folder / "train" / "c" / "notes.txt").touch()
    formats = ".jpg, .jpeg, .png, .ppm, .bmp, .pgm, .tif, .tiff, .webp"
    assert error_of(load, f"folder:{folder}") == f"{folder}/train/c: no images found, expected one of {formats}"


def test_different_classes_in_train_and_test_are_rejected(folder):
    write_images(folder / "test" / "c", 1)
    text = f"{folder}/test: class 'c' found, expected the classes of train: a, b"
    assert error_of(load, f"folder:{folder}") == text
    write_images(folder / "train" / "c", 12)
    write_images(folder / "train" / "d", 12)
    text = f"{folder}/test: class 'd' is missing, expected the classes of train: a, b, c, d"
    assert error_of(load, f"folder:{folder}") == text


def test_class_too_small_to_split_is_rejected(folder):
    write_images(folder / "train" / "c", 5)
    write_images(folder / "test" / "c", 1)
    text = f"folder:{folder}, train and val: class 'c' has 5 images, expected at least 6 to split"
    assert error_of(load, f"folder:{folder}") == text
    shutil.rmtree(folder / "test")
    text = f"{folder}/train: class 'c' has 5 images, expected at least 6 to split"
    assert error_of(load, f"folder:{folder}") == text


@pytest.mark.parametrize("name", ["a\nb", "it's", '"quoted"', "größe", "猫", "a b", "\u2028"])
def test_class_names_may_contain_special_characters(folder, name):
    shutil.rmtree(folder / "test")
    (folder / "train" / "a").rename(folder / "train" / name)
    assert set(load(f"folder:{folder}").classes) == {"b", name}


@pytest.mark.parametrize(
    ("name", "reason"), [(b"a\rb", "the name contains a carriage return"), (b"\xff", "the name is not UTF")]
)
@pytest.mark.parametrize("part", ["train", "test"])
def test_class_name_that_cannot_be_exported_is_rejected(folder, part, name, reason):
    renamed = folder / part / os.fsdecode(name)
    try:
        (folder / part / "a").rename(renamed)
    except OSError:
        pytest.skip("no such name can be on this file system")
    assert error_of(load, f"folder:{folder}").startswith(f"{str(renamed)!r}: {reason}")


def test_folder_name_that_cannot_be_exported_is_rejected(folder):
    """The folder's name is the name of the dataset in the report and the model card."""
    other = folder / os.fsdecode(b"\xff")
    try:
        other.mkdir()
    except OSError:
        pytest.skip("no such name can be on this file system")
    (folder / "train").rename(other / "train")
    assert "the name is not UTF-8" in error_of(load, f"folder:{other}")
