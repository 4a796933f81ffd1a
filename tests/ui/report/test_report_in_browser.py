"""A real browser runs no script that is planted in answers."""

from __future__ import annotations

import shutil
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from llmcausal.ui.report import RunFiles, write_report

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.skipif(BROWSER is None, reason="no Chromium"),
]


@pytest.fixture
def calls() -> Iterator[tuple[str, list[str]]]:
    """A local server and the paths of its requests."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    server.server_close()


def payloads(url: str) -> list[str]:
    """Each calls home in another way, and names the way."""
    call = f"new Image().src='{url}/NAME'"
    texts = [
        "<script>" + call + "</script>",
        "</script><script>" + call + "</script>",
        "</pre></style></title></textarea></template><script>" + call + "</script>",
        f"<img src='{url}/NAME'>",
        '<img src=x onerror="' + call + '">',
        '<svg onload="' + call + '">',
        f"<iframe src='{url}/NAME'></iframe>",
        f"<iframe src=\"javascript:void((top.i=new top.Image()).src='{url}/NAME')\"></iframe>",
        '<body onload="' + call + '">',
        '"><input autofocus onfocus="' + call + '">',
        '<details open ontoggle="' + call + '">',
        f"<link rel=stylesheet href='{url}/NAME'>",
        f"<style>@import '{url}/NAME';</style>",
        f"<meta http-equiv=refresh content='0;url={url}/NAME'>",
        f"<object data='{url}/NAME'></object>",
        f"<div style=\"background:url('{url}/NAME')\">x</div>",
    ]
    return [text.replace("NAME", f"way-{number}") for number, text in enumerate(texts)]


def open_in_browser(page: Path, tmp_path: Path) -> str:
    done = subprocess.run(
        [
            *(str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"),
            "--virtual-time-budget=4000",
            f"--screenshot={tmp_path / 'page.png'}",  # waits for the first frame
            f"--user-data-dir={tmp_path / 'profile'}",
            page.as_uri(),
        ],
        capture_output=True,
        check=True,
        timeout=120,
    )
    return done.stdout.decode("utf-8", "replace")


def test_nothing_that_is_planted_in_an_answer_runs_or_loads(
    calls: tuple[str, list[str]], result: dict[str, Any], tmp_path: Path
) -> None:
    url, asked = calls
    planted = payloads(url)
    rows = result["generations"]
    assert len(rows) >= 4
    for place, row in enumerate(rows):
        some = "\n".join(planted[place % 4 :: 4])  # short, so that the page does not cut it
        row.update(answer=some, base_answer=some, prompt=some)
    run = RunFiles(
        result, notes=planted, config_text=planted[2],
        metrics_rows=[{"step": 1, planted[0]: 1.0, "loss": 1.0}],
    )  # fmt: skip
    page = write_report(run, tmp_path / "report.html", title=planted[2])
    dom = open_in_browser(page, tmp_path)
    assert asked == []
    for text in planted:
        named = text.partition("/way-")[2].partition("'")[0]
        assert f"/way-{named}" in dom  # it is there to be read


def test_the_planted_texts_are_live_ones(calls: tuple[str, list[str]], tmp_path: Path) -> None:
    url, asked = calls
    for number, text in enumerate(payloads(url)):
        page = tmp_path / f"{number}.html"
        page.write_text(f"<!doctype html><title>x</title><pre>{text}</pre>", "utf-8")
        asked.clear()
        open_in_browser(page, tmp_path)
        assert any(f"way-{number}" in path for path in asked), text
