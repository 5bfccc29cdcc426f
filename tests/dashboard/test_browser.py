"""The dashboard and the report, rendered in Chromium."""

import shutil
from urllib.parse import urlsplit

import pytest
from optuna.artifacts import upload_artifact
from support.serving import serving

from nas.commands.report import report
from nas.reports.overview import note, update_note_and_figures
from nas.study.reader import StudyRecords
from nas.study.reference import StudyRef

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chromium-browser"))), None)

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium in PATH"),
]

SCREENS = {"laptop": (1366, 768), "phone": (390, 844)}
EVIL = "document.title = 'owned'; fetch('/api/studies')"
HTML = f'<!doctype html><title>mine</title><body onload="{EVIL}"><script>{EVIL}</script>'
SVG = f'<svg xmlns="http://www.w3.org/2000/svg" onload="{EVIL}"><script>{EVIL}</script><circle r="9"/></svg>'


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    options = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    with playwright.sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=CHROMIUM, headless=True, args=options)
        yield chromium
        chromium.close()


@pytest.fixture
def new_page(browser):
    """Function that opens a tab without stored state, as wide as a laptop or a phone."""
    contexts = []

    def opened(screen="laptop"):
        width, height = SCREENS[screen]
        contexts.append(browser.new_context(viewport={"width": width, "height": height}))
        contexts[-1].set_default_timeout(60_000)
        return contexts[-1].new_page()

    yield opened
    for context in contexts:
        context.close()


@pytest.fixture
def best(study_folder):
    return StudyRecords.open(StudyRef(study_folder)).best(1)[0]


def test_trial_page_shows_diagram_artifacts_and_params(monkeypatch, study_folder, new_page, best):
    page = new_page()
    with serving(monkeypatch, study_folder) as address:
        page.goto(f"{address}/trials?numbers={best.number}")
        page.wait_for_selector(f"h4:has-text('Trial {best.number}')")
        picture = page.locator('img[alt="architecture.svg"]')
        picture.scroll_into_view_if_needed()
        page.wait_for_function("document.querySelector('img[alt=\"architecture.svg\"]').naturalWidth > 0")
        assert picture.bounding_box()["width"] > 500
        for text in ("epochs.csv", "architecture.json", "weights.pt", f"params {best.params}"):
            assert page.locator(f"main >> text={text}").count(), text


def test_study_pages_show_figures_and_note(monkeypatch, study_folder, new_page):
    page, errors = new_page(), []
    page.on("pageerror", lambda error: errors.append(str(error)))
    with serving(monkeypatch, study_folder) as address:
        page.goto(address)
        for name in ("accuracy", "learning_curves", "discards", "layers"):
            figure = page.locator(f"[id='user-defined-plot:{name}']")
            figure.locator(".plot-container").wait_for()
            assert figure.bounding_box()["width"] > 200
        assert page.locator("[id='user-defined-plot:learning_curves'] .scatterlayer .trace").count() == 2
        page.wait_for_selector("text=Intermediate values")
        page.goto(f"{address}/note")
        page.wait_for_selector("main li:has-text('limits') code:has-text('params<=900')")
    assert not errors


@pytest.mark.parametrize(("name", "content"), [("evil.html", HTML), ("evil.svg", SVG)])
def test_script_in_artifact_is_not_executed(monkeypatch, study_folder, tmp_path, new_page, name, content):
    folder = shutil.copytree(study_folder, tmp_path / "own")
    records = StudyRecords.open(StudyRef(folder))
    (tmp_path / name).write_text(content)
    key = upload_artifact(
        artifact_store=records.artifacts.store(), file_path=str(tmp_path / name), study_or_trial=records.study
    )
    page = new_page()
    asked = []
    page.on("request", lambda request: asked.append(urlsplit(request.url).path))
    with serving(monkeypatch, folder) as address:
        site, _, study = address.partition("/dashboard/studies/")
        (tmp_path / "alone").mkdir()
        shutil.copyfile(tmp_path / name, tmp_path / "alone" / name)
        page.goto(f"file://{tmp_path / 'alone' / name}")
        page.wait_for_timeout(300)
        assert page.evaluate("document.title") == "owned"  # control: the script runs if nothing forbids it
        asked.clear()
        page.goto(f"{site}/artifacts/{study}/{key}")
        page.wait_for_timeout(300)
        assert page.title() != "owned"
        assert asked == [f"/artifacts/{study}/{key}"]


def test_study_strings_are_not_rendered_as_markup(monkeypatch, study_folder, tmp_path, new_page):
    folder = shutil.copytree(study_folder, tmp_path / "own")
    records = StudyRecords.open(StudyRef(folder))
    evil = "x` ``y`` \n\n# Heading\n<img src=x onerror=alert(1)> [a](javascript:alert(1)) www.evil.example **bold**|"
    records.study.set_user_attr("command", evil)
    records.study.set_user_attr("machine", "`")
    update_note_and_figures(records)
    assert "\n#" not in note(records)
    page = new_page()
    with serving(monkeypatch, folder) as address:
        page.goto(f"{address}/note")
        page.wait_for_selector("main li:has-text('command') code")
        item = page.locator("main li", has_text="command").first
        assert item.locator("code").count() == 1
        assert item.locator("code").inner_text() == " ".join(evil.split())
        assert page.locator("main li :is(a, img, h1)").count() == 0
        assert page.locator("main li strong").count() == page.locator("main li").count()


@pytest.mark.parametrize("screen", SCREENS)
def test_report_fits_screen_and_marks_scrollable_boxes(study_folder, new_page, tmp_path, screen):
    page = new_page(screen)
    page.goto(report(results=study_folder, output=tmp_path / "report.html").as_uri())
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    assert page.locator(".modebar-btn").count() == 0  # the buttons would cover chart titles
    curves = page.locator("[data-figure=curves] .xtick text")
    curves.first.wait_for()
    assert curves.all_text_contents() == ["1", "2"]
    for box in page.locator(".scroll").all():
        is_wider = box.evaluate("box => box.scrollWidth > box.clientWidth")
        hint = box.evaluate("box => getComputedStyle(box, '::before').content")
        assert ("Scroll sideways" in hint) == is_wider
