"""The page in headless Chromium, the system's own: result, error, colours, a phone's width, keyboard."""

import os
import shutil
import time

import pytest
from playwright import sync_api as playwright
from servers import encoded

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
# `.ci/run` installs it where it can be had, and says where not.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CHROMIUM, reason="there is no Chromium: apt-get install chromium"),
]


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def address(port):
    return f"http://127.0.0.1:{port}/"


def upload(page, content, name="a.png"):
    page.set_input_files("#file", {"name": name, "mimeType": "image/png", "buffer": content})


def picture(page, *names):
    """Into the directory that SCREENSHOTS names, for people to look at."""
    if directory := os.environ.get("SCREENSHOTS"):
        page.screenshot(path=f"{directory}/{'-'.join(map(str, names))}.png", full_page=True)


def drawn(page):
    """How many pixels of the overlay are not clear."""
    return page.evaluate(
        "(c => [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data]"
        ".filter((value, index) => index % 4 == 3 && value).length)(document.getElementById('overlay'))"
    )


def test_upload_result_error_schemes_and_widths(browser, address, tmp_path):
    grounds = set()
    for scheme, width in (("light", 1100), ("dark", 1100), ("light", 360)):
        context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
        page, broken, elsewhere = context.new_page(), [], []
        page.on("pageerror", lambda error, broken=broken: broken.append(error))
        page.on("request", lambda request, seen=elsewhere: seen.append(request.url))
        page.goto(address)
        page.get_by_text("noise, 4 classes; objects, 4 classes").wait_for()
        upload(page, encoded())
        page.locator("#classes li").nth(3).wait_for()
        assert page.locator("#classes li").count() == 4
        first = page.locator("#classes li").first.inner_text().split()
        assert first[0] in page.get_by_role("status").inner_text()
        assert page.get_by_role("img", name="The chosen image").is_visible()
        picture(page, "result", scheme, width)
        upload(page, b"no image", "a.txt")
        page.get_by_role("alert").get_by_text("Not an image of a kind that is read").wait_for()
        assert page.locator("#classes li").count() == 0
        picture(page, "error", scheme, width)
        assert page.evaluate("document.documentElement.scrollWidth") == width
        grounds.add(page.evaluate("getComputedStyle(document.body).backgroundColor"))
        assert not broken
        assert all(url.startswith((address, "blob:", "data:")) for url in elsewhere)
        context.close()
    assert len(grounds) == 2


def test_the_switch_shows_where_a_class_is_seen(browser, address):
    page = browser.new_page(color_scheme="dark")
    page.goto(address)
    upload(page, encoded((300, 200), "JPEG"))
    page.locator("#classes li").nth(3).wait_for()
    switch = page.get_by_label("Show where (Grad-CAM)")
    assert not switch.is_checked() and drawn(page) == 0
    switch.check()
    # All of the square that the network saw: 32 of 40 pixels of the short side, of which little is clear.
    assert 0 < drawn(page) <= 161 * 161
    picture(page, "overlay", "dark", 1280)
    switch.uncheck()
    assert drawn(page) == 0
    page.close()


def test_a_detectors_boxes_and_masks_are_drawn(browser, address):
    page = browser.new_page(color_scheme="light")
    # The network has learnt nothing: so that it is sure of something, every score is enough.
    page.route("**/v1/detect?*", lambda route: route.continue_(url=route.request.url + "&threshold=0"))
    page.goto(address)
    page.get_by_label("Model").select_option("objects")
    upload(page, encoded((300, 200), "JPEG"))
    page.locator("#classes li").first.wait_for()
    count = page.locator("#classes li").count()
    assert 0 < count <= 5
    assert page.get_by_role("status").inner_text().startswith(f"{count} object")
    assert page.get_by_role("heading", name="What is in it").is_visible()
    with_boxes = drawn(page)
    assert with_boxes > 100
    picture(page, "objects", "light", 1280)
    page.get_by_label("Show boxes in the image").uncheck()
    assert drawn(page) == 0
    page.get_by_label("Model").select_option("noise")
    page.locator("#classes li").nth(3).wait_for()
    assert page.get_by_label("Show where (Grad-CAM)").is_visible()
    page.close()


def test_the_keyboard_alone_is_enough(browser, address):
    page, choosers = browser.new_page(), []
    page.on("filechooser", lambda chooser: choosers.append(chooser))
    page.goto(address)
    page.get_by_text("noise, 4 classes; objects, 4 classes").wait_for()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "model"
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
