"""Writes the reference of the Python interface as a static site, from the docstrings of the public names.

python scripts/api_reference.py FOLDER
"""

import argparse
import contextlib
import inspect
from pathlib import Path

import pdoc
import pdoc.render

import nas


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder to write: index.html, nas.html and nas/layers.html")
    folder = parser.parse_args().folder
    # pdoc looks into the module, which imports a name only on access, and keeps the order of `__all__`.
    module = vars(nas)
    public = {name: getattr(nas, name) for name in module["__all__"]}
    module |= public
    module["__all__"] = sorted(public, key=lambda name: (rank(public[name]), name))
    pdoc.render.configure(docformat="google", show_source=False)
    # pdoc warns where a folder `nas` lies in the working directory and the package is installed from elsewhere.
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.chdir(folder):
        pdoc.pdoc("nas", r"!nas\.(?!layers)", output_directory=Path())


def rank(thing: object) -> int:
    """Returns 0 for functions, 1 for classes and unions of them, 2 for errors."""
    if inspect.isfunction(thing):
        return 0
    return 2 if isinstance(thing, type) and issubclass(thing, Exception) else 1


if __name__ == "__main__":
    main()
