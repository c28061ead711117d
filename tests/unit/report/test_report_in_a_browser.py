"""The report as a browser shows it."""

from __future__ import annotations

import shutil

import pytest
import records

from kolla_salt import report, runs
from kolla_salt.report import timeline

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--window-size=1280,900",
)  # fmt: skip
SECRET = "a-secret-of-the-site"

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="no browser: apt-get install chromium chromium-driver"),
]


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    driver.set_page_load_timeout(120)
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Reports by name -> (record, file)."""
    base = tmp_path_factory.mktemp("reports")
    site = base / "site"
    site.mkdir()
    (site / "passwords.yml").write_text(f"admin: {SECRET}\n")
    found = {}
    for name, options in {
        "failed": {"fail": f"it said {SECRET}\n{records.HOSTILE}", "deviations": [f"{records.HOSTILE} was restarted"]},
        "good": {},
        "many": {"hosts": 100},
    }.items():
        record = records.write(base / name, site=site, **options)
        page = base / f"{name}.html"
        page.write_text(report.make(runs.load("last", base / name)))
        found[name] = (record, page)
    return found


@pytest.fixture
def show(browser, made):
    def show(name: str, width: int = 1280, theme: str = "light"):
        features = [
            {"name": "prefers-color-scheme", "value": theme},
            {"name": "prefers-reduced-motion", "value": "reduce"},
        ]
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        browser.get_log("browser")
        browser.get(made[name][1].as_uri())
        return made[name][0]

    return show


def boxes(browser, selector):
    """Return left edge and width of elements, as shares of the plot in per cent."""
    return browser.execute_script(
        """
        const plot = document.getElementById('plot').getBoundingClientRect();
        return Array.from(document.querySelectorAll(arguments[0])).map((item) => {
          const box = item.getBoundingClientRect();
          return [(box.left - plot.left) / plot.width * 100, box.width / plot.width * 100, box.top, box.bottom];
        });
        """,
        selector,
    )


@pytest.mark.parametrize("name", ["failed", "good", "many"])
def test_it_opens_without_an_error_and_runs_nothing_of_what_it_shows(browser, show, name):
    show(name)
    assert browser.get_log("browser") == []
    assert browser.execute_script("return document.querySelectorAll('img, iframe, script').length") == 2
    assert browser.execute_script("return performance.getEntriesByType('resource').length") == 0


@pytest.mark.parametrize("name", ["failed", "many"])
def test_bars_are_where_the_record_says(browser, show, name):
    record = show(name)
    header, steps = record.header(), list(record.steps())
    whole = header["finished"] - header["started"]
    wanted = {}
    for step in steps:
        for host, said in step["hosts"].items():
            begin = (step["started"] + said["at"] - header["started"]) / whole * 100
            wanted[host, step["id"]] = (begin, said["wall"] / whole * 100)
    told = browser.execute_script("return JSON.parse(document.getElementById('bars').textContent)")
    shown = boxes(browser, "#plot [data-bar] .body")
    assert len(shown) == len(wanted) == len(told)
    for said, (left, width, top, bottom) in zip(told, shown, strict=True):
        begin, share = wanted[said["host"], said["step"]]
        # The line around a bar is a pixel wide.
        assert left == pytest.approx(begin, abs=0.3) and width == pytest.approx(share, abs=0.5), said
        assert bottom > top
    # A host's bars are in its lane, beside its name.
    names = browser.execute_script(
        "return Array.from(document.querySelectorAll('.gutter .lane-name')).map("
        "(n) => [n.title, n.getBoundingClientRect().top, n.getBoundingClientRect().bottom])"
    )
    lanes = {name: (top, bottom) for name, top, bottom in names}
    for said, (_, _, top, bottom) in zip(told, shown, strict=True):
        assert lanes[said["host"]][0] <= top and bottom <= lanes[said["host"]][1]


def test_outages_are_where_the_probe_saw_them(browser, show):
    record = show("failed")
    header, seen = record.header(), record.availability()
    whole = header["finished"] - header["started"]
    wanted = [(first - header["started"]) / whole * 100 for first, _ in seen["services"]["nova"]["outages"]]
    shown = [left for left, *_ in boxes(browser, "#plot .outage")]
    assert shown == pytest.approx(wanted, abs=0.4)


def test_a_failed_step_is_told_by_more_than_its_colour(browser, show):
    show("failed")
    failed = browser.find_elements("css selector", "#plot .step.failed")
    assert len(failed) == 1 and failed[0].get_attribute("aria-label").endswith("failed")
    body = failed[0].find_element("css selector", ".body")
    assert "hatch" in browser.execute_script("return getComputedStyle(arguments[0]).fill", body)


def test_pointing_at_a_bar_tells_of_its_states(browser, show):
    from selenium.webdriver import ActionChains
    from selenium.webdriver.support.ui import WebDriverWait

    show("good")
    bar = browser.find_elements("css selector", "#plot [data-bar] .body")[0]
    browser.execute_script("document.getElementById('timeline').scrollIntoView()")
    tip = browser.find_element("id", "tip")

    def told(_):
        # A tip goes away when the page is scrolled, which may still be going on.
        ActionChains(browser).move_to_element(bar).move_by_offset(2, 1).perform()
        return tip.is_displayed()

    WebDriverWait(browser, 30).until(told)
    assert "node1" in tip.text and "rabbitmq" in tip.text and "wave 1" in tip.text


def test_arrow_keys_go_from_bar_to_bar_and_enter_opens_its_changes(browser, show):
    from selenium.webdriver import ActionChains, Keys

    show("good")
    bars = browser.find_elements("css selector", "#plot [data-bar]")
    assert [bar.get_attribute("tabindex") for bar in bars].count("0") == 1
    browser.execute_script("arguments[0].focus()", bars[0])

    def press(key):
        ActionChains(browser).send_keys(key).perform()
        return browser.execute_script("return document.activeElement.getAttribute('aria-label')")

    assert press(Keys.ARROW_RIGHT).startswith("node1, wave 2")
    assert press(Keys.ARROW_DOWN).startswith("node2, ")
    assert press(Keys.END).startswith("node2, wave 3")
    assert press(Keys.HOME).startswith("node2, wave 1")
    assert browser.find_element("id", "tip").is_displayed()
    press(Keys.ENTER)
    assert browser.find_element("css selector", "details.host[data-host=node2]").get_attribute("open")
    assert not browser.find_element("css selector", "details.host[data-host=node1]").get_attribute("open")


def test_folding_filtering_and_zooming(browser, show):
    show("good")

    def count(selector):
        return browser.execute_script(
            "return Array.from(document.querySelectorAll(arguments[0])).filter((i) => i.checkVisibility()).length",
            selector,
        )

    assert count(".change") == 0
    browser.find_element("css selector", "details.host > summary").click()
    assert count(".change") == 20 and count(".diff") == 0
    browser.find_element("css selector", "details.change > summary").click()
    assert count(".diff") == 1
    browser.find_element("css selector", "[data-fold=open]").click()
    assert count(".change") == 80 and count(".diff") == 40
    browser.find_element("css selector", "[data-fold=close]").click()
    assert count(".change") == 0
    field = browser.find_element("id", "filter")
    field.send_keys("keystone.conf")
    assert count(".change") == 4
    field.clear()
    field.send_keys("no such thing")
    assert count("details.host") == 0 and browser.find_element("id", "nomatch").is_displayed()
    browser.execute_script("document.getElementById('timeline').scrollIntoView()")
    before = boxes(browser, "#plot")[0]
    browser.find_element("css selector", "[data-zoom='1']").click()
    assert browser.execute_script(
        "const s = document.querySelector('.scroll'); return s.scrollWidth / s.clientWidth"
    ) == pytest.approx(2, abs=0.05)
    assert boxes(browser, "#plot")[0][1] == before[1]  # the plot grew, the page did not
    assert browser.execute_script("return document.documentElement.scrollWidth <= window.innerWidth")


@pytest.mark.parametrize("width", [900, 1280, 1600])
@pytest.mark.parametrize("name", ["failed", "many"])
def test_nothing_sticks_out_at_the_side(browser, show, name, width):
    show(name, width)
    browser.execute_script("document.querySelectorAll('details').forEach((item) => { item.open = true; })")
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_can_be_read_in_both_themes(browser, show, theme):
    show("failed", theme=theme)
    assert browser.execute_script("return document.documentElement.dataset.theme") == theme
    thin = browser.execute_script(
        """
        const light = (text) => {
          const [r, g, b] = text.match(/[\\d.]+/g).slice(0, 3).map((v) => v / 255).map(
            (v) => v <= 0.03928 ? v / 12.92 : Math.pow((v + 0.055) / 1.055, 2.4));
          return 0.2126 * r + 0.7152 * g + 0.0722 * b;
        };
        const behind = (item) => {
          for (; item; item = item.parentElement) {
            const colour = getComputedStyle(item).backgroundColor;
            if (!/, 0\\)$/.test(colour)) return colour;
          }
        };
        document.querySelectorAll('details').forEach((item) => { item.open = true; });
        const found = [];
        const texts = 'h1, h2, h3, h4, h5, p, li, dt, dd, td, th, span, b, a, button, em, code';
        document.querySelectorAll(texts).forEach((item) => {
          if (item.closest('svg') || !item.textContent.trim() || !item.checkVisibility()) return;
          const [a, b] = [light(getComputedStyle(item).color), light(behind(item))];
          const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
          if (ratio < 4.5) found.push([item.className, item.textContent.slice(0, 30), ratio.toFixed(2)]);
        });
        return found;
        """
    )
    assert thin == []
    browser.find_element("id", "theme").click()
    assert browser.execute_script("return document.documentElement.dataset.theme") != theme


@pytest.mark.parametrize("name", ["failed", "good", "many"])
def test_no_secret_of_the_site_is_in_the_page(browser, show, name):
    show(name)
    assert SECRET not in browser.page_source


def test_many_hosts_have_lanes_that_can_be_told_apart(browser, show):
    show("many")
    names = boxes(browser, ".gutter .lane-name.small")
    assert len(names) == 100 + 5
    height = names[1][2] - names[0][2]
    assert height >= 12 and len({round(top) for *_, top, _ in names}) == len(names)
    assert timeline.MOST_HOSTS >= 100
