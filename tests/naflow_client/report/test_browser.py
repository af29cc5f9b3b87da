"""The report in a real browser: Chromium, headless, from a file."""

from __future__ import annotations

import base64
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from naflow_client.render import colour, normalise, upscale
from naflow_client.report import Report, write_report
from support.reports import broken_layers, comparison, gradient, layer, picture, report

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
from selenium.webdriver.chrome.service import Service  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.ui import WebDriverWait  # noqa: E402

BROWSER = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = os.environ.get("CHROMEDRIVER") or shutil.which("chromedriver")
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
HOSTILE = '</script><img src=x onerror="window.hit=1"><b>'

pytestmark = pytest.mark.skipif(
    not (BROWSER and DRIVER),
    reason="needs chromium and chromedriver on the PATH, or in CHROMIUM and CHROMEDRIVER",
)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for flag in [*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"]:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture
def page(browser: webdriver.Chrome, tmp_path: Path) -> Iterator[Reader]:
    yield Reader(browser, tmp_path / "report.html")
    assert browser.get_log("browser") == []


class Reader:
    """What a person can do with the page and see on it."""

    def __init__(self, browser: webdriver.Chrome, path: Path) -> None:
        self.browser = browser
        self.path = path

    def open(self, content: Report, width: int = 1200, height: int = 900) -> None:
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        self.browser.get(write_report(self.path, content).as_uri())

    def media(self, **features: str) -> None:
        named = [{"name": key.replace("_", "-"), "value": value} for key, value in features.items()]
        self.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": named})

    def press(self, *keys: str) -> None:
        self.browser.switch_to.active_element.send_keys(*keys)

    def text(self, name: str) -> str:
        return str(self.browser.find_element(By.ID, name).text)

    def click(self, selector: str) -> None:
        self.browser.find_element(By.CSS_SELECTOR, selector).click()

    def image(self) -> str:
        return str(self.browser.execute_script("return document.getElementById('map').toDataURL()"))

    def pixels(self) -> np.ndarray:
        """RGBA [H, W, 4] of the map's canvas."""
        script = """const canvas = document.getElementById('map');
            const image = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
            let bytes = '';
            for (const value of image.data) bytes += String.fromCharCode(value);
            return [canvas.height, canvas.width, btoa(bytes)]"""
        height, width, data = self.browser.execute_script(script)
        return np.frombuffer(base64.b64decode(data), np.uint8).reshape(height, width, 4)

    def visible(self, name: str) -> bool:
        return bool(self.browser.find_element(By.ID, name).is_displayed())

    def until_layer(self, name: str) -> None:
        WebDriverWait(self.browser, 10, 0.05).until(lambda _: self.text("layer-name") == name)


def test_keys_move_through_the_layers(page: Reader) -> None:
    page.open(report())
    seen = {page.text("layer-name"): page.image()}
    assert page.text("layer-position") == "1 / 5"
    for _ in range(4):
        page.press(Keys.ARROW_RIGHT)
        seen[page.text("layer-name")] = page.image()
    assert list(seen) == [f"tensor{i}" for i in range(5)]
    assert len(set(seen.values())) == 5
    page.press(Keys.ARROW_RIGHT)
    assert page.text("layer-name") == "tensor4"
    page.press(Keys.HOME)
    assert page.text("layer-name") == "tensor0"
    page.press(Keys.END, Keys.ARROW_LEFT)
    assert page.text("layer-name") == "tensor3"
    assert page.image() == seen["tensor3"]
    spoken = page.browser.find_element(By.ID, "live").get_attribute("textContent")
    assert spoken == "Layer 4 of 5, tensor3, Conv"


def test_slider_strip_table_and_buttons_agree(page: Reader) -> None:
    page.open(report())
    slider = page.browser.find_element(By.ID, "layer-slider")
    slider.send_keys(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    assert page.text("layer-name") == "tensor2"
    assert slider.get_attribute("aria-valuetext") == "3 of 5, tensor2"
    page.click("#next")
    assert (page.text("layer-name"), slider.get_attribute("value")) == ("tensor3", "3")
    page.click("#strip li:nth-child(2) button")
    assert (page.text("layer-name"), slider.get_attribute("value")) == ("tensor1", "1")
    page.click("#all-layers tbody tr:nth-child(5)")
    assert page.text("layer-name") == "tensor4"
    assert not page.browser.find_element(By.ID, "next").is_enabled()
    for selector in ("#strip button", "#all-layers tbody tr"):
        marked = page.browser.find_elements(By.CSS_SELECTOR, f"{selector}[aria-current]")
        assert len(marked) == 1
        assert "4" in marked[0].text


def test_colours_on_the_page_are_those_of_the_overlays(page: Reader) -> None:
    page.open(report())
    page.press(Keys.ARROW_RIGHT)
    shown = page.pixels()
    height, width = shown.shape[:2]
    assert (height, width) == (420, 560)
    expected = colour(upscale(normalise(gradient(1)).values, (height, width)))
    assert (shown[..., 3] == 255).all()
    # The page starts from 8-bit levels: at most one step of the colour table away.
    assert np.abs(shown[..., :3].astype(int) - expected).sum(axis=2).max() <= 10


def test_play_runs_to_the_last_layer_and_stops(page: Reader) -> None:
    page.open(report())
    page.press(" ")
    play = page.browser.find_element(By.ID, "play")
    assert play.get_attribute("aria-label") == "Pause"
    page.until_layer("tensor2")
    page.press(" ")
    assert play.get_attribute("aria-label") == "Play"
    page.press(Keys.END)
    play.click()
    page.until_layer("tensor0")
    page.until_layer("tensor4")
    WebDriverWait(page.browser, 5, 0.05).until(lambda _: play.get_attribute("aria-label") == "Play")


def test_opacity_reveals_the_picture(page: Reader) -> None:
    page.open(report())
    slider = page.browser.find_element(By.ID, "opacity")
    canvas = page.browser.find_element(By.ID, "map")
    assert float(canvas.value_of_css_property("opacity")) == pytest.approx(0.65)
    slider.send_keys(Keys.HOME)
    assert float(canvas.value_of_css_property("opacity")) == 0
    slider.send_keys(Keys.ARROW_RIGHT)
    assert float(canvas.value_of_css_property("opacity")) == pytest.approx(0.05)
    assert page.text("layer-name") == "tensor0"


def test_troubled_layers_are_never_a_pretty_picture(page: Reader) -> None:
    page.open(report(replace(picture("a"), layers=broken_layers())))
    expected = [
        ("", True),
        ("not converged", True),
        ("constant map", True),
        ("not finite", False),
        ("no map", False),
    ]
    for badge, drawn in expected:
        assert page.text("badges") == badge
        assert page.visible("map") is drawn
        assert page.visible("no-map") is not drawn
        assert page.visible("legend") is drawn
        assert bool(page.text("layer-notices")) is bool(badge)
        page.press(Keys.ARROW_RIGHT)
    page.press(Keys.HOME)
    assert page.visible("map")
    assert len(page.browser.find_elements(By.CSS_SELECTOR, "#strip .dot")) == 4
    assert len(page.browser.find_elements(By.CSS_SELECTOR, "#strip canvas")) == 3


def test_pictures_can_be_switched(page: Reader) -> None:
    second = replace(picture("two.png", 2, seed=5), target="class dog", prediction=[])
    page.open(report(picture("one.png"), second))
    page.press(Keys.END)
    first = page.browser.find_element(By.ID, "picture").get_attribute("src")
    page.click("#pictures button:nth-child(2)")
    assert page.browser.find_element(By.ID, "picture").get_attribute("src") != first
    assert page.text("layer-position") == "2 / 2"
    assert page.text("target") == "class dog"
    assert not page.visible("prediction")
    page.press(Keys.HOME)
    assert page.text("layer-name") == "tensor0"


def test_hostile_text_stays_text(page: Reader) -> None:
    named = replace(
        picture(HOSTILE),
        target=HOSTILE,
        prediction=[(1, HOSTILE, 0.5, None)],
        layers=[replace(layer(0, gradient(0), HOSTILE, **{HOSTILE: HOSTILE}), warnings=[HOSTILE])],
    )
    page.open(replace(report(named), title=HOSTILE, method={HOSTILE: HOSTILE}, warnings=[HOSTILE]))
    assert page.browser.execute_script("return window.hit") is None
    assert page.text("layer-name") == HOSTILE
    assert page.text("title") == page.browser.title == HOSTILE
    assert page.browser.find_elements(By.CSS_SELECTOR, "b, img[onerror]") == []


def test_a_report_without_layers_says_so(page: Reader) -> None:
    page.open(report(replace(picture("a"), layers=[])))
    assert "no layers" in page.text("no-map-reason")
    page.press(Keys.ARROW_RIGHT, Keys.END, " ")


@pytest.mark.parametrize("width", [320, 400, 1200])
def test_no_sideways_scrolling(page: Reader, width: int) -> None:
    layers = [layer(i, gradient(i), "x" * 300) for i in range(40)]
    long = replace(picture("n" * 200), target="t" * 200, layers=layers)
    page.open(replace(report(long), title="w" * 120), width=width)
    assert page.browser.execute_script("return document.documentElement.scrollWidth") <= width
    stage = page.browser.find_element(By.ID, "stage").rect
    assert stage["width"] / stage["height"] == pytest.approx(80 / 60, rel=0.02)


def test_both_colour_schemes_are_readable(page: Reader) -> None:
    page.open(report())
    contrast = """const style = (node, key) => getComputedStyle(node)[key].match(/[0-9.]+/g);
        const rgb = (node, key) => style(node, key).slice(0, 3).map(Number);
        const light = (c) => c.map((v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
            .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
        const card = light(rgb(document.querySelector('.card'), 'backgroundColor'));
        return ['.card h2', '.card .quiet', '.position', '.facts-list dt'].map((selector) => {
            const text = light(rgb(document.querySelector(selector), 'color'));
            return (Math.max(text, card) + 0.05) / (Math.min(text, card) + 0.05); })"""
    backgrounds = set()
    for scheme in ("light", "dark"):
        page.media(prefers_color_scheme=scheme)
        assert min(page.browser.execute_script(contrast)) > 4.5
        body = page.browser.find_element(By.TAG_NAME, "body")
        backgrounds.add(body.value_of_css_property("background-color"))
    assert len(backgrounds) == 2
    page.media()


def test_query_and_references_stand_side_by_side(page: Reader) -> None:
    source = replace(picture("a.png"), comparison=comparison(), target="cosine similarity")
    page.open(report(source, picture("b.png")))
    items = page.browser.find_elements(By.CSS_SELECTOR, "#references li")
    assert [item.text.split("\n")[0] for item in items] == ["a.png", "label0", "label1", "label2"]
    assert [len(item.find_elements(By.TAG_NAME, "img")) for item in items] == [1, 1, 1, 0]
    assert len({item.rect["y"] for item in items}) == 1
    assert "not explained" in items[3].text
    assert page.text("similarity") == "0.875 (cosine)"
    rows = page.browser.find_elements(By.CSS_SELECTOR, "#channels tbody tr")
    assert [row.text.split() for row in rows] == [["7", "0.5"], ["3", "0.25"], ["1", "-0.125"]]
    assert "Compared with" in page.text("prediction")
    page.click("#pictures button:nth-child(2)")
    assert not page.visible("comparison")
    assert "Class" in page.text("prediction")


@pytest.mark.parametrize("width", [320, 1200])
def test_many_references_do_not_widen_the_page(page: Reader, width: int) -> None:
    page.open(report(replace(picture("a.png"), comparison=comparison(40))), width=width)
    assert page.browser.execute_script("return document.documentElement.scrollWidth") <= width
    assert page.text("references-more") == "and 16 more"
