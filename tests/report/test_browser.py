"""The page in a real browser: nothing complains, sticks out or overlaps; on a phone and a desk, in light and dark."""

import re
import sys
from pathlib import Path

import pytest

from edgel0.report.writing import render
from report.runs import HOSTILE, STORED, folder, result, samples

ROOT = Path(__file__).parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from benchmarks.browser import Browser, find  # noqa: E402 - they are no package that is installed

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(sys.platform == "win32", reason="Chromium is spoken to over pipes of a POSIX system"),
    pytest.mark.skipif(find() is None, reason="there is no Chromium here; install one, or name it in CHROMIUM"),
]

# What lies outside of its place: an element that leaves the window (what scrolls in itself may), a text that leaves its
# figure, two texts of one figure that overlap, letters too small to read.
PROBE = """(() => {
  const told = [], shown = e => e.getClientRects().length > 0, root = document.documentElement;
  if (root.scrollWidth > innerWidth) told.push(`the page is ${root.scrollWidth} wide`);
  for (const e of document.body.querySelectorAll('*')) {
    if (!shown(e) || e.closest('.scroll table') || e.tagName == 'CAPTION') continue;
    const box = e.getBoundingClientRect(), name = `${e.tagName} ${e.textContent.slice(0, 40)}`;
    if (box.left < -0.5 || box.right > root.clientWidth + 0.5) told.push(`${name} ends at ${box.right}`);
    const size = e.tagName == 'text' && parseFloat(getComputedStyle(e).fontSize) * e.getScreenCTM().a;
    if (size && size < 10) told.push(`${name} has letters of ${size} pixels`);
  }
  for (const svg of document.querySelectorAll('figure svg')) {
    if (!shown(svg)) continue;
    const place = svg.getBoundingClientRect();
    const boxes = [...svg.querySelectorAll('text')].map(e => [e.textContent, e.getBoundingClientRect()]);
    boxes.forEach(([words, b], n) => {
      const inside = b.left > place.left - 1 && b.right < place.right + 1 && b.top > place.top - 1;
      if (!inside || b.bottom > place.bottom + 1) told.push(`${words} leaves its figure`);
      for (const [other, c] of boxes.slice(n + 1)) {
        const x = Math.min(b.right, c.right) - Math.max(b.left, c.left);
        const y = Math.min(b.bottom, c.bottom) - Math.max(b.top, c.top);
        if (x > 1 && y > 4) told.push(`${words} lies over ${other}`);
      }
    });
  }
  return told;
})()"""


@pytest.fixture(scope="module")
def browser():
    with Browser(find()) as found:
        yield found


def many(tmp_path):
    found = result(name="backbone-" * 20)
    groups = {f"blocks.{n // 8}.{n % 8}.conv_with_a_rather_long_name": [n % 9, 8 * n + 9] for n in range(160)}
    found["mask"]["groups"] = groups
    found["budget"] = {
        f"macs of {name}": {"limit": 100.0, "slim": 50.0 + 10 * n} for n, name in enumerate([*groups][:9])
    }
    found["budget"]["weight_bytes"] = {"limit": 1e6, "slim": 2e7, "dense": 4e7}
    for row in found["history"][1:]:
        row["cost"] = dict.fromkeys(found["budget"], 5.0)
        row["target"] = dict.fromkeys(found["budget"], 6000000.0)
    for which in ("dense", "slim"):
        found[which]["layers"] = [
            {"name": name, "kind": "conv2d", "macs": 10 ** (n % 15)} for n, name in enumerate([*groups][:30])
        ]
    return folder(tmp_path / "many", found, samples(found))


def hostile(tmp_path):
    found = result(name=HOSTILE * 3)
    found["mask"]["groups"] = {f"{HOSTILE}{n}": [n, 9] for n in range(9)} | {"畳み込み" * 9: [1, 2], "": [0, 3]}
    found["versions"] = {HOSTILE: "W" * 300}
    found["profile"]["board"] = "W" * 120
    found["budget"] = {HOSTILE: {"limit": 1, "slim": 2}, "i" * 300: {"limit": 2**60, "slim": 1}}
    found["slim"]["latency_ms"]["onnxruntime"]["notes"] = [HOSTILE]
    for which in ("dense", "slim"):
        found[which]["files"] = {f"{which}{'.onnx' * 30}": 3}
    return folder(tmp_path / "hostile", found)


def few(tmp_path):
    found = result(accuracy=0.98, macs=1_000_000, p50=2.0)
    found["history"] = found["history"][1:2]
    return folder(tmp_path / "few", found)


def crowd(tmp_path):
    """Runs that lie as good as on one another, and many of them."""
    rows = [(f"run-{n}", 0.97 + 0.0004 * (n % 5), 100_000 + 700 * n) for n in range(14)]
    return [folder(tmp_path / name, result(name, accuracy, macs)) for name, accuracy, macs in rows]


PAGES = {
    "the stored run": lambda place: [STORED],
    "many groups": lambda place: [many(place)],
    "hostile names": lambda place: [hostile(place)],
    "few figures": lambda place: [few(place)],
    "a comparison": lambda place: [folder(place / "a", result()), few(place), folder(place / "b", result("b", 0.9, 2))],
    "a crowd": crowd,
    "a hostile comparison": lambda place: [hostile(place), hostile(place), STORED],
}


@pytest.mark.parametrize("name", PAGES)
def test_nothing_complains_or_sticks_out(browser, tmp_path, name):
    page = tmp_path / "report.html"
    page.write_text(render(PAGES[name](tmp_path))["--output"], encoding="utf-8")
    for width, scheme in (
        (390, "light"),
        (390, "dark"),
        (1440, "light"),
        (1440, "dark"),
        (320, "light"),
        (900, "light"),
    ):
        browser.open(page, width, scheme=scheme)
        assert browser.run("document.querySelectorAll('h1').length") == 1
        where = f"{name}, {width} pixels, {scheme}"
        if width > 320:
            assert browser.run(PROBE) == [], where
        assert browser.run("document.documentElement.scrollWidth <= innerWidth"), where
        browser.run("document.querySelectorAll('details').forEach(e => e.open = true)")
        assert browser.run("document.documentElement.scrollWidth <= innerWidth"), f"{where}, all tables open"
        assert browser.messages == [], where
        assert browser.requests == [page.as_uri()], where


@pytest.mark.parametrize("name", ["the stored run", "many groups", "a comparison"])
def test_it_prints(browser, tmp_path, name):
    page = tmp_path / "report.html"
    page.write_text(render(PAGES[name](tmp_path))["--output"], encoding="utf-8")
    browser.open(page, 1440, scheme="dark")
    made = browser.pdf()
    assert made.startswith(b"%PDF-") and made.rstrip().endswith(b"%%EOF")
    assert 2 <= len(re.findall(rb"/Type\s*/Page\b", made)) <= 12


def test_the_schemes_differ_and_the_keyboard_is_seen(browser, tmp_path):
    page = tmp_path / "report.html"
    page.write_text(render([STORED])["--output"], encoding="utf-8")
    colors = {}
    for scheme in ("light", "dark"):
        browser.open(page, 1440, scheme=scheme)
        colors[scheme] = browser.run("getComputedStyle(document.body).backgroundColor")
        for kind in ("rawKeyDown", "keyUp"):
            browser.ask("Input.dispatchKeyEvent", type=kind, key="Tab", code="Tab", windowsVirtualKeyCode=9)
        seen = browser.run("(e => [e.tagName, getComputedStyle(e).outlineStyle])(document.activeElement)")
        assert seen == ["SUMMARY", "solid"]
    assert colors == {"light": "rgb(255, 255, 255)", "dark": "rgb(20, 23, 26)"}


def test_a_browser_that_complains_is_heard(browser, tmp_path):
    page = tmp_path / "bad.html"
    page.write_text("<p style='width:3000px'>x</p><script>console.error('no');fetch('http://127.0.0.1:9/')</script>")
    browser.open(page, 390)
    assert browser.run(PROBE) and browser.messages and len(browser.requests) == 2


def test_the_pictures_of_the_readme_can_be_made(tmp_path):
    from benchmarks.screenshots import PICTURES, pictures, size

    made = pictures(tmp_path, find())
    assert [path.name for path in made] == ["report.png", "terminal.png"]
    for path in made:
        content, kept = path.read_bytes(), (PICTURES / path.name).read_bytes()
        assert content.startswith(b"\x89PNG") and 20_000 < len(content) < 200_000 and len(kept) < 200_000
        assert abs(size(content)[0] - size(kept)[0]) < 200  # letters differ between machines
