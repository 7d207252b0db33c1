"""Makes the pictures of the documentation: `python docs/images/make.py`, from the fixtures of real engines.

Needs the extras `dev`, and Debian's chromium, chromium-driver, tmux and xz-utils. Terminal pictures are what a
real terminal showed (tmux), report pictures what a real browser showed.
"""

from __future__ import annotations

import base64
import html
import os
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
FORMAT = "webp"
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
    "--disable-lcd-text",
)
COLOURS = {"31": "#ff7b72", "32": "#7ee787", "33": "#e3b341", "36": "#79c0ff"}
SESSIONS = {
    "convert": "migrate convert old-host/ shelf/*.tar new-layout/",
    "plan": "migrate plan old-host/ shelf/*.tar",
    "batch": "migrate batch shelf/ many/",
    "inspect": "migrate inspect shelf/1.9.1-multi.tar",
}
WIDE_SESSIONS = {
    "inspect-tree": "migrate inspect --tree shelf/1.9.1-multi.tar",
    "plan-deep": "migrate plan --deep --progress none shelf/*.tar",
    "show-layers": "migrate show new-layout/ team/web:1.0 --layers | head -n 16",
    "map": "migrate map new-layout/ | head -n 20",
}
SIZES = {"phone": (390, 1700), "tablet": (820, 1400), "laptop": (1280, 1500)}
A4 = (794, 1123)


def main() -> None:
    for old in IMAGES.glob("*.webp"):
        old.unlink()
    with tempfile.TemporaryDirectory() as directory:
        work = Path(directory)
        make_sources(work)
        with start_browser(work / "profile") as browser:
            for name, command in SESSIONS.items():
                for width in (80, 120):
                    terminal_picture(browser, work, f"{name}-{width}", width, command)
                    if (target := command.split()[-1]) in ("new-layout/", "many/") and width == 80:
                        shutil.rmtree(work / target)
            for name, command in WIDE_SESSIONS.items():
                terminal_picture(browser, work, name, 120, command)
            subprocess.run(["migrate", "report", "new-layout/", "--html", "report.html"], cwd=work, check=True)
            report_pictures(browser, (work / "report.html").as_uri())


def make_sources(work: Path) -> None:
    """The saves of real engines as the plain archives that they were, one of them cut off, and a Docker root."""
    shelf = work / "shelf"
    shelf.mkdir()
    for case in sorted(FIXTURES.glob("save-*-multi")) + sorted(FIXTURES.glob("save-*-app")):
        unpack(case / "save.tar.xz", shelf / f"{case.name.removeprefix('save-')}.tar")
    unpack(FIXTURES / "save-1.6.2-repo" / "save.tar.xz", shelf / "copied-halfway.tar")
    os.truncate(shelf / "copied-halfway.tar", (shelf / "copied-halfway.tar").stat().st_size // 2)
    (work / "old-host").mkdir()
    store = FIXTURES / "containers-1.6.2-overlay" / "store.tar.xz"
    subprocess.run(["tar", "-xf", store, "-C", work / "old-host"], check=True)


def unpack(source: Path, target: Path) -> None:
    with target.open("wb") as stream:
        subprocess.run(["xz", "-dc", source], stdout=stream, check=True)


def start_browser(profile: Path) -> WebDriver:
    options = webdriver.ChromeOptions()
    options.binary_location = "/usr/bin/chromium"
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    return webdriver.Chrome(options=options, service=webdriver.ChromeService("/usr/bin/chromedriver"))


# --- the report --------------------------------------------------------------------------------------------------


def report_pictures(browser: WebDriver, page: str) -> None:
    for name, (width, height) in SIZES.items():
        for scheme in ("light", "dark"):
            emulate(browser, width, height, scheme)
            browser.get(page)
            save(browser, f"report-{name}-{scheme}", quality=65)
    emulate(browser, *A4, "light", media="print")
    browser.get(page)
    browser.execute_script("document.body.style.margin = '14mm'")  # those of the paper
    save(browser, "report-print", quality=65)


def emulate(browser: WebDriver, width: int, height: int, scheme: str, media: str = "screen") -> None:
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": media, "features": features})


def save(browser: WebDriver, name: str, quality: int = 100) -> None:
    """100 loses nothing, and is the smallest for text on one colour."""
    shot = browser.execute_cdp_cmd("Page.captureScreenshot", {"format": FORMAT, "quality": quality})
    (IMAGES / f"{name}.{FORMAT}").write_bytes(base64.b64decode(shot["data"]))


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
    for tool in ("tmux", "xz", "chromium"):
        if shutil.which(tool) is None:
            sys.exit(f"{tool} is missing")
    main()
