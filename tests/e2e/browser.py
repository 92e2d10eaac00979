"""A real Chromium without a screen, driven over WebDriver; what it logs and asks for is kept."""

from __future__ import annotations

import base64
import io
import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import which
from typing import Any
from urllib.parse import urlsplit

from PIL import Image
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.remote.command import Command
from selenium.webdriver.support.ui import WebDriverWait

_FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    # on a busy machine nothing may be taken for hanging, or for out of sight and not worth the time
    "--disable-gpu-watchdog",
    "--disable-hang-monitor",
    "--disable-background-timer-throttling",
    "--disable-backgrounding-occluded-windows",
    "--disable-renderer-backgrounding",
    "--enable-unsafe-swiftshader",
    "--js-flags=--expose-gc",
    "--enable-precise-memory-info",
    "--force-device-scale-factor=1",
    "--hide-scrollbars",
)


def has_browser() -> bool:
    """Return whether Debian's Chromium and its driver are there."""
    return which("chromium") is not None and which("chromedriver") is not None


class Browser:
    """One browser with one tab.

    Attributes
    ----------
    driver : webdriver.Chrome
    """

    def __init__(self, driver: webdriver.Chrome) -> None:
        self.driver = driver
        driver.set_script_timeout(120)
        driver.execute_cdp_cmd("Performance.enable", {})

    def open(self, url: str) -> None:
        """Go to a page."""
        self.driver.get(url)

    def run(self, script: str, *arguments: object) -> Any:
        """Run a function body in the page and return its value."""
        return self.driver.execute_script(script, *arguments)

    def text(self, selector: str) -> str:
        """Return an element's text, shown or not."""
        return str(self.run("return document.querySelector(arguments[0]).textContent", selector))

    def wait(self, condition: Callable[[], object], seconds: float = 90.0, *, about: str = "") -> Any:
        """Wait until something is true and return it."""
        return WebDriverWait(self.driver, seconds, poll_frequency=0.05).until(lambda _: condition(), about)

    def resize(self, width: int, height: int, *, phone: bool = False) -> None:
        """Give the page so many CSS pixels."""
        self.driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": height, "deviceScaleFactor": 2 if phone else 1, "mobile": phone},
        )

    def dark(self, wanted: bool) -> None:
        """Say which colours the system prefers."""
        feature = {"name": "prefers-color-scheme", "value": "dark" if wanted else "light"}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})

    def heap_bytes(self) -> int:
        """Return the size of the page's JavaScript heap after garbage was collected."""
        self.driver.execute_cdp_cmd("HeapProfiler.enable", {})
        for _ in range(2):
            self.driver.execute_cdp_cmd("HeapProfiler.collectGarbage", {})
        metrics = self.driver.execute_cdp_cmd("Performance.getMetrics", {})["metrics"]
        return int(next(m["value"] for m in metrics if m["name"] == "JSHeapUsedSize"))

    def frame_heap_bytes(self, frame_id: str) -> int:
        """Return the same of a document in a frame, which may live in a process of its own."""
        self.driver.switch_to.frame(frame_id)
        try:
            return int(self.run("gc(); gc(); return performance.memory.usedJSHeapSize"))
        finally:
            self.driver.switch_to.default_content()

    def screenshot(self, path: Path, *, whole: bool = True) -> None:
        """Write what is seen, the whole page or the window, as a small picture in true colours (WebP)."""
        shot = self.driver.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": whole})
        Image.open(io.BytesIO(base64.b64decode(shot["data"]))).convert("RGB").save(path, quality=90, method=6)

    def complaints(self) -> list[str]:
        """Return what the console says of errors since the last call; the driver's remarks on slow GL are none."""
        entries = self._log("browser")
        return [e["message"] for e in entries if e["level"] == "SEVERE" or "GL Driver" not in e["message"]]

    def asked(self) -> list[str]:
        """Return the address of every request since the last call."""
        messages = [json.loads(entry["message"])["message"] for entry in self._log("performance")]
        return [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]

    def _log(self, kind: str) -> list[dict[str, Any]]:
        """Return a log's entries since the last call; selenium's own `get_log` has no types."""
        entries: list[dict[str, Any]] = self.driver.execute(Command.GET_LOG, {"type": kind})["value"]
        return entries


def foreign(urls: list[str], origin: str) -> list[str]:
    """Return the addresses that are not of a server; what a document carries in itself (data:, blob:) is no request."""
    return [u for u in urls if urlsplit(u).scheme not in ("data", "blob") and not u.startswith(origin)]


@contextmanager
def browser() -> Iterator[Browser]:
    """Start a browser with an empty profile; it is gone when we leave."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        options = webdriver.ChromeOptions()
        options.binary_location = which("chromium") or ""
        for flag in (*_FLAGS, f"--user-data-dir={profile}", "--window-size=1440,1000"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        driver = webdriver.Chrome(options=options, service=Service(which("chromedriver")))
        try:
            opened = Browser(driver)
            opened.open("about:blank")
            opened.asked()  # the browser's own first page
            yield opened
        finally:
            driver.quit()
