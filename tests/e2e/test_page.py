"""The live page in a real Chromium: every panel, every state, for an hour, and nothing from anywhere else."""

import base64
import io
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from streamrecon.monitor import forward as forward_module
from streamrecon.monitor import server as server_module
from streamrecon.page import hub as hub_module
from tests.e2e.browser import browser, foreign, has_browser
from tests.scripted_session import ScriptedSession, status_at

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not has_browser(), reason="needs chromium and chromedriver (Debian: chromium chromium-driver)"),
]
SHOWN = "return document.getElementById('viewer').dataset.shown || ''"
PAINTED_CHARTS = {"fsc", "resolution", "ess", "evidence", "noise", "defocus"}


@pytest.fixture(scope="module")
def chromium():
    with browser() as opened:
        yield opened


@pytest.fixture
def session(tmp_path, chromium):
    chromium.open("about:blank")
    chromium.asked(), chromium.complaints()
    chromium.resize(1440, 1000)
    chromium.dark(False)
    with ScriptedSession(tmp_path) as scripted:
        yield scripted


@pytest.fixture(scope="module")
def shots(request):
    folder = request.config.getoption("--screenshots")
    return None if folder is None else Path(folder)


def shoot(chromium, shots, name, *, whole=False):
    if shots is not None:
        shots.mkdir(parents=True, exist_ok=True)
        time.sleep(1.5)  # for the picture alone: animations end
        chromium.screenshot(shots / f"{name}.webp", whole=whole)


def kind(chromium):
    return chromium.run("return document.getElementById('state').dataset.kind")


def shows(chromium, selector, text):
    """Wait until an element's text holds another: what came together may be shown one after the other."""
    chromium.wait(lambda: text in chromium.text(selector), about=f"{selector} never said {text!r}")


def scene(chromium):
    """Return the pixels of the 3D view (height, width, 3)."""
    frame = chromium.driver.find_element(By.ID, "viewer")
    chromium.run("arguments[0].scrollIntoView({block: 'center'})", frame)
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(frame.screenshot_as_base64))).convert("RGB")).astype(int)


def surface_share(chromium):
    """Return the share of the 3D view that the blue surface covers."""
    picture = scene(chromium)
    return float((picture[..., 2] - picture[..., 0] > 30).mean())


def full_session(session, particles=6200):
    session.publisher.publish_event("contrast", "particles are taken as protein_white", contrast="protein_white")
    session.ramp(particles, step=200)
    session.publisher.publish_event("stage", "the reconstruction is refining", particles_seen=5000)
    session.tell_ledger(particles + 200, particles)
    session.assess(particles)


BOX_OF_SYMMETRY = """
const range = document.createRange();
range.selectNodeContents(document.getElementById('symmetry'));
const {left, right, bottom} = range.getBoundingClientRect();
return [left, right, bottom]"""
CUT_OFF = """
return [...document.querySelectorAll('.numbers dl > div')].filter(box => {
  const inside = box.getBoundingClientRect();
  const cut = line => line.scrollWidth > line.clientWidth || line.getBoundingClientRect().bottom > inside.bottom;
  return [...box.children].some(cut);
}).map(box => box.textContent)"""
PAINTED = """
return [...document.querySelectorAll('.chart canvas')].map(canvas => {
  const {data} = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
  const colors = new Set();
  for (let i = 0; i < data.length; i += 4) {
    if (data[i + 3] > 200) colors.add(data[i] << 16 | data[i + 1] << 8 | data[i + 2]);
  }
  return [canvas.closest('.chart').id, colors.size];
})"""


def test_every_panel_shows_data_and_nothing_moves_or_comes_from_elsewhere(chromium, session, shots):
    chromium.open(session.url)
    chromium.wait(lambda: kind(chromium) == "waiting")
    chromium.run(
        "window.shifts = 0; new PerformanceObserver(list => list.getEntries().forEach(e => window.shifts += e.value))"
        ".observe({type: 'layout-shift', buffered: true})"
    )
    assert chromium.run("return document.querySelectorAll('.panel.has-data').length") == 0
    session.tell_ledger(0, 0)
    chromium.wait(lambda: chromium.text("#n-in") == "0")
    shoot(chromium, shots, "waiting")
    full_session(session)
    session.tell_ledger(6400, 6200, bad=True)
    chromium.wait(lambda: chromium.run(SHOWN), about="no map in 3D")
    chromium.wait(lambda: chromium.text("#n-quarantine") == "3")
    missing = "return [...document.querySelectorAll('.panel:not(.has-data):not(.map)')].map(p => p.textContent)"
    assert chromium.wait(lambda: chromium.run(missing) == [], about="a panel stays empty")

    # the number of colours of each
    painted = lambda: dict(chromium.run(PAINTED))  # noqa: E731
    chromium.wait(lambda: (p := painted()).keys() == PAINTED_CHARTS and min(p.values()) > 3, about="an empty chart")
    for picture, width in (("slices", 200), ("projections", 200), ("angular", 720)):
        chromium.wait(lambda p=picture: chromium.run(f"return document.getElementById('{p}').complete"))
        chromium.wait(
            lambda p=picture, w=width: chromium.run(f"return document.getElementById('{p}').naturalWidth") == w
        )
    chromium.wait(lambda: surface_share(chromium) > 0.02, about="no surface")

    numbers = lambda: {name: chromium.text(f"#n-{name}") for name in ("in", "folded", "lag", "rate", "resolution")}  # noqa: E731
    status = status_at(6200)
    expected = {
        "in": "6,400",
        "folded": "6,200",
        "lag": "2.4 s",
        "rate": f"{status.images_per_second:.0f}",
        "resolution": f"{status.resolution_angstrom:.1f} Å",
    }
    chromium.wait(lambda: numbers() == expected, about=f"never {expected}")
    chromium.wait(lambda: kind(chromium) == "refining")
    shows(chromium, "#resolution-about", "8.0 Å at")
    shows(chromium, "#angular-about", "efficiency 0.71")
    shows(chromium, "#optics", "opticsGroup2")
    shows(chromium, "#quarantine", "the header says 50 sections")
    shows(chromium, "#quarantine", "no STAR or .cs file names it")
    shows(chromium, "#log", "the reconstruction is refining")
    chromium.wait(lambda: chromium.run("return document.querySelectorAll('#downloads a').length") == 6)
    assert chromium.run("return document.getElementById('class-label').hidden"), "there is one class"
    # a reason with markup in it is text
    assert "<b>here</b>" in chromium.text("#quarantine")

    assert chromium.run("return window.shifts") < 0.01
    assert chromium.run("return performance.getEntriesByName('first-contentful-paint').length") == 1
    assert foreign(chromium.asked(), session.url) == []
    assert chromium.complaints() == []
    shoot(chromium, shots, "quarantine", whole=True)


def test_the_symmetry_stands_beside_the_map_and_what_needs_a_look_stands_out(chromium, session, shots):
    chromium.open(session.url)
    session.publish(6200)
    chromium.wait(lambda: chromium.text("#symmetry") == "no symmetry imposed")
    colour = "return getComputedStyle(document.getElementById('symmetry')).color"
    quiet = chromium.run(colour)
    seen = {"symmetry": "C3", "symmetry_reason": "its copies hold 0.91"}
    for changes, words, stands_out in (
        (seen, "C3 imposed", False),
        ({**seen, "symmetry_contradicted": True}, "C3 imposed, contradicted by the images", True),
        ({"symmetry_taken_back": "C3", "symmetry_reason": "it gains 18.1 nats"}, "C3 taken back", True),
    ):
        session.publisher.publish_status(status_at(6300, **changes))
        chromium.wait(lambda expected=words: chromium.text("#symmetry") == expected, about=words)
        assert chromium.run("return document.getElementById('symmetry').title") == changes["symmetry_reason"]
        assert (chromium.run(colour) != quiet) == stands_out
        for width in (1440, 390):
            chromium.resize(width, 900, phone=width < 500)
            # as it is read, nothing of it cut off
            left, right, bottom = chromium.run(BOX_OF_SYMMETRY)
            panel = chromium.run("return document.querySelector('.panel.map').getBoundingClientRect().right")
            top = chromium.run("return document.getElementById('which').getBoundingClientRect().top")
            assert 0 <= left < right <= panel, (words, width)
            assert bottom <= top, (words, width)
        chromium.resize(1440, 1000)
    shoot(chromium, shots, "taken_back")
    assert chromium.complaints() == []


def test_map_halves_level_and_theme_are_chosen(chromium, session, shots):
    chromium.open(session.url)
    full_session(session)
    chromium.wait(lambda: chromium.run(SHOWN).startswith("full/"))
    shoot(chromium, shots, "refining", whole=True)
    before = chromium.wait(lambda: (share := surface_share(chromium)) > 0.02 and share)

    slider = chromium.driver.find_element(By.ID, "level")
    slider.send_keys(Keys.END)  # the keyboard is enough
    assert chromium.text("#level-value") == "8.0 σ"
    chromium.wait(lambda: surface_share(chromium) < 0.8 * before, about="the surface did not shrink")
    slider.send_keys(Keys.HOME)
    chromium.wait(lambda: surface_share(chromium) > before, about="the surface did not grow")

    chromium.driver.find_element(By.CSS_SELECTOR, "input[value=half_b]").click()
    chromium.wait(lambda: chromium.run(SHOWN).startswith("half_b/"))
    chromium.wait(lambda: "half b" in chromium.run("return document.getElementById('slices').alt"))
    chromium.wait(lambda: "/map/half_b/" in chromium.run("return document.getElementById('slices').src"))

    chromium.wait(lambda: scene(chromium)[3:9, 3:9].min() > 200, about="the 3D view is not light")
    chromium.driver.find_element(By.ID, "theme").click()
    chromium.wait(lambda: scene(chromium)[3:9, 3:9].max() < 60, about="the 3D view stays light")
    assert chromium.run("return getComputedStyle(document.body).color") == "rgb(228, 234, 240)"
    # as after the page's process was away while it loaded the view: the new view gets the same map
    chromium.run("const view = document.getElementById('viewer'); view.dataset.shown = ''; view.src = view.src")
    chromium.wait(lambda: chromium.run(SHOWN).startswith("half_b/"), about="the map is not shown again")
    if shots is not None:
        chromium.driver.find_element(By.CSS_SELECTOR, "input[value=full]").click()
        chromium.run("const l = document.getElementById('level'); l.value = 3; l.dispatchEvent(new Event('input'))")
        chromium.wait(lambda: chromium.run(SHOWN).startswith("full/"))
    shoot(chromium, shots, "dark", whole=True)
    chromium.driver.find_element(By.ID, "theme").click()
    assert chromium.complaints() == []


def test_what_did_not_come_is_asked_for_again(chromium, session, monkeypatch):
    """The page gives way to all others, and the supervisor waits for its answer only so long."""
    left = {"/static/viewer.js", "/library/molstar.js", "/map/full.mrc", "/map/full/slices.png"}

    def forward(handler, port):
        path = handler.path.split("?")[0]
        forward_module.forward(handler, None if path in left else port)
        left.discard(path)

    monkeypatch.setattr(server_module, "forward", forward)
    # a copy that the browser has kept would do
    chromium.driver.execute_cdp_cmd("Network.clearBrowserCache", {})
    chromium.open(session.url)
    session.publish(1200)
    chromium.wait(lambda: chromium.run(SHOWN))
    chromium.wait(lambda: chromium.run("return document.getElementById('slices').naturalWidth") == 200)
    assert not left
    assert [c for c in chromium.complaints() if "503" not in c and "MIME" not in c] == []


def test_a_phone_needs_no_sideways_scrolling_and_every_control_has_a_name(chromium, session, shots):
    chromium.resize(390, 844, phone=True)
    chromium.dark(True)
    chromium.run("try { localStorage.clear() } catch {}")
    chromium.open(session.url)
    chromium.run("localStorage.clear()")
    chromium.open(session.url)
    full_session(session)
    chromium.wait(lambda: chromium.run(SHOWN))
    assert chromium.run("return document.documentElement.scrollWidth") <= 390
    assert chromium.run("return document.documentElement.dataset.theme") == "dark"
    chromium.wait(lambda: "masked" in chromium.text("#n-resolution-sub"))
    assert chromium.run(CUT_OFF) == []
    shoot(chromium, shots, "phone")
    nodes = chromium.driver.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    named = {}
    for node in nodes:
        role = node.get("role", {}).get("value")
        if role in ("button", "radio", "slider", "link", "image", "img", "Iframe", "log", "table", "region", "status"):
            named.setdefault(role, []).append(node.get("name", {}).get("value", ""))
    assert {"button", "radio", "slider", "link"} <= set(named)
    for role in ("button", "radio", "slider", "link", "image"):
        assert all(named.get(role, ["x"])), (role, named[role])
    assert len(named["region"]) >= 13
    assert all(named["region"])
    live = "return document.getElementById('state').getAttribute('aria-live')"
    assert chromium.run(live) == "polite"


def test_it_says_so_when_the_daemon_is_gone_and_goes_on_when_it_is_back(chromium, session, shots):
    chromium.open(session.url)
    full_session(session)
    chromium.wait(lambda: chromium.text("#n-folded") == "6,200")
    if shots is not None:
        chromium.wait(lambda: chromium.run(SHOWN))
    session.stop_page()
    chromium.wait(lambda: chromium.text("#state-title") == "Connection lost")
    assert chromium.text("#n-folded") == "6,200", "what was heard stays"
    shoot(chromium, shots, "lost")
    # what is chosen now is shown later, and not asked of whoever answers first
    chromium.run("document.querySelector('input[name=which][value=half_a]').click()")
    session.publisher.close("stopped")
    session.start_page()
    chromium.wait(lambda: kind(chromium) != "lost")
    session.start_worker()
    session.publish(6300)
    chromium.wait(lambda: chromium.text("#n-folded") == "6,300")
    chromium.wait(lambda: kind(chromium) == "refining")
    chromium.wait(lambda: "/map/half_a/" in chromium.run("return document.getElementById('slices').src"))
    chromium.wait(lambda: chromium.run("return document.getElementById('slices').complete"))
    # the page is a new one, at first without a map: the old map's pictures are not asked of it
    assert [c for c in chromium.complaints() if "404" in c] == []


def test_a_worker_that_stops_and_comes_back_and_one_that_finishes(chromium, session, shots):
    chromium.open(session.url)
    session.ramp(1200, step=200)
    session.tell_ledger(1300, 1200)
    chromium.wait(lambda: kind(chromium) == "searching")
    chromium.wait(lambda: chromium.run(SHOWN))
    shoot(chromium, shots, "searching", whole=True)
    session.publisher.close("stopped")
    chromium.wait(lambda: kind(chromium) == "stopped")
    session.start_worker()
    session.publish(1400)
    chromium.wait(lambda: chromium.text("#n-folded") == "1,400")
    chromium.wait(lambda: kind(chromium) == "searching")
    full_session(session)
    chromium.wait(lambda: chromium.text("#n-folded") == "6,200")
    session.tell_ledger(6200, 6200)
    session.publisher.close("drained")
    chromium.wait(lambda: kind(chromium) == "finished")
    shoot(chromium, shots, "finished")
    session.stop_page()
    chromium.wait(lambda: "The daemon has ended" in chromium.text("#state-text"))
    assert kind(chromium) == "finished"
    session.start_page()


HOUR = 1800  # status messages: an hour of a microscope's 50 particles a second, in batches of 100
UPDATES = HOUR // 2
MAPS_EVERY = 15


def test_memory_is_flat_over_half_an_hour_of_updates(chromium, session, monkeypatch):
    monkeypatch.setattr(hub_module, "PACE_SECONDS", 0.0)
    chromium.open(session.url)
    full_session(session, 2000)
    chromium.wait(lambda: chromium.run(SHOWN))
    sizes = []
    for number in range(1, UPDATES + 1):
        particles = 2000 + 100 * number
        session.publish(particles, maps=number % MAPS_EVERY == 0)
        if number % (2 * MAPS_EVERY) == 0:
            session.assess(particles)
            session.publisher.publish_event("note", f"event {number}")
        session.arrived(particles)
        if number % (UPDATES // 6) == 0:
            shown = f"{particles:,}"
            chromium.wait(lambda shown=shown: chromium.text("#n-folded") == shown)
            sizes.append((number, chromium.heap_bytes(), chromium.frame_heap_bytes("viewer")))
    numbers, *heaps = np.array(sizes, float).T
    for what, heap, most in (("page", heaps[0], 1.5e6), ("3D view", heaps[1], 15e6)):
        an_hour = HOUR * np.polyfit(numbers[1:], heap[1:], 1)[0]
        print(f"JavaScript heap of the {what}: {heap[-1] / 1e6:.1f} MB, {an_hour / 1e3:+.0f} kB an hour")
        assert an_hour < most, sizes
        assert heap[-1] < 100e6
    assert chromium.run("return document.querySelectorAll('#log tbody tr').length") <= 200
    assert chromium.complaints() == []
