"""The pictures of the README, taken from a real stack: ``python -m tests.browser.pictures`` writes docs/images, in five to ten minutes.

Run by hand after a change of what they show.
"""

import re
import tempfile
from pathlib import Path
from typing import Any

from playwright.sync_api import expect

from tests.browser.test_ui import Desk, desk, forged_target

IMAGES = Path(__file__).resolve().parents[2] / "docs" / "images"
WIDE: dict[str, Any] = {"viewport": {"width": 1560, "height": 785}, "device_scale_factor": 1.5}
TALL = {"width": 1560, "height": 1120}
PAGES = {
    "lineage": "/assets/governor_permit?view=lineage&lineageScope=upstream&lineageDepth=5",
    "partition": "/assets/risk_proposal?view=partitions&partition=ETHUSDT",
}
DESK_PAGES = {"desk": "/desk", "symbol": "/desk/ETHUSDT"}
DESK_SIZES = {"desk": {"width": 1440, "height": 640}, "symbol": {"width": 1440, "height": 930}}
SETTLE_MS = 3000  # until plots and tables stand still
HISTORY_MS = 200_000  # until a chart has something to show
CALM_MS = 300_000  # the example leaves a position whose stop was crossed, and enters a new one a little later
BANNER = 60  # pixels by which the status banner pushes the graph beyond the lower edge


def main() -> None:
    """Take them."""
    with tempfile.TemporaryDirectory(prefix="quantum-pictures-") as folder, desk(Path(folder), **WIDE) as front:
        front.open("/desk")
        front.page.wait_for_timeout(HISTORY_MS)
        wait_until_calm(front)
        front.open("/")
        front.page.get_by_text("Hide navigation").click()  # more room for the graph
        for name, path in PAGES.items():
            front.page.set_viewport_size(TALL if name == "lineage" else WIDE["viewport"])
            front.open(path)
            front.page.wait_for_timeout(2 * SETTLE_MS)
            if name == "lineage":
                front.page.set_viewport_size({**TALL, "height": TALL["height"] + BANNER})
                front.page.wait_for_timeout(SETTLE_MS)
            front.page.screenshot(path=IMAGES / f"{name}.png")
        front.open("/desk")
        wait_until_calm(front)
        for name, path in DESK_PAGES.items():
            front.page.set_viewport_size(DESK_SIZES[name])
            front.open(path)
            front.page.wait_for_timeout(SETTLE_MS)
            front.page.screenshot(path=IMAGES / f"{name}.png", scale="css")
        front.page.set_viewport_size(WIDE["viewport"])
        with forged_target(front.home, "BTCUSDT"):
            front.wait_for_result("recomputed", "failed")
            expect(front.page.get_by_text("In Progress", exact=True)).to_have_count(0, timeout=CALM_MS)
            front.page.wait_for_timeout(SETTLE_MS)
            front.page.screenshot(path=IMAGES / "checks.png")


def wait_until_calm(front: Desk) -> None:
    """Wait on the desk, which renews itself, until every symbol has a position and no alert is active; one may be ending."""
    expect(front.page.get_by_text(re.compile("^none active"))).to_be_visible(timeout=CALM_MS)
    expect(front.page.get_by_text("3 with a position", exact=True)).to_be_visible(timeout=CALM_MS)


if __name__ == "__main__":
    main()
