"""JupyterLab as somebody meets it who opens the tutorials: a page through a Jupyter kernel, and the pages in a browser."""
import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
ROOT = Path(__file__).parents[1]
TUTORIALS = ROOT / "nbs/tutorials"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = ("--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
         "--disable-component-update --disable-sync --disable-dev-shm-usage").split()


def title(page): return re.match(r"# (.+)", nbformat.read(TUTORIALS / page, 4).cells[0].source)[1]


def test_tutorial_runs_through_a_kernel(tmp_path, monkeypatch):
    "From another folder, as a reader has it, and without what nbdev does when it tests a notebook."
    monkeypatch.delenv("MPLBACKEND", raising=False)  # so that the kernel shows pictures
    page = "14_data_privacy_limits.ipynb"
    notebook = nbformat.read(TUTORIALS / page, 4)
    done = nbclient.NotebookClient(notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}).execute()
    stored = nbformat.read(TUTORIALS / page, 4)
    kinds = lambda nb: [{out.output_type for out in cell.outputs if out.get("name") != "stderr"} for cell in nb.cells if cell.cell_type == "code"]
    assert any(kinds(done)) and kinds(done) == kinds(stored), "the page gives what it shows"
    assert all(cell.execution_count for cell in done.cells if cell.cell_type == "code")


@contextlib.contextmanager
def started(*command, **more):
    "A process that ends with the test, and whatever it has started."
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True, **more)
    try: yield process
    finally:
        with contextlib.suppress(ProcessLookupError): os.killpg(process.pid, 15)
        try: process.wait(20)
        except subprocess.TimeoutExpired: os.killpg(process.pid, 9)


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def fetched(url, seconds=60):
    "JSON of a server that may still be starting."
    end = time.monotonic() + seconds
    while True:
        try:
            with urllib.request.urlopen(url, timeout=10) as answer: return json.load(answer)
        except OSError:
            if time.monotonic() > end: raise
            time.sleep(.2)


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    "The address of JupyterLab, serving a copy of the tutorials."
    pytest.importorskip("jupyterlab")
    folder = tmp_path_factory.mktemp("lab")
    shutil.copytree(TUTORIALS, folder / "tutorials", ignore=shutil.ignore_patterns(".*"))
    port = free_port()
    env = {**os.environ, **{f"JUPYTER_{kind}_DIR": str(folder / kind) for kind in ("CONFIG", "DATA", "RUNTIME")},
           "JUPYTERLAB_WORKSPACES_DIR": str(folder / "workspaces"), "JUPYTERLAB_SETTINGS_DIR": str(folder / "settings")}
    with started(sys.executable, "-m", "jupyter", "lab", "--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={port}",
                 "--ServerApp.port_retries=0", "--IdentityProvider.token=", "--ServerApp.password=", f"--ServerApp.root_dir={folder}",
                 env=env, cwd=folder):
        assert fetched(f"http://127.0.0.1:{port}/api")["version"]
        yield f"http://127.0.0.1:{port}"


def says(socket_url, expression, wanted, seconds=60):
    "What a page of the browser answers to a line of JavaScript, once it contains what is wanted."
    from websocket import create_connection # of jupyter_server
    line, end, number, value = create_connection(socket_url, timeout=seconds, suppress_origin=True), time.monotonic() + seconds, 0, ""
    try:
        while wanted not in value and time.monotonic() < end:
            number += 1
            line.send(json.dumps(dict(id=number, method="Runtime.evaluate", params=dict(expression=expression, returnByValue=True))))
            while (answer := json.loads(line.recv())).get("id") != number: pass
            value = str(answer["result"]["result"].get("value", ""))
            if wanted not in value: time.sleep(.3)
        return value
    finally: line.close()


@pytest.mark.skipif(not CHROMIUM, reason="no Chromium")
@pytest.mark.parametrize("page", ["01_quickstart.ipynb"])
def test_lab_shows_a_tutorial(lab, tmp_path, page):
    "The notebook is opened and rendered: its title is a heading, its badge a picture, its code is there."
    port = free_port()
    with started(CHROMIUM, *FLAGS, f"--remote-debugging-port={port}", f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1400,2400",
                 f"{lab}/lab/tree/tutorials/{page}"):
        end = time.monotonic() + 60
        while not (pages := [p for p in fetched(f"http://127.0.0.1:{port}/json") if p["type"] == "page"]) and time.monotonic() < end: time.sleep(.2)
        heading = "[...document.querySelectorAll('.jp-Notebook .jp-RenderedMarkdown h1')].map(h => h.textContent).join('\\n')"
        assert title(page) in says(pages[0]["webSocketDebuggerUrl"], heading, title(page))
        body = says(pages[0]["webSocketDebuggerUrl"], "document.body.innerText", "import newsrex_nb")
        assert "import newsrex_nb" in body and "Open in Colab" not in body, "the badge is a picture"
