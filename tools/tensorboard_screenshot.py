"""The README's picture: a short run, TensorBoard, and a real browser that opens it.

    python tools/tensorboard_screenshot.py                # trains the demo shortly, then takes the picture
    python tools/tensorboard_screenshot.py --logs FOLDER  # of logs that are there

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
from urllib.parse import urlencode

from playwright.sync_api import sync_playwright  # pyright: ignore[reportMissingImports]

ROOT = Path(__file__).parents[1]
PICTURE = ROOT / "docs" / "images" / "tensorboard.png"
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
        wait_for(f"{address}/data/plugin/scalars/tags", server)
        yield address
    finally:
        server.terminate()
        server.wait(timeout=30)


def wait_for(url: str, server: subprocess.Popen, seconds: float = 120) -> None:
    """Until the server has read the logs: its list of tags is there and not empty."""
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


def photograph(address: str, tags: str, picture: Path) -> None:
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        raise FileNotFoundError(f"No browser on PATH; install one of {', '.join(BROWSERS)}.")
    # The view is in the address: which runs and tags, no smoothing, a colour for each run.
    view = urlencode({"darkMode": "false", "runFilter": RUNS, "tagFilter": tags, "smoothing": "0"})
    with tempfile.TemporaryDirectory() as profile, sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            profile, executable_path=browser, args=FLAGS, viewport={"width": 1360, "height": 800}
        )
        page = context.pages[0]
        page.goto(f"{address}/?{view}#timeseries")
        page.wait_for_selector("scalar-card svg.line path, scalar-card line-chart", timeout=120_000)
        page.get_by_text("Enable step selection and data table").click()  # room for the curves
        page.locator("button", has_text="Settings").first.click()
        page.wait_for_timeout(4000)  # the curves are drawn after their card appears
        picture.parent.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=picture)
        context.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--logs", type=Path, help="take the picture of these logs instead of training")
    parser.add_argument(
        "--tags",
        default=TAGS,
        help="regular expression of the tags to show",
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        logs = options.logs
        if logs is None:
            demo = [sys.executable, str(ROOT / "examples" / "quickstart.py"), "--out", scratch]
            subprocess.run(demo, check=True)
            logs = Path(scratch) / "logs"
        with tensorboard(logs) as address:
            photograph(address, options.tags, PICTURE)
    print(PICTURE)


if __name__ == "__main__":
    main()
