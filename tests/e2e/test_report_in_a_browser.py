"""The report in headless Chromium: search, keys, no error, no request, no text that runs."""

import base64
import itertools
import json
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from tests.factories.commands import cli
from tests.factories.report_shop import BREAKOUTS, DATE, make_report_shop, write_journal

pytestmark = pytest.mark.e2e

WIDE, PHONE = (1280, 900), (390, 844)


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("report")
    make_report_shop(folder / "w", num_more_users=150)
    file = folder / "report.html"
    at = ("--warehouse", folder / "w", "--date", DATE, "--output", file, "--user", "ann")
    assert cli("report", *at, "--training", write_journal(folder / "run")) == 0
    return file.as_uri()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("no chromium and chromedriver: apt-get install chromium chromium-driver")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    found = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield found
    found.quit()


@pytest.fixture
def page(browser: Any, address: str) -> Iterator[Any]:
    """The page, freshly loaded on a wide screen; afterwards: nothing was complained of."""
    resize(browser, *WIDE)
    browser.get("about:blank")
    for kind in ("browser", "performance"):
        browser.get_log(kind)
    browser.get(address)
    yield browser
    assert browser.get_log("browser") == []
    assert browser.title == f"Recommendations of {DATE}"


def resize(browser: Any, width: int, height: int) -> None:
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


def find(page: Any, selector: str) -> Any:
    return page.find_element("css selector", selector)


def users(page: Any) -> list[str]:
    return [button.text for button in page.find_elements("css selector", "#users button")]


def test_search_finds_users_by_id_title_and_reasoning(page: Any) -> None:
    search = find(page, "#search")
    assert find(page, "#found").text == "155 users, the first 100 shown"
    for asked, wanted in (
        ("ANN", ["ann"]),
        ("more-00007", ["more-00007"]),
        ("likes mug 42", ["more-00042"]),
        ("קומקום אדום", None),
        ('x"><', ['x"><b>&']),
    ):
        search.clear()
        search.send_keys(asked)
        assert wanted is None or users(page) == wanted
        assert find(page, "#found").text.endswith(("user", "users", "shown"))
    search.clear()
    search.send_keys("nobody at all")
    assert users(page) == []
    assert find(page, "#found").text.startswith("No user of this page matches")


def test_a_user_is_shown_with_history_reasoning_list_and_later_purchases(page: Any) -> None:
    find(page, "#search").send_keys("ann")
    find(page, "#users button").click()
    shown = find(page, "#user")
    assert page.switch_to.active_element == shown
    assert page.execute_script("return location.hash") == "#user=ann"
    marks = shown.find_elements("css selector", "mark")
    assert [mark.text for mark in marks] == ["red LAMP1", "oak desk2"]
    assert marks[0].get_attribute("title") == "names item 1 of the list"
    for text in (*BREAKOUTS[:6], "2024-05-26 12:00", "8 days before", "4.5 ★", "✓ bought later"):
        assert text in shown.text, text


def test_the_filter_and_the_keys_lead_to_users(page: Any) -> None:
    from selenium.webdriver.common.keys import Keys
    from selenium.webdriver.support.select import Select

    chosen = Select(find(page, "#filter"))
    for name, wanted in (("hit", ["ann"]), ("miss", ["bob"]), ("error", ["error"])):
        chosen.select_by_value(name)
        assert users(page) == wanted
    chosen.select_by_value("all")
    search = find(page, "#search")
    search.send_keys("more-0000")
    search.send_keys(Keys.ARROW_DOWN)
    page.switch_to.active_element.send_keys(Keys.ARROW_DOWN)
    assert page.switch_to.active_element.text == users(page)[1]
    page.switch_to.active_element.send_keys(Keys.ENTER)
    assert find(page, "#user h3").text == users(page)[1]
    assert find(page, '#users button[aria-current="true"]').text == users(page)[1]
    search.clear()
    search.send_keys("error", Keys.ENTER)
    assert find(page, "#user .bad").text == f"Failed: {BREAKOUTS[0]}"


def test_an_address_with_a_user_opens_that_user(page: Any, address: str) -> None:
    page.get(f"{address}#user=x%22%3E%3Cb%3E%26")
    page.refresh()
    assert find(page, "#user h3").text == 'x"><b>&'


def test_no_text_runs_and_nothing_is_asked_of_the_network(page: Any, address: str) -> None:
    for button in page.find_elements("css selector", "#users button")[:10]:
        button.click()
    log = [json.loads(entry["message"])["message"] for entry in page.get_log("performance")]
    asked = {
        entry["params"]["request"]["url"]
        for entry in log
        if entry["method"] == "Network.requestWillBeSent"
    }
    assert {url for url in asked if not url.startswith("data:")} == {address}
    count = "return document.querySelectorAll('img, iframe, object, main script').length"
    assert page.execute_script(count) == 0


@pytest.mark.parametrize("size", [WIDE, PHONE, (320, 600)], ids=lambda size: str(size[0]))
def test_nothing_hangs_over_the_edge_of_the_screen(page: Any, size: tuple[int, int]) -> None:
    resize(page, *size)
    for name in ("ann", 'x"><b>&', "eve"):
        page.execute_script("location.hash = 'user=' + encodeURIComponent(arguments[0])", name)
        assert page.execute_script("return document.documentElement.scrollWidth") <= size[0]
    if size == PHONE:
        list_, user = (find(page, name).rect for name in (".finder", "#user"))
        assert list_["y"] + list_["height"] <= user["y"]


def test_light_and_dark_follow_the_system_and_the_button(page: Any) -> None:
    colour = "return getComputedStyle(document.body).backgroundColor"
    light = page.execute_script(colour)
    features = [{"name": "prefers-color-scheme", "value": "dark"}]
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    dark = page.execute_script(colour)
    assert (light, dark) == ("rgb(255, 255, 255)", "rgb(20, 23, 27)")
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    find(page, "#theme").click()
    assert page.execute_script(colour) == dark
    assert find(page, "#theme").text == "Light"
    find(page, "#theme").click()
    assert page.execute_script(colour) == light


def test_contrast_is_enough_in_light_and_dark(page: Any) -> None:
    """WCAG AA: 4.5 to 1 for text, 3 to 1 for what is drawn."""
    read = """
        const style = getComputedStyle(document.documentElement);
        return arguments[0].map((name) => style.getPropertyValue('--' + name).trim());"""
    names = ["page", "panel", "text", "quiet", "link", "bad", "s0", "s1", "s2", "s3"]
    for _ in range(2):
        ground, panel, *others = map(luminance, page.execute_script(read, names))
        for name, colour in zip(names[2:], others, strict=True):
            least = 3 if name.startswith("s") else 4.5
            for behind in (ground, panel):
                assert contrast(colour, behind) >= least, name
        find(page, "#theme").click()


def test_what_a_screen_reader_needs_is_there(page: Any) -> None:
    for selector in ("#search", "#filter"):
        name = find(page, selector).accessible_name
        assert name in ("Search a user id, a title or a word of the reasoning", "Show")
    pictures = page.find_elements("css selector", "figure > svg")
    assert len(pictures) > 10
    assert all(len(picture.get_attribute("aria-label")) > 20 for picture in pictures)
    levels = page.execute_script(
        "return [...document.querySelectorAll('h1,h2,h3,h4')].map((node) => +node.tagName[1])"
    )
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    unnamed = """
        return [...document.querySelectorAll('button, nav a')]
            .filter((node) => !node.textContent.trim()).length"""
    assert page.execute_script(unnamed) == 0
    assert find(page, "#found").get_attribute("role") == "status"
    hidden = "return [...document.querySelectorAll('th')].filter((n) => !n.scope).length"
    assert page.execute_script(hidden) == 0


def test_it_prints_without_what_only_a_screen_can_use(page: Any) -> None:
    pdf = base64.b64decode(page.print_page())
    assert pdf.startswith(b"%PDF")
    assert len(pdf) > 20_000
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    try:
        for selector in ("nav", ".finder", "#theme"):
            assert not find(page, selector).is_displayed()
        assert find(page, "#user").is_displayed()
    finally:
        page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})


def luminance(colour: str) -> float:
    digits = colour.removeprefix("#")
    digits = "".join(digit * 2 for digit in digits) if len(digits) == 3 else digits
    parts = [int(digits[place : place + 2], 16) / 255 for place in (0, 2, 4)]
    linear = [
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: float, other: float) -> float:
    return (max(one, other) + 0.05) / (min(one, other) + 0.05)
