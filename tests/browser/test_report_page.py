"""The HTML report in a real browser: rendered, sorted, searched, printed, and held against an accessibility checker.

Needs Debian's chromium and chromium-driver, and axe-core: `npm ci --prefix tests/browser`.
"""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from selenium import webdriver
from selenium.webdriver.chrome.webdriver import WebDriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement

from migrate.report.document import Report
from migrate.report.html import Verified, render_html
from migrate.report.units import format_size
from tests.cases import case
from tests.command import migrate
from tests.unit.report.conftest import sample_report
from tests.unit.report.large import large_report

pytestmark = pytest.mark.peer

AXE = Path(__file__).parent / "node_modules" / "axe-core" / "axe.min.js"
PHONE, LAPTOP = (390, 844), (1366, 900)
HOSTILE = "</script><img src=x onerror=window.hacked=1><!--<b>&amp;\u202e"
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
)


def need_a_browser() -> None:
    """Skips where something is missing; fails on CI, where nothing may be missing."""
    missing = [command for command in ("chromium", "chromedriver") if shutil.which(command) is None]
    if not AXE.exists():
        missing.append("axe-core (npm ci --prefix tests/browser)")
    if missing:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"needs {', '.join(missing)}")


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebDriver]:
    need_a_browser()
    options = webdriver.ChromeOptions()
    options.binary_location = "/usr/bin/chromium"
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = webdriver.ChromeService("/usr/bin/chromedriver")
    with webdriver.Chrome(options=options, service=service) as driver:
        yield driver


def show(browser: WebDriver, report: Report, directory: Path, size: tuple[int, int] = LAPTOP) -> None:
    """Opens the page, and sees its script come to its end."""
    page = directory / "report.html"
    page.write_text(render_html(report), "utf-8")
    show_file(browser, page, size)


def show_file(browser: WebDriver, page: Path, size: tuple[int, int] = LAPTOP) -> None:
    browser.set_window_size(*size)
    browser.get(page.as_uri())
    assert browser.execute_script("return document.documentElement.dataset.ready") == "true"


def rows(browser: WebDriver, table: str) -> list[WebElement]:
    return browser.find_elements(By.CSS_SELECTOR, f"[data-table={table}] tbody tr")


def first_cells(browser: WebDriver, table: str) -> list[str]:
    script = (
        "return [...document.querySelectorAll(`[data-table=${arguments[0]}] tbody th`)].map((cell) => cell.innerText)"
    )
    return list(browser.execute_script(script, table))


def search(browser: WebDriver, table: str, words: str) -> None:
    box = browser.find_element(By.CSS_SELECTOR, f"[data-table={table}] input[type=search]")
    browser.execute_script("arguments[0].value = ''", box)
    box.send_keys(words)
    wait(
        browser,
        f"const found = document.querySelector('[data-table={table}] .tools [role=status]').textContent;"
        " return found !== ''",
    )


def wait(browser: WebDriver, condition: str) -> None:
    """Until a JavaScript condition holds; the page works in its own time."""
    script = (
        "const done = arguments[0]; const step = () => (() => { "
        + condition
        + " })() ? done(true) : setTimeout(step, 5);"
        " step();"
    )
    assert browser.execute_async_script(script)


def accessibility_violations(browser: WebDriver) -> list[str]:
    # through the DevTools, because the page's own policy lets no other script in
    browser.execute_cdp_cmd("Runtime.evaluate", {"expression": AXE.read_text("utf-8")})
    answer = browser.execute_cdp_cmd(
        "Runtime.evaluate",
        {"expression": "axe.run().then((r) => r.violations)", "awaitPromise": True, "returnByValue": True},
    )
    return [f"{row['id']}: {row['nodes'][0]['html']}" for row in answer["result"]["value"]]


def errors(browser: WebDriver) -> list[dict[str, Any]]:
    return [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]  # type: ignore[no-untyped-call]


def emulate(browser: WebDriver, **features: str) -> None:
    values = [{"name": name.replace("_", "-"), "value": value} for name, value in features.items()]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": values})


def test_names_from_archives_are_text(browser: WebDriver, tmp_path: Path) -> None:
    show(browser, sample_report(hostile=HOSTILE), tmp_path)
    assert f"acme/web:1{HOSTILE}" in browser.execute_script("return document.body.textContent")
    assert browser.execute_script("return window.hacked") is None
    assert browser.find_elements(By.CSS_SELECTOR, "img") == []
    assert errors(browser) == []


@pytest.mark.parametrize("size", [PHONE, LAPTOP])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_accessible_in_light_and_dark_at_any_width(
    browser: WebDriver, tmp_path: Path, size: tuple[int, int], scheme: str
) -> None:
    emulate(browser, prefers_color_scheme=scheme)
    show(browser, sample_report(), tmp_path, size)
    browser.execute_script("document.getElementById('layers').scrollIntoView()")
    wait(browser, "return document.querySelector('#tree li') !== null")
    for toggle in browser.find_elements(By.CSS_SELECTOR, "[aria-expanded=false]"):
        toggle.send_keys(Keys.ENTER)
    browser.execute_script("document.querySelectorAll('details').forEach((details) => { details.open = true; })")
    wait(browser, "return [...document.querySelectorAll('details > ul')].every((list) => list.childElementCount)")
    assert accessibility_violations(browser) == []
    assert browser.execute_script("return document.documentElement.scrollWidth - innerWidth") <= 0
    emulate(browser)


def test_figures_are_those_of_the_json(browser: WebDriver, tmp_path: Path) -> None:
    source = case("save-1.9.1-multi").write_plain(tmp_path)
    page, document = tmp_path / "page.html", tmp_path / "report.json"
    assert migrate("plan", source, "--exact-sizes", "--html", page, "--report", document, "-q").code == 0
    report = json.loads(document.read_bytes())
    show_file(browser, page)
    summary = browser.find_element(By.ID, "summary").text
    totals = report["totals"]
    for name in ("legacy_bytes", "unique_bytes", "blob_bytes"):
        assert format_size(totals[name]) in summary
    assert f"{totals['legacy_layers']} → {totals['unique_layers']}" in summary
    assert len(rows(browser, "images")) == totals["images"]
    assert len(rows(browser, "duplicates")) == len(report["duplicates"])
    text = browser.execute_script("return document.querySelector('[data-table=images]').textContent")
    for image in report["images"]:
        for value in (image["legacy_id"], image["image_id"][7:], image["manifest_digest"][7:], *image["references"]):
            assert value[:12] in text
    browser.find_element(By.ID, "exact-bytes").click()
    assert format_size(totals["legacy_bytes"], exact=True) in browser.find_element(By.ID, "summary").text
    assert errors(browser) == []


def test_sizes_are_rounded_as_in_the_text_report(browser: WebDriver, tmp_path: Path) -> None:
    show(browser, sample_report(), tmp_path)
    sizes = [0, 999, 1000, 9_994, 9_996, 99_949, 999_499, 999_500, 1_234_567, 10**12 - 1, 5 * 10**17]
    shown = browser.execute_script(
        "const box = document.getElementById('exact-bytes'); return arguments[0].map((size) => {"
        " const span = document.createElement('span'); span.dataset.bytes = size; document.body.append(span);"
        " box.dispatchEvent(new Event('change')); const text = span.textContent; span.remove(); return text; })",
        sizes,
    )
    assert shown == [format_size(size) for size in sizes]


def test_sorting_and_searching_by_keyboard(browser: WebDriver, tmp_path: Path) -> None:
    show(browser, large_report(60, 8), tmp_path)
    before = first_cells(browser, "images")
    assert len(before) == 25
    heading = browser.find_element(By.CSS_SELECTOR, "[data-table=images] thead button")
    heading.send_keys(Keys.ENTER)
    names = first_cells(browser, "images")
    assert names == sorted(names)
    heading.send_keys(Keys.ENTER)
    assert first_cells(browser, "images")[0] == "<none>"
    assert heading.find_element(By.XPATH, "..").get_attribute("aria-sort") == "descending"
    search(browser, "images", "00003:4 acme")
    assert first_cells(browser, "images") == ["acme/service-00003:4"]
    search(browser, "images", "nothing like it")
    assert "Nothing matches." in rows(browser, "images")[0].text


def test_copying_an_id(browser: WebDriver, tmp_path: Path) -> None:
    report = sample_report()
    show(browser, report, tmp_path)
    browser.execute_cdp_cmd(
        "Browser.grantPermissions", {"permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"]}
    )
    browser.find_element(By.CSS_SELECTOR, "[data-table=images] button[aria-label^='Copy image ID']").click()
    wait(browser, "return document.getElementById('status').textContent === 'Copied image ID'")
    copied = browser.execute_async_script("const done = arguments[0]; navigator.clipboard.readText().then(done)")
    assert copied == str(report.images[0].image_id)


def test_ten_thousand_images(browser: WebDriver, tmp_path: Path) -> None:
    report = large_report(10_000, 7)
    show(browser, report, tmp_path)
    assert len(rows(browser, "images")) == 25
    search(browser, "images", report.images[5_000].legacy_id)
    assert first_cells(browser, "images") == [
        report.images[5_000].title if report.images[5_000].references else "<none>"
    ]
    assert accessibility_violations(browser) == []
    assert errors(browser) == []


def test_printing_shows_every_table_and_no_controls(browser: WebDriver, tmp_path: Path) -> None:
    emulate(browser, prefers_color_scheme="dark")
    show(browser, large_report(60, 8), tmp_path)
    browser.execute_script(
        "addEventListener('beforeprint', () => { window.printed ="
        " document.querySelectorAll('[data-table=images] tbody tr').length; })"
    )
    pdf = base64.b64decode(browser.print_page())
    assert pdf.startswith(b"%PDF")
    assert browser.execute_script("return window.printed") == 60
    assert browser.find_elements(By.CSS_SELECTOR, "#tree li")
    assert len(rows(browser, "images")) == 25
    emulate(browser)


def test_the_layer_tree_opens_branch_by_branch(browser: WebDriver, tmp_path: Path) -> None:
    show(browser, sample_report(), tmp_path)
    browser.execute_script("document.getElementById('layers').scrollIntoView()")
    wait(browser, "return document.querySelector('#tree summary') !== null")
    base = browser.find_element(By.CSS_SELECTOR, "#tree summary")
    assert "3 images" in base.text
    assert "2 copies merged" in base.text
    base.send_keys(Keys.ENTER)
    wait(browser, "return document.querySelectorAll('#tree details ul > li').length === 2")
    assert "acme/web:1" in browser.find_element(By.ID, "tree").text
    label = browser.find_element(By.CSS_SELECTOR, "#treemap svg").get_attribute("aria-label")
    assert label is not None
    assert "merged: 4.01 MB" in label


def test_the_first_screen_answers(browser: WebDriver, tmp_path: Path) -> None:
    report = large_report(40, 4)
    images = tuple(replace(image, exact=place != 7) for place, image in enumerate(report.images))
    show(browser, replace(report, images=images), tmp_path)
    verdict = browser.find_element(By.CSS_SELECTOR, ".verdict").text
    assert "1 not exact" in verdict and "Keep the old store" in verdict
    browser.find_element(By.CSS_SELECTOR, "a[data-find='not exact']").click()
    assert len(rows(browser, "images")) == 1
    wanted = images[3]
    for words in (wanted.legacy_id, wanted.image_id.hex[:20], wanted.references[0]):
        search_all(browser, words)
        assert any(wanted.references[0] in row.text for row in rows(browser, "images"))
        assert "in images" in browser.find_element(By.ID, "found-all").text
    search_all(browser, "no such thing")
    assert browser.find_element(By.ID, "found-all").text == "nothing found"


@pytest.mark.parametrize("width", [820, 1366])
def test_nothing_is_squeezed(width: int, browser: WebDriver, tmp_path: Path) -> None:
    """The controls are one line, and names have room: a table that is too wide scrolls."""
    show(browser, large_report(40, 4), tmp_path, (width, 1180))
    middles = "return [...document.querySelectorAll('.controls > :not(:empty), .controls > input')].map((element) => {"
    middles += " const box = element.getBoundingClientRect(); return (box.top + box.bottom) / 2; })"
    found = browser.execute_script(middles)
    assert len(found) == 4 and max(found) - min(found) < 4
    narrow = "return [...document.querySelectorAll('.wrap')].filter((cell) => cell.matches('td, th')"
    narrow += " && cell.offsetWidth < 155).map((cell) => cell.textContent)"
    assert browser.execute_script(narrow) == []


def test_users_of_a_layer_are_named_once(browser: WebDriver, tmp_path: Path) -> None:
    report = sample_report()
    images = tuple(replace(image, references=("acme/app:1",)) for image in report.images)
    show(browser, replace(report, images=images), tmp_path)
    assert rows(browser, "duplicates")[0].text.count("acme/app:1") == 1
    assert "more" not in rows(browser, "duplicates")[0].text


def test_the_search_finds_images_by_their_inner_layers(browser: WebDriver, tmp_path: Path) -> None:
    report = large_report(60, 4)
    show(browser, report, tmp_path)
    layer = report.images[7].layers[1]
    holders = [image for image in report.images if layer in image.layers]
    assert layer.diff_id is not None
    for words in (layer.legacy_id, str(layer.diff_id), layer.diff_id.hex[:16]):
        search_all(browser, words)
        found = browser.find_element(By.ID, "found-all").text
        assert f"{len(holders)} in images" in found, (words, found)


def test_what_a_verification_found_is_on_the_first_screen(browser: WebDriver, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text(render_html(sample_report(), Verified(3, ())), "utf-8")
    show_file(browser, page)
    assert "of 3 images was recomputed" in browser.find_element(By.CSS_SELECTOR, ".verified").text
    assert accessibility_violations(browser) == []
    finding = {"where": f"blobs/{HOSTILE}", "message": "its bytes have another digest"}
    page.write_text(render_html(sample_report(), Verified(3, [finding])), "utf-8")
    show_file(browser, page)
    assert "found 1 mismatch" in browser.find_element(By.CSS_SELECTOR, ".verified").text
    assert f"blobs/{HOSTILE}" in browser.execute_script("return document.body.textContent")
    assert browser.execute_script("return window.hacked") is None
    assert errors(browser) == []


def test_conflicts_name_source_and_present_name(browser: WebDriver, tmp_path: Path) -> None:
    report = sample_report()
    kept, other = report.images[:2]
    assert kept.manifest_digest is not None and other.manifest_digest is not None
    conflict = replace(report.conflicts[0], kept=kept.manifest_digest, others=(other.manifest_digest,))
    images = (kept, replace(other, names=()), *report.images[2:])
    show(browser, replace(report, images=images, conflicts=(conflict,)), tmp_path)
    text = browser.find_element(By.ID, "conflicts").text
    assert f"{other.source}, made {(other.created or 'at an unknown time')[:10]}" in text
    assert "has no name now" in text


def test_printed_ids_are_whole(browser: WebDriver, tmp_path: Path) -> None:
    show(browser, sample_report(), tmp_path)
    shown = "return getComputedStyle(document.querySelector('[data-table=images] .id .start')).display"
    assert browser.execute_script(shown) != "none"
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    assert browser.execute_script(shown) == "none"
    whole = "return getComputedStyle(document.querySelector('[data-table=images] .id'), '::before').content"
    assert re.search(r"[0-9a-f]{64}", browser.execute_script(whole))
    assert browser.execute_script("return document.documentElement.scrollWidth - innerWidth") <= 0
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})


def search_all(browser: WebDriver, words: str) -> None:
    browser.execute_script("document.getElementById('found-all').textContent = ''")
    box = browser.find_element(By.ID, "search-all")
    browser.execute_script("arguments[0].value = ''", box)
    box.send_keys(words)
    wait(browser, "return document.getElementById('found-all').textContent !== ''")
