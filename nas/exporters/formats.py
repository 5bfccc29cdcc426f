"""Formats of an export that are written only on request, and the files of each project among them."""

PROJECTS = {
    "arduino": (
        "library.properties",
        "src/network_int8.h",
        "src/network_int8.c",
        "src/resize.h",
        "examples/classify/classify.ino",
        "examples/classify/test_vector.h",
    ),
    "makefile": (
        "Makefile",
        "main.c",
        "network_int8.h",
        "network_int8.c",
        "resize.h",
        "test_vector.h",
        "startup.c",
        "startup.h",
        "link.ld",
    ),
}
"""Files of each project around int8 C code."""
FORMATS = ("int8", "c", "c-int8", *PROJECTS)
CALIBRATED = ("int8", "c-int8", *PROJECTS)
"""Formats whose scales come from training images."""
