"""Pictures of TensorBoard: a short run, a server, and a real browser that opens its tabs; fails when one is empty.

    python tools/tensorboard_screenshot.py                # the README's picture: trains the demo shortly
    python tools/tensorboard_screenshot.py --tabs         # docs/tensorboard.md's: trains examples/watch_training.py
    python tools/tensorboard_screenshot.py [--tabs] --logs FOLDER       # of logs that are there

Needs `pip install playwright` and Chromium or Chrome on PATH; Playwright's own browsers are not used.
"""

import argparse
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from playwright.sync_api import sync_playwright  # pyright: ignore[reportMissingImports]

ROOT = Path(__file__).parents[1]
PICTURE = ROOT / "docs" / "images" / "tensorboard.png"
PICTURES = ROOT / "docs" / "images" / "tensorboard"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
RUNS = "^(nothing|L2_attached)/"  # two of the five, each a curve for training and one for validation
TAGS = "^(epoch_(accuracy|gap_accuracy|loss)|gradient_norm|learning_rate|weight_norm)$"
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
CURVE = "scalar-card svg.line path, scalar-card line-chart"
# Tab, where it is in the address, and what is there only when it shows something.
TABS = {
    "time_series": ("timeseries", CURVE),
    "custom_scalars": ("custom_scalars", "tf-custom-scalar-multi-line-chart-card vz-line-chart2 path"),
    "histograms": ("histograms", "vz-histogram-timeseries path, histogram-card histogram-component path"),
    "hparams": ("hparams", "tf-hparams-main vaadin-grid-cell-content, tf-hparams-main paper-checkbox"),
    "images": ("images", "tf-image-loader img"),
    "text": ("text", "tf-text-loader table"),
}


@contextmanager
def tensorboard(logs: Path) -> Iterator[str]:
    """A TensorBoard server on this machine only; yields its address once it answers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(logs), "--host", "127.0.0.1"]
    server = subprocess.Popen([*command, "--port", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}"
    try:
        wait_for(f"{address}/data/environment", server)
        wait_for(f"{address}/data/plugin/scalars/tags", server)
        yield address
    finally:
        server.terminate()
        server.wait(timeout=30)


def wait_for(url: str, server: subprocess.Popen, seconds: float = 120) -> None:
    """Until the server answers with something; its list of tags is `{}` before it has read the logs."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise RuntimeError(f"TensorBoard ended with {server.returncode} before it answered.")
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                if len(answer.read()) > 2:
                    return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            pass
        time.sleep(0.5)
    raise TimeoutError(f"TensorBoard did not answer at {url} within {seconds:.0f} s.")


@contextmanager
def browser_page() -> Iterator[Any]:
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        raise FileNotFoundError(f"No browser on PATH; install one of {', '.join(BROWSERS)}.")
    with tempfile.TemporaryDirectory() as profile, sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            profile, executable_path=browser, args=FLAGS, viewport={"width": 1360, "height": 800}
        )
        yield context.pages[0]
        context.close()


def take(page: Any, picture: Path, selector: str) -> None:
    """The picture, once what `selector` names is there and drawn.

    Raises:
        RuntimeError: when it does not come.
    """
    try:
        page.wait_for_selector(selector, state="attached", timeout=60_000)
    except Exception as error:
        page.screenshot(path=picture.with_suffix(".failed.png"))
        raise RuntimeError(f"The tab for {picture.name} shows nothing: no {selector!r} at {page.url}") from error
    page.wait_for_load_state("networkidle")
    page.wait_for_timeout(2500)  # curves are drawn after their card appears
    page.screenshot(path=picture)


def photograph(address: str, tags: str, picture: Path) -> None:
    # The view is in the address: which runs and tags, no smoothing, a colour for each run.
    view = urlencode({"darkMode": "false", "runFilter": RUNS, "tagFilter": tags, "smoothing": "0"})
    with browser_page() as page:
        page.goto(f"{address}/?{view}#timeseries")
        page.wait_for_selector(CURVE, timeout=120_000)
        page.get_by_text("Enable step selection and data table").click()  # room for the curves
        page.locator("button", has_text="Settings").first.click()
        page.wait_for_timeout(1500)
        take(page, picture, CURVE)


def photograph_tabs(address: str, tags: str, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for tab, (place, selector) in TABS.items():
        view = {"darkMode": "false", "smoothing": "0"} | ({"tagFilter": tags} if tab == "time_series" else {})
        with browser_page() as page:
            page.goto(f"{address}/?{urlencode(view)}#{place}")
            take(page, folder / f"{tab}.png", selector)
        print(folder / f"{tab}.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--logs", type=Path, help="take the picture of these logs instead of training")
    parser.add_argument("--tabs", action="store_true", help="take one picture of each tab")
    parser.add_argument("--tags", default=TAGS, help="regular expression of the tags to show")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        logs = options.logs
        if logs is None:
            example = ROOT / "examples" / ("watch_training.py" if options.tabs else "quickstart.py")
            subprocess.run([sys.executable, str(example), "--out", scratch], check=True)
            logs = Path(scratch) if options.tabs else Path(scratch) / "logs"
        with tensorboard(logs) as address:
            if options.tabs:
                photograph_tabs(address, options.tags, PICTURES)
            else:
                photograph(address, options.tags, PICTURE)
                print(PICTURE)


if __name__ == "__main__":
    main()
