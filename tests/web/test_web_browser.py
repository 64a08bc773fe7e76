"""The page in a headless Chromium, as a person uses it."""

import re
import shutil

import pytest
from lively import save_picture

from co_detr.web.viewer import LEAST_SCORE

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync"]


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("no Chromium here")
    playwright = pytest.importorskip("playwright.sync_api", reason="no playwright: make test-web")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def page(browser, served):
    """The page, opened; whatever it asks for elsewhere, or fails at, fails the test."""
    page = browser.new_page(viewport={"width": 1300, "height": 1000})
    asked, failures = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: failures.append(str(error)))
    page.goto(served.url)
    page.locator("#status").wait_for(timeout=60_000)
    yield page
    page.close()
    assert not failures
    assert [url for url in asked if not url.startswith((served.url, "data:", "blob:"))] == []


def status_after(page, act):
    """The line of status once it is another one than before."""
    from playwright.sync_api import expect

    status = page.locator("#status")
    before = status.inner_text()
    act()
    expect(status).not_to_have_text(before, timeout=60_000)
    return status.inner_text()


def count(status):
    return int(re.match(r"(\d+) object", status).group(1))


def drop(page, path):
    return status_after(page, lambda: page.set_input_files("input[type=file]", path))


def move(page, threshold):
    """By the number beside the slider."""
    number = page.get_by_label(re.compile("number input for Least score"))

    def fill():
        number.fill(str(threshold))
        number.press("Enter")

    return status_after(page, fill)


def pixels(page, before=None):
    """Where the browser has the picture from, once that is another place than before."""
    page.wait_for_function(
        "before => { const image = document.querySelector('#picture img');"
        " return image && image.complete && image.naturalWidth && image.src !== before; }",
        arg=before,
        timeout=60_000,
    )
    return page.locator("#picture img").get_attribute("src")


def test_a_picture_is_dropped_and_looked_at_in_every_way(page, served, tmp_path):
    from playwright.sync_api import expect

    assert "Drop a picture" in page.locator("#status").inner_text()
    path = save_picture(tmp_path / "a.png")
    scores = served.viewer.look(path, LEAST_SCORE).instances.scores
    found = count(drop(page, path))
    assert found == (scores >= 0.5).sum() > 0
    drawn = pixels(page)
    expect(page.locator("#table")).to_contain_text(re.compile(r"digit \d"))

    runs = len(served.runs)
    steps = [step / 100 for step in range(5, 100)]
    some = next(step for step in steps if 0 < (scores >= step).sum() < found)
    assert count(move(page, some)) == (scores >= some).sum()
    assert count(move(page, 1)) == 0
    assert count(move(page, 0.5)) == found
    assert len(served.runs) == runs  # the model was not asked again

    plain = pixels(page)
    page.get_by_label("of the branch").check()
    warm = pixels(page, plain)
    page.get_by_label("of the encoder").check()
    pixels(page, warm)
    assert drawn != warm and len(served.runs) == runs

    assert count(status_after(page, page.get_by_label("rcnn").check)) == 0  # below 0.12, all
    assert len(served.runs) == runs + 1

    with page.expect_download() as download:
        page.get_by_text("Save as COCO file").click()
    assert download.value.suggested_filename == "a.json"
    assert '"annotations": []' in download.value.path().read_text()


def test_a_file_that_is_no_picture_is_named_on_the_page(page, tmp_path):
    (tmp_path / "notes.png").write_text("no picture")
    assert "cannot be shown: no picture of a kind" in drop(page, tmp_path / "notes.png")
    assert page.locator("#picture img").count() == 0
    page.get_by_label("Remove").or_(page.get_by_label("Clear")).first.click()
    page.get_by_text("Drop a picture on the left").wait_for()
    assert count(drop(page, save_picture(tmp_path / "a.png"))) > 0
