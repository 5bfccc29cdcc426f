"""The API reference builds without warnings, is complete, and has no broken links."""

import re
import subprocess
import sys
from urllib.parse import unquote

import pytest
from support.paths import ROOT

import nas


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    pytest.importorskip("pdoc")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-W", "error", ROOT / "scripts" / "api_reference.py", folder]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return folder


def addresses(text, attribute):
    return set(re.findall(rf'\b{attribute}="([^"]*)"', text))


def test_every_public_name_has_entry(site):
    entries = addresses((site / "nas.html").read_text(encoding="utf-8"), "id")
    assert set(nas.__all__) - {"layers"} <= entries
    assert set(nas.layers.__all__) <= addresses((site / "nas" / "layers.html").read_text(encoding="utf-8"), "id")


def test_every_link_points_to_existing_page_and_entry(site):
    pages = sorted(site.rglob("*.html"))
    assert len(pages) == 3
    ids = {page.resolve(): addresses(page.read_text(encoding="utf-8"), "id") for page in pages}
    broken, num_links = [], 0
    for page in pages:
        for link in addresses(page.read_text(encoding="utf-8"), "href"):
            if re.match(r"(https?|data):|\$\{", link):  # the last one is a template in the search script
                continue
            num_links += 1
            path, _, entry = link.partition("#")
            target = (page.parent / unquote(path)).resolve() if path else page.resolve()
            if target not in ids or (entry and entry not in ids[target]):
                broken.append((page.name, link))
    assert broken == []
    assert num_links > 300
