"""Sign in to the dashboard with a browser."""

from __future__ import annotations

import shutil

import pytest
import yaml
from conftest import answer

pytestmark = [pytest.mark.cloud, pytest.mark.timeout(600)]

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--window-size=1280,900",
)


@pytest.fixture
def browser(tmp_path):
    if not (CHROMIUM and DRIVER):
        pytest.skip("there is no browser: apt-get install chromium chromium-driver")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"--user-data-dir={tmp_path}/profile"):
        options.add_argument(flag)
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    driver.set_page_load_timeout(120)
    yield driver
    driver.quit()


def test_the_administrator_signs_in_and_sees_the_cloud(browser, site, tmp_path):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    access = answer("post-deploy")
    entry = yaml.safe_load((site / "clouds.yaml").read_text())["clouds"][access["cloud"]]
    browser.get(access["dashboard"])
    wait = WebDriverWait(browser, 120)
    wait.until(lambda b: b.find_elements(By.ID, "id_username"))
    browser.find_element(By.ID, "id_username").send_keys(entry["auth"]["username"])
    browser.find_element(By.ID, "id_password").send_keys(entry["auth"]["password"])
    for name in browser.find_elements(By.ID, "id_domain"):
        name.clear()
        name.send_keys("Default")
    browser.find_element(By.ID, "loginBtn").click()
    wait.until(lambda b: "/auth/login" not in b.current_url)
    browser.save_screenshot(str(tmp_path / "dashboard.png"))
    assert (tmp_path / "dashboard.png").stat().st_size > 5000
    assert "admin" in browser.find_element(By.TAG_NAME, "body").text
    browser.get(f"{access['dashboard']}/admin/info/")
    wait.until(lambda b: "keystone" in b.page_source.lower())
    assert "Internal Server Error" not in browser.page_source
