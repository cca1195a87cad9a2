"""Cells of tutorials that no test of notebooks runs, since they read data that may not be handed on: here a made-up folder stands in."""
import json
import re
from pathlib import Path

import numpy as np

from newsrex_nb.data import toy

TUTORIALS = Path(__file__).parents[1] / "nbs/tutorials"


def code_of(name):
    "{cell id: code} of a tutorial."
    cells = json.loads((TUTORIALS / f"{name}.ipynb").read_text(encoding="utf-8"))["cells"]
    return {c["id"]: "".join(c["source"]) for c in cells if c["cell_type"] == "code"}


def test_quickstart_on_real_headlines(tmp_path, monkeypatch):
    "Its second half, with a folder in MIND's format and a smaller model."
    monkeypatch.setenv("NEWSREX_CACHE", str(tmp_path / "cache"))
    world = toy(articles=80, topics=4, subtopics=2, days=3, users=30, impressions=60, valid=12, test=30, history=(4, .8, 1, 6), daily=1)
    folder, cells, names = world.write_mind(tmp_path / "MIND"), code_of("01_quickstart"), {}
    exec(cells["imports"], names)
    NRMS = names["NRMS"]
    names |= dict(runs=tmp_path / "runs", NRMS=lambda sizes, **given: NRMS(sizes, **given | dict(
        num_heads=2, head_dim=4, query_dim=4, word_dim=8, title_length=4, history_length=4)))
    unrun = {name: text for name, text in cells.items() if re.match(r"#\|\s*download\n", text)}
    assert "folder = \"\"\n" in unrun["real-data"]
    unrun["real-data"] = unrun["real-data"].replace("folder = \"\"\n", f"folder = {str(folder)!r}\n")
    for name, text in unrun.items(): exec(compile(text, name, "exec"), names)
    assert names["real"].name == "MIND" and {"NRMS", "random", "popularity", "category match"} == set(names["measured"])
    assert all(np.isfinite(m["auc"]) and m["impressions"] == len(world.test) for m in names["measured"].values())
    assert (tmp_path / "runs/nrms-mind/model.safetensors").exists()
