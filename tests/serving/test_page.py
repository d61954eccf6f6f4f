"""The page in headless Chromium, where that and Playwright are: result, error, colours, a phone's width, keyboard."""

import http.client
import shutil
import time

import pytest
from servers import encoded

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not CHROMIUM, reason="there is no Chromium")]


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def address(process):
    deadline, status = time.monotonic() + 120, 0
    while status != 200:
        assert time.monotonic() < deadline
        connection = http.client.HTTPConnection("127.0.0.1", process.port)
        connection.request("GET", "/readyz")
        status = connection.getresponse().status
        time.sleep(0.1)
    return f"http://127.0.0.1:{process.port}/"


def test_upload_result_error_schemes_and_widths(browser, address, tmp_path):
    grounds = set()
    for scheme, width in (("light", 1100), ("dark", 1100), ("light", 360)):
        context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
        page, broken, elsewhere = context.new_page(), [], []
        page.on("pageerror", lambda error, broken=broken: broken.append(error))
        page.on("request", lambda request, seen=elsewhere: seen.append(request.url))
        page.goto(address)
        page.get_by_text("noise, 4 classes").wait_for()
        page.set_input_files("#file", {"name": "a.png", "mimeType": "image/png", "buffer": encoded()})
        page.locator("#classes li").nth(3).wait_for()
        assert page.locator("#classes li").count() == 4
        first = page.locator("#classes li").first.inner_text().split()
        assert first[0] in page.get_by_role("status").inner_text()
        assert page.get_by_role("img", name="The chosen image").is_visible()
        page.set_input_files("#file", {"name": "a.txt", "mimeType": "image/png", "buffer": b"no image"})
        page.get_by_role("alert").get_by_text("Not an image of a kind that is read").wait_for()
        assert page.locator("#classes li").count() == 0
        assert page.evaluate("document.documentElement.scrollWidth") == width
        grounds.add(page.evaluate("getComputedStyle(document.body).backgroundColor"))
        assert not broken
        assert all(url.startswith((address, "blob:", "data:")) for url in elsewhere)
        context.close()
    assert len(grounds) == 2


def test_the_keyboard_alone_is_enough(browser, address):
    page, choosers = browser.new_page(), []
    page.on("filechooser", lambda chooser: choosers.append(chooser))
    page.goto(address)
    page.get_by_text("noise, 4 classes").wait_for()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "file"
    assert page.get_by_label("Choose an image").count() == 1
    assert page.evaluate("getComputedStyle(document.activeElement.parentElement).outlineStyle") == "solid"
    page.keyboard.press("Enter")
    deadline = time.monotonic() + 30
    while not choosers:
        assert time.monotonic() < deadline
        page.wait_for_timeout(50)
    choosers[0].set_files({"name": "a.png", "mimeType": "image/png", "buffer": encoded()})
    page.locator("#classes li").first.wait_for()
    page.close()
