"""Makes the pictures of the documentation: `python docs/images/make.py`, from the fixtures of real engines.

Needs the extras `dev`, and Debian's chromium, chromium-driver, tmux and poppler-utils. Terminal pictures are what a
real terminal showed (tmux), report pictures what a real browser showed.
"""

from __future__ import annotations

import base64
import html
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from selenium import webdriver
from selenium.webdriver.chrome.webdriver import WebDriver

IMAGES = Path(__file__).resolve().parent
FIXTURES = IMAGES.parents[1] / "legacy_fixtures"
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
)
COLOURS = {"31": "#ff7b72", "32": "#7ee787", "33": "#e3b341", "36": "#79c0ff"}
SESSIONS = {
    "convert": (80, "migrate convert shelf/*.tar new-layout/"),
    "inspect": (120, "migrate inspect --tree shelf/1.9.1-multi.tar"),
    "plan-deep": (120, "migrate plan --deep --progress none shelf/*.tar"),
    "show-layers": (80, "migrate show new-layout/ team/web:1.0 --layers | head -n 16"),
    "map": (120, "migrate map new-layout/ | head -n 20"),
}


def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        work = Path(directory)
        make_shelf(work / "shelf")
        with start_browser(work / "profile") as browser:
            for name, (width, command) in SESSIONS.items():
                terminal_picture(browser, work, name, width, command)
            subprocess.run(["migrate", "report", "new-layout/", "--html", "report.html"], cwd=work, check=True)
            report_pictures(browser, work)


def make_shelf(shelf: Path) -> None:
    """The saves of real engines as the plain archives that they were."""
    shelf.mkdir()
    for case in sorted(FIXTURES.glob("save-*-multi")) + sorted(FIXTURES.glob("save-*-app")):
        plain = shelf / f"{case.name.removeprefix('save-')}.tar"
        with plain.open("wb") as target:
            subprocess.run(["xz", "-dc", case / "save.tar.xz"], stdout=target, check=True)


def start_browser(profile: Path) -> WebDriver:
    options = webdriver.ChromeOptions()
    options.binary_location = "/usr/bin/chromium"
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    return webdriver.Chrome(options=options, service=webdriver.ChromeService("/usr/bin/chromedriver"))


# --- the report --------------------------------------------------------------------------------------------------


def report_pictures(browser: WebDriver, work: Path) -> None:
    page = (work / "report.html").as_uri()
    for name, width, height, scheme in (
        ("report-phone", 390, 1700, "light"),
        ("report-laptop", 1280, 1500, "light"),
        ("report-dark", 1280, 1100, "dark"),
    ):
        emulate(browser, width, height, scheme)
        browser.get(page)
        save(browser, name)
    emulate(browser, 1280, 900, "light")
    browser.get(page)
    pdf = work / "report.pdf"
    pdf.write_bytes(base64.b64decode(browser.print_page()))
    subprocess.run(["pdftoppm", "-r", "60", "-png", "-l", "2", pdf, IMAGES / "report-print"], check=True)
    for numbered in IMAGES.glob("report-print-*.png"):
        numbered.rename(IMAGES / re.sub(r"-0*(\d+)\.png$", r"-\1.png", numbered.name))


def emulate(browser: WebDriver, width: int, height: int, scheme: str) -> None:
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


def save(browser: WebDriver, name: str) -> None:
    shot = browser.execute_cdp_cmd("Page.captureScreenshot", {"format": "png"})
    (IMAGES / f"{name}.png").write_bytes(base64.b64decode(shot["data"]))


# --- terminals ---------------------------------------------------------------------------------------------------


def terminal_picture(browser: WebDriver, work: Path, name: str, width: int, command: str) -> None:
    text = record(work, width, command)
    page = work / f"{name}.html"
    page.write_text(terminal_page(text, width), "utf-8")
    browser.get(page.as_uri())
    size = browser.execute_script(
        "const b = document.querySelector('pre').getBoundingClientRect(); return [b.width, b.height]"
    )
    emulate(browser, round(size[0]), round(size[1]), "light")
    save(browser, f"terminal-{name}")


def record(work: Path, width: int, command: str) -> str:
    """What a terminal of `width` columns shows when `command` is done, with its colours."""
    socket = str(work / "tmux")
    done = work / "done"
    done.unlink(missing_ok=True)
    path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    shell = f"export PATH={path}; cd {work}; clear; {command}; touch {done}; exec cat"
    subprocess.run(
        ["tmux", "-S", socket, "new-session", "-d", "-x", str(width), "-y", "60", "sh", "-c", shell], check=True
    )
    try:
        while not done.exists():
            time.sleep(0.05)
        time.sleep(0.2)
        shown = subprocess.run(
            ["tmux", "-S", socket, "capture-pane", "-e", "-p", "-S", "-"], capture_output=True, check=True
        )
    finally:
        subprocess.run(["tmux", "-S", socket, "kill-server"], check=True)
    return f"\x1b[36m$\x1b[0m {command}\n{shown.stdout.decode().rstrip()}\n"


def terminal_page(text: str, width: int) -> str:
    style = (
        "margin:0;padding:14px;display:inline-block;background:#0d1117;color:#e6edf3;box-sizing:content-box;"
        f"font:14px/1.35 'DejaVu Sans Mono',monospace;width:{width}ch"
    )
    return f'<body style="margin:0;background:#0d1117"><pre style="{style}">{coloured(text)}</pre>'


def coloured(text: str) -> str:
    """SGR sequences as spans: bold, dim and the eight colours."""
    state: dict[str, str] = {}
    parts: list[str] = []
    for piece in re.split(r"(\x1b\[[\d;]*m)", text):
        if piece.startswith("\x1b"):
            for code in piece[2:-1].split(";"):
                apply_code(state, code)
        elif piece:
            parts.append(f'<span style="{";".join(state.values())}">{html.escape(piece)}</span>')
    return "".join(parts)


def apply_code(state: dict[str, str], code: str) -> None:
    if code in ("", "0"):
        state.clear()
    elif code == "1":
        state["weight"] = "font-weight:bold"
    elif code == "2":
        state["opacity"] = "opacity:.65"
    elif code in COLOURS:
        state["colour"] = f"color:{COLOURS[code]}"
    elif code == "39":
        state.pop("colour", None)


if __name__ == "__main__":
    for tool in ("tmux", "pdftoppm", "chromium"):
        if shutil.which(tool) is None:
            sys.exit(f"{tool} is missing")
    main()
