"""Take the README's picture: the runs of a home, compared in MLflow's UI by a headless Chromium.

`pip install playwright`, have a Chromium (Debian's package of that name will do), then
`python docs/screenshot.py runs docs/mlflow.png`.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from playwright.sync_api import Page, ViewportSize, sync_playwright

from runner.paths import Home
from runner.ui import serve

# Without the last three it looks for Google's servers at every start.
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
SIZE: ViewportSize = {"width": 1500, "height": 900}  # pixels
SEEN_BEFORE = "localStorage.setItem('mlflow.assistant.fab.autoOpenedOnFirstLoad_v1', 'true')"  # no greeting
DRAWING_MILLISECONDS = 6000  # charts come one after the other, with an animation
TEST_CHARTS = "test/"


def main() -> None:
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("home", type=Path, help="folder of the runs (RUNNER_HOME)")
    options.add_argument("picture", type=Path, help="PNG file to write")
    chosen = options.parse_args()
    with serve(Home(chosen.home.resolve())) as services, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        page = browser.new_page(viewport=SIZE)
        page.add_init_script(SEEN_BEFORE)
        take(page, services.pages[0].url, chosen.picture)
        browser.close()


def take(page: Page, url: str, picture: Path) -> None:
    """Write a picture of the charts of the test set's metrics at `url`."""
    page.goto(url)
    page.get_by_placeholder("Search metric charts").fill(TEST_CHARTS)
    page.wait_for_selector(".js-plotly-plot")
    page.wait_for_timeout(DRAWING_MILLISECONDS)
    page.screenshot(path=picture)


if __name__ == "__main__":
    main()
