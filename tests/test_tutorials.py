"""Cells of tutorials that no test of notebooks runs, since they read data that may not be handed on: here a made-up folder stands in."""
import json
import re
import runpy
from pathlib import Path

import numpy as np
import matplotlib.pyplot as plt
import pytest

from newsrex_nb.data import toy

TUTORIALS = Path(__file__).parents[1] / "nbs/tutorials"


def code_of(name):
    "{cell id: code} of a tutorial."
    cells = json.loads((TUTORIALS / f"{name}.ipynb").read_text(encoding="utf-8"))["cells"]
    return {c["id"]: "".join(c["source"]) for c in cells if c["cell_type"] == "code"}


@pytest.mark.slow
def test_quickstart_on_real_headlines(tmp_path, monkeypatch, capsys):
    "What is to be copied from its end, with a folder in MIND's format and a smaller model."
    monkeypatch.setenv("NEWSREX_CACHE", str(tmp_path / "cache"))
    world = toy(articles=80, topics=4, subtopics=2, days=3, users=30, impressions=60, valid=12, test=30, history=(4, .8, 1, 6), daily=1)
    folder, names = world.write_mind(tmp_path / "MIND"), {}
    exec(code_of("01_quickstart")["imports"], names)
    NRMS = names["NRMS"]
    names |= dict(runs=tmp_path / "runs", NRMS=lambda sizes, **given: NRMS(sizes, **given | dict(
        num_heads=2, head_dim=4, query_dim=4, word_dim=8, title_length=4, history_length=4)))
    notebook = (TUTORIALS / "01_quickstart.ipynb").read_text(encoding="utf-8")
    pages = ["".join(cell["source"]) for cell in json.loads(notebook)["cells"] if cell["cell_type"] == "markdown"]
    [block] = re.findall(r"``` python\n(.*?)```", "\n".join(pages), re.S)
    assert "folder = \"\" " in block
    exec(compile(block.replace("folder = \"\" ", f"folder = {str(folder)!r} "), "copied", "exec"), names)
    [line] = re.findall(r"^{.*}$", capsys.readouterr().out, re.M)
    measured = eval(line)
    now = [name for name in measured if re.fullmatch(r"popular in the last \d+ h", name)]
    assert names["real"].name == "MIND" and len(now) == 1
    assert {"NRMS", "random", "popularity", "category match", *now} == {*measured}
    assert all(np.isfinite(auc) for auc in measured.values())
    assert (tmp_path / "runs/nrms-mind/model.safetensors").exists()


def test_example_of_the_landing_page():
    "Its cells on a small world, for an epoch; the numbers that it shows are made again once a week."
    cells, names = code_of("../index"), {}
    small = {"vectors=100": "vectors=100, articles=150, users=30, impressions=60, valid=20, test=20", "epochs=5": "epochs=1"}
    for name in ("example-imports", "example-train", "example-recommend"):
        text = cells[name]
        for written, wanted in small.items(): text = text.replace(written, wanted)
        exec(compile(text, name, "exec"), names)
    assert names["run"].best_epoch == 1 and len(names["data"].train) == 60


BADGES = runpy.run_path(str(TUTORIALS.parents[1] / ".ci/badges"))
OUTSIDE = {"results-files", "results-home"}  # one fetches what lies in results/ on Colab, the other looks where it is


def test_pages_for_colab_read_no_file_of_the_checkout():
    "Who opens a page there has the page and the installed package; results/ is looked for in one cell, which says where it is."
    homes = []
    for page in BADGES["pages"]():
        cells = {c["id"]: "".join(c["source"]) for c in json.loads(page.read_text(encoding="utf-8"))["cells"] if c["cell_type"] == "code"}
        assert not [name for name, text in cells.items() if name not in OUTSIDE and re.search(r"[\"'(\s]\.\./|newsrex_files", text)], page.name
        homes += [cells[name] for name in cells if name == "results-home"]
        assert "results-home" in cells or not OUTSIDE & {*cells}
    assert len(homes) == 5 and len({*homes}) == 1 and BADGES["settings"]()["git_url"] in homes[0], "one cell, word for word"


@pytest.mark.parametrize("name", ["05_compare_models", "15_ablations"])
def test_pages_of_results_run_where_there_are_none(name, tmp_path, monkeypatch, capsys):
    "In an empty folder, without a network: one sentence says what is missing, and nothing fails or draws an empty picture."
    monkeypatch.chdir(tmp_path)
    plt.close("all")  # what other tests have left open
    names = {}
    for id, text in code_of(name).items():
        if not re.search(r"^(!|#\| *eval: *false)", text, re.M): exec(compile(text, id, "exec"), names)
    printed = capsys.readouterr().out
    assert printed.count("newsrex_files") == 1 and "which is not here" in printed and printed.count("\n") == 1
    assert "plt" not in names or not names["plt"].get_fignums()
