"""Writes a project around an exported int8 network from the templates in this folder."""

import shutil
from pathlib import Path

import numpy as np

from nas.exporters.c.literals import c_comment, c_int_array
from nas.exporters.core_test.emulate import EMULATOR, EMULATOR_OPTIONS, MACHINES, RAM_BYTES
from nas.exporters.formats import PROJECTS
from nas.templates import render_template

TEMPLATES = Path(__file__).parent
CORE_TEST = TEMPLATES.with_name("core_test")


def write_project(
    kind: str, export: Path, *, pixels: np.ndarray, logits: np.ndarray, class_name: str, sentence: str
) -> None:
    """Writes a project to a folder of its name in an export, which holds network_int8.h and network_int8.c.

    Its files come from this folder, which has templates, from the export, and from `core_test`.

    Args:
        kind: Name in `PROJECTS`.
        export: Folder of the export.
        pixels: The image that the program classifies, uint8 (channels, height, width).
        logits: Its logits by the reference, int16 (classes,).
        class_name: Its class.
        sentence: Sentence about the network.
    """
    values = {
        "sentence": sentence,
        "about": c_comment([f"An image of class {class_name}, and the logits that the reference in NumPy gives it."]),
        "pixels": c_int_array("PROGMEM uint8_t", "test_pixels", pixels),
        "logits": c_int_array("int16_t", "test_logits", logits),
        "machines": MACHINES,
        "emulator": f"{EMULATOR} {EMULATOR_OPTIONS}",
        "ram_bytes": RAM_BYTES,
    }
    for path in map(Path, PROJECTS[kind]):
        target = export / kind / path
        target.parent.mkdir(parents=True, exist_ok=True)
        if (template := TEMPLATES / path.name).exists():
            target.write_text(render_template(template, **values), encoding="utf-8")
        else:
            source = next(folder for folder in (export, CORE_TEST) if (folder / path.name).exists())
            shutil.copyfile(source / path.name, target)


def shown_image(logits: np.ndarray, labels: np.ndarray) -> int:
    """Returns the index of the first image that is classified right; 0 if none is."""
    return int((logits.argmax(1) == labels).argmax())
