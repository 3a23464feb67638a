"""The page in a browser, on a desktop's and on a phone's width; skipped where there is none."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from report.report_example import example
from tskd_ray.report.html import render

NAMES = ("chromium", "chromium-browser", "google-chrome")
BROWSER = next(filter(None, map(shutil.which, NAMES)), "")
OPTIONS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--enable-logging=stderr", "--window-size=1700,1000", "--dump-dom",
)  # fmt: skip
WIDTHS = (1200, 390)

pytestmark = pytest.mark.skipif(not BROWSER, reason="no chromium on this machine")

DRIVER = """
const seen = {};
for (const frame of document.querySelectorAll("iframe")) {
  const page = frame.contentDocument, view = frame.contentWindow;
  const find = (id) => page.getElementById(id);
  const told = () => find("walk-where").textContent;
  const key = (name, more) => find("walk-viewer").dispatchEvent(
    new view.KeyboardEvent("keydown", { key: name, bubbles: true, ...more }));
  const after = (act) => { act(); return told(); };
  const slide = (value) => {
    find("walk-step").value = value;
    find("walk-step").dispatchEvent(new view.Event("input"));
  };
  const choose = (value) => {
    find("walk-choice").value = value;
    find("walk-choice").dispatchEvent(new view.Event("change"));
  };
  const point = (across) => {
    const box = find("walk-lines").getBoundingClientRect();
    find("walk-lines").dispatchEvent(new view.PointerEvent("pointermove",
      { clientX: box.left + box.width * across / 360, buttons: 1 }));
  };
  const drawn = (svg) => {
    const box = svg.getBBox();
    return [svg.getBoundingClientRect().width > 150, box.width > 100, box.height > 20];
  };
  seen[frame.width] = {
    first: told(),
    live: [find("walk-viewer").hidden, find("walk-still").hidden],
    choices: [...find("walk-choice").options].map((option) => option.textContent),
    right: after(() => key("ArrowRight")),
    far: after(() => key("ArrowRight", { shiftKey: true })),
    left: after(() => key("ArrowLeft")),
    next: after(() => key("PageDown")),
    button: after(() => find("walk-on").click()),
    end: after(() => key("PageDown")),
    back: after(() => find("walk-back").click()),
    pointed: after(() => point(44 + 308 * 60 / 120)),
    slid: after(() => slide(119)),
    spoken: find("walk-step").getAttribute("aria-valuetext"),
    home: after(() => key("Home")),
    other: after(() => choose(1)),
    last: after(() => key("PageDown")),
    overflow: page.documentElement.scrollWidth - view.innerWidth,
    smallest: Math.min(...[...page.querySelectorAll("#walk-viewer text")].map(
      (text) => text.getBoundingClientRect().height)),
    plots: [...page.querySelectorAll("svg")]
      .filter((svg) => svg.checkVisibility()).map(drawn),
    pictures: [...page.querySelectorAll("figure")].length,
  };
}
const result = document.createElement("pre");
result.id = "seen";
result.textContent = JSON.stringify(seen);
document.body.replaceChildren(result);
"""


def browse(folder: Path, *pages: str) -> tuple[str, list[str]]:
    """The document after its scripts ran, and what the console said."""
    path = folder / "driver.html"
    frames = "".join(
        f'<iframe width="{width}" height="900" srcdoc="{html.escape(page)}"></iframe>'
        for width in WIDTHS
        for page in pages
    )
    driver = f'addEventListener("load", () => {{ {DRIVER} }});'
    path.write_text(f"<body>{frames}<script>{driver}</script></body>", encoding="utf-8")
    command = [BROWSER, *OPTIONS, f"--user-data-dir={folder / 'profile'}", path.as_uri()]
    done = subprocess.run(
        command,
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
        stdin=subprocess.DEVNULL,
    )
    said = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return done.stdout, said


@cache
def page() -> str:
    return render(example())


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    document, said = browse(tmp_path_factory.mktemp("browser"), page())
    assert said == []
    found = re.search(r'<pre id="seen">(.*?)</pre>', document, re.DOTALL)
    assert found, document[-2000:]
    return json.loads(html.unescape(found[1]))


@pytest.mark.parametrize("width", WIDTHS)
def test_the_viewer_steps_from_part_to_part(seen: dict[str, Any], width: int) -> None:
    told = seen[str(width)]
    assert told["live"] == [False, True]
    assert told["choices"] == [
        "no. 1 of 120: claims 360 instead of 2,310, 2 hops",
        "no. 12 of 120: claims 360 instead of 1,640, 1 hop",
    ]
    at = "step {} of {} episode {}. V {}, claimed so far {}."
    assert told["first"] == "Step 0 of 120: " + at.format(0, "recorded", 100, 100, 0)
    assert told["right"] == "Step 1 of 120: " + at.format(1, "recorded", 100, 102.9, 3)
    assert told["far"].startswith("Step 11 of 120: step 11 of recorded episode 100.")
    assert told["left"].startswith("Step 10 of 120:")
    assert told["next"].startswith("Step 39 of 120: step 39 of recorded episode 100.")
    assert told["next"].endswith(" Hops here to generated episode 101, step 5.")
    assert told["button"].startswith("Step 46 of 120: step 11 of generated episode 101.")
    assert told["button"].endswith(" Hops here to recorded episode 102, step 10.")
    assert told["end"].startswith("Step 120 of 120: the final state.")
    assert told["back"] == told["button"]
    assert told["pointed"].startswith("Step 60 of 120: step 23 of recorded episode 102.")
    assert told["slid"].startswith("Step 119 of 120: step 82 of recorded episode 102.")
    assert told["spoken"] == told["slid"]
    assert told["home"] == told["first"]
    assert told["other"].startswith("Step 0 of 120: step 0 of recorded episode 1200.")
    assert told["last"].endswith(" Hops here to the final state of another episode.")


@pytest.mark.parametrize("width", WIDTHS)
def test_every_plot_is_drawn_and_nothing_sticks_out(seen: dict[str, Any], width: int) -> None:
    told = seen[str(width)]
    assert told["overflow"] <= 0
    assert told["smallest"] > 8
    # Each figure has one drawing; the still one is hidden, the viewer has two.
    assert len(told["plots"]) == told["pictures"] - 1 + 2
    assert all(all(checks) for checks in told["plots"])


def test_a_script_that_is_not_ours_does_not_run(tmp_path: Path) -> None:
    broken = page().replace("  open(0);", "  open(1);")
    _, said = browse(tmp_path, broken)
    assert any("Content Security Policy" in line for line in said)
