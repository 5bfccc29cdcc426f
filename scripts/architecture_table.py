"""Writes the table of packages in docs/architecture.md: ranks from the import contracts, texts from the docstrings.

python scripts/architecture_table.py [--check]

`--check` writes nothing and exits with status 1 if the table is out of date.
"""

import argparse
import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "architecture.md"
START, END = "<!-- rooms -->", "<!-- end of the rooms -->"
LENGTH = 120  # maximum number of characters shown of a docstring


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="only check whether the table is up to date")
    check = parser.parse_args().check
    text = PAGE.read_text(encoding="utf-8")
    fresh = with_table(text, table(ROOT))
    if check and fresh != text:
        print("docs/architecture.md is stale: run `python scripts/architecture_table.py`", file=sys.stderr)
        return 1
    if not check:
        PAGE.write_text(fresh, encoding="utf-8")
    return 0


def with_table(text: str, table: str) -> str:
    """Returns the page with `table` between its two markers."""
    before, start, rest = text.partition(START)
    _, end, after = rest.partition(END)
    if not start or not end:
        raise SystemExit(f"{PAGE} lacks {START} or {END}")
    return f"{before}{start}\n{table}{end}{after}"


def table(root: Path) -> str:
    """Returns a Markdown table: each top-level package in bold, lowest rank first, followed by its modules."""
    contracts = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
    layers = {contract["containers"][0]: contract["layers"] for contract in contracts if contract["type"] == "layers"}
    rows = ["| rank | room or module | what it holds |", "| --- | --- | --- |"]
    for rank, names in enumerate(lowest_first(layers["nas"])):
        for name in names:
            rows += [f"| {shown} |" for shown in room_rows(root / "nas", name, rank, layers)]
    return "\n".join(rows) + "\n"


def lowest_first(layers: list[str]) -> list[list[str]]:
    return [[name.strip() for name in layer.split("|")] for layer in reversed(layers)]


def room_rows(package: Path, name: str, rank: int, layers: dict[str, list[str]]) -> Iterator[str]:
    folder = package / name
    if not folder.is_dir():
        yield f"{rank} | **`{name}.py`** | {summary(package / f'{name}.py')}"
        return
    yield f"{rank} | **`{name}/`** | {summary(folder / '__init__.py', whole=True)}"
    for path in modules(folder, [part for group in lowest_first(layers.get(f"nas.{name}", [])) for part in group]):
        shown = path.parent if path.name == "__init__.py" else path
        yield f"| `{shown.relative_to(folder)}{'/' if shown.is_dir() else ''}` | {summary(path)}"


def modules(folder: Path, order: list[str]) -> Iterator[Path]:
    """Yields the modules of a package in the order of its import contract.

    Modules without a place in the contract come first, by name. A subpackage precedes its modules.
    """
    parts = {path.stem for path in folder.glob("*.py")} | {path.parent.name for path in folder.glob("*/__init__.py")}
    for name in sorted(parts - {"__init__"}, key=lambda name: (order.index(name) if name in order else -1, name)):
        if (folder / name).is_dir():
            yield folder / name / "__init__.py"
            yield from modules(folder / name, [])
        else:
            yield folder / f"{name}.py"


def summary(path: Path, *, whole: bool = False) -> str:
    """Returns the first sentence of a module's docstring, shortened if it is long; with `whole` the first paragraph."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    if not text:
        raise SystemExit(f"{path} has no docstring")
    text = " ".join(text.split("\n\n")[0].split())
    if not whole:
        text = re.split(r"(?<=[.;])\s", text)[0].rstrip(";")
        if len(text) > LENGTH:
            text = text[:LENGTH].rsplit(" ", 1)[0].rstrip(",:;") + " …"
    return text.removesuffix(".").replace("|", "\\|")


if __name__ == "__main__":
    sys.exit(main())
