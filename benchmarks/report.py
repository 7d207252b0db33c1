"""What looking costs: the report page with many images, and `plan --deep` beside plain hashing.

    python -m benchmarks.report [--images 10000] [--layers 20] [--rounds 5]

Prints the size of the page, the seconds to render it, and the seconds until headless Chromium has run its script (the
page is opened from a file, cache warm); then the processor time of `migrate plan` and of `migrate plan --deep` over one
archive made from the files of this Python, in turns. `--deep` is to cost less than as much again as hashing.
"""

from __future__ import annotations

import argparse
import io
import os
import resource
import statistics
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import time
from pathlib import Path

from migrate.report.html import render_html
from tests.archives import V1Archive
from tests.unit.report.large import large_report

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--layers", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        measure_page(Path(directory), arguments.images, arguments.layers, arguments.rounds)
        measure_deep(Path(directory), arguments.rounds)


def measure_page(directory: Path, images: int, layers: int, rounds: int) -> None:
    report = large_report(images, layers)
    started = time.perf_counter()
    page = render_html(report)
    rendered = time.perf_counter() - started
    path = directory / "report.html"
    path.write_text(page, "utf-8")
    opened = [open_page(directory, path) for _ in range(rounds)]
    print(f"page: {images:,} images of {layers} layers, {len(page) / 1e6:.1f} MB, rendered in {rendered:.2f} s")
    print(f"opened in {statistics.median(opened):.2f} s ({min(opened):.2f} to {max(opened):.2f}, {rounds} rounds)")


def open_page(directory: Path, path: Path) -> float:
    """Seconds from the request to the end of the page's script, in a browser that stands already."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = "/usr/bin/chromium"
    for flag in (*FLAGS, f"--user-data-dir={directory / 'profile'}"):
        options.add_argument(flag)
    with webdriver.Chrome(options=options, service=webdriver.ChromeService("/usr/bin/chromedriver")) as browser:
        browser.get("about:blank")
        started = time.perf_counter()
        browser.get(path.as_uri())
        ready = browser.execute_script("return document.documentElement.dataset.ready")
        took = time.perf_counter() - started
    assert ready == "true"
    return took


def measure_deep(directory: Path, rounds: int) -> None:
    archive = directory / "archive.tar"
    size = make_archive(archive)
    plain, deep = [], []
    for _ in range(rounds):
        plain.append(processor_seconds(archive))
        deep.append(processor_seconds(archive, "--deep"))
    start = min(processor_seconds(directory / "nothing") for _ in range(rounds))
    hashing, looking = statistics.median(plain) - start, statistics.median(deep) - start
    print(f"archive: {size / 1e6:.0f} MB")
    print(f"plan {hashing:.2f} s, plan --deep {looking:.2f} s of processor time, without the start of the program")
    print(f"speed of --deep: {100 * hashing / looking:.0f} % of hashing")


def make_archive(path: Path) -> int:
    """One image of two layers: the standard library, and what is installed beside it."""
    archive = V1Archive()
    for name, parent, key in (("base", None, "stdlib"), ("top", "base", "purelib")):
        content = io.BytesIO()
        with tarfile.open(fileobj=content, mode="w", format=tarfile.GNU_FORMAT) as layer:
            layer.add(sysconfig.get_path(key), arcname=f"usr/{key}")
        archive.tag("x", "1", archive.layer(name, parent, tar=content.getvalue()))
    return path.write_bytes(archive.build())


def processor_seconds(archive: Path, *options: str) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "migrate", "plan", "-q", "--progress", "none", *options, str(archive)]
    subprocess.run(command, check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=dict(os.environ))
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    main()
