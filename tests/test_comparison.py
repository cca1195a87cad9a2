"""Runs side by side, from their folders: the shell compares what `newsrex train` has left, with score files and without."""
import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from newsrex_nb.cli import main
from newsrex_nb.core import InputError
from newsrex_nb.experiments.compare_runs import compare_runs, gather_scores
from newsrex_nb.engine.scoring import scores
from newsrex_nb.experiments.runs import reopen
from newsrex_nb.metrics import ranking_metrics

TINY = ["model.num_heads=2", "model.head_dim=4", "data.vectors=8", "model.query_dim=4", "model.title_length=8", "model.history_length=8",
        "recipe.epochs=1", "recipe.batch_size=64", "recipe.verbose=0", "data.articles=200", "data.users=50", "data.impressions=100",
        "data.valid=50", "data.test=60"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    "Two seeds of one model, one of another."
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("runs"))
        assert main(["train", *TINY, "seed=1,2", "folder=runs/a"]) == main(["train", *TINY, "recipe.learning_rate=0.01", "folder=runs/b", "seed=1"]) == 0
        yield patch


def test_folders_without_scores_are_scored_again(runs):
    found, data, log = gather_scores(["runs/a/seed_1", "runs/a/seed_2", "runs/b"])
    assert [(name, [*of]) for name, of in found.items()] == [("NRMS recipe.learning_rate=0.002", [1, 2]), ("NRMS recipe.learning_rate=0.01", [1])]
    for folder, flat in zip(("runs/a/seed_1", "runs/a/seed_2", "runs/b"), (x for of in found.values() for x in of.values())):
        saved = json.loads(open(f"{folder}/test_results.json").read())["model"]["auc"]
        assert np.isclose(ranking_metrics(flat, log.labels, log.offsets)["auc"], saved)


def test_score_files_are_read_and_checked(runs):
    model, data, _ = reopen("runs/b")
    kept = dict(scores=-scores(model, data), labels=data.test.labels)
    save_file(kept, "runs/b/scores.safetensors")
    found, _, log = gather_scores(["runs/b"])
    assert (found["NRMS"][1] == kept["scores"]).all()
    save_file(kept | {"labels": 1 - kept["labels"]}, "runs/b/scores.safetensors")
    with pytest.raises(ValueError, match="got other labels"): gather_scores(["runs/b"])
    save_file({"scores": kept["scores"][1:]}, "runs/b/scores.safetensors")
    with pytest.raises(ValueError, match="got other scores"): gather_scores(["runs/b"])
    import os
    os.remove("runs/b/scores.safetensors")


def test_compare(runs, capsys):
    assert main(["compare", "runs", "baselines=true", "slices=true", "path=ranks.png", "csv=table.csv", "latex=table.tex", "draws=50"]) == 0
    said = capsys.readouterr().out
    rows = [*csv.reader(open("table.csv"))]
    assert [row[1] for row in rows if row[0].startswith("NRMS")] in (["2", "1"], ["1", "2"]) and len(rows) == 7
    assert "smallest that could be shown" in said and "| history |" in said and "population sd" in said
    assert re.search(r"not known and the interval is of users only: NRMS recipe.learning_rate=0.01\.", said)
    of = {row["seed"]: row for row in csv.DictReader(open("table.csv")) if row["seed"]}
    assert of["1 2"]["folder"] == "runs/a/seed_1 runs/a/seed_2" and of["1"]["recipe.learning_rate"] == "0.01"
    first, *others = csv.DictReader(open("table.csv"))
    assert first["difference"] == "" and all(row["difference"].startswith("-") for row in others)
    assert open("table.tex").read().count("\\begin{tabular}") == 3 and r"95 \% interval" in open("table.tex").read()
    assert open("ranks.png", "rb").read(4) == b"\x89PNG"


def test_a_ranker_of_ones_own_beside_runs(runs):
    "A function, and a file of another system, stand in the tables of runs."
    from newsrex_nb.evaluate import predict
    predict(lambda behaviors: -behaviors.candidates, reopen("runs/b")[1], "theirs.tsv")
    rankers = {"newest": lambda behaviors: behaviors.candidates, "oldest": "theirs.tsv"}
    said = compare_runs(["runs"], draws=50, slices=True, rankers=rankers)
    of = {row.split(" | ")[0]: row.split(" | ") for row in said.replace("| ", "", 1).split("\n| ")}
    assert float(of["newest"][2]) + float(of["oldest"][2]) == pytest.approx(1, abs=1e-4) and of["newest"][1] == ""
    listed = compare_runs(["runs"], "ild@5", draws=50, slices=True, baselines=True)
    assert re.search(r"Differences in ild@5", listed) and re.search(r"ild@5 by slice", listed)
    with pytest.raises(InputError, match="each impression has"): compare_runs(["runs"], "gini@5", draws=50)
    with pytest.raises(InputError, match="at least one run"): compare_runs([])


def test_table_and_protocols(runs, capsys):
    assert main(["table", "runs", "csv=runs.csv"]) == 0
    rows, said = [*csv.DictReader(open("runs.csv"))], capsys.readouterr().out
    assert [row["seed"] for row in rows] == ["1", "2", "1"] and [row["folder"] for row in rows] == ["runs/a/seed_1", "runs/a/seed_2", "runs/b"]
    assert re.findall(r"^\| NRMS recipe.learning_rate=(\S+) .*\| (\d) \| \d+ \|$", said, re.M) == [("0.002", "2"), ("0.01", "1")]
    assert float(rows[1]["auc_difference"]) == float(rows[1]["auc"]) - float(rows[0]["auc"])
    assert float(rows[2]["auc"]) == json.loads(open("runs/b/test_results.json").read())["model"]["auc"]
    assert main(["protocols", "runs/b"]) == 0
    said = capsys.readouterr().out
    assert f"{float(rows[2]['auc']):.4f} | {float(rows[2]['mrr']):.4f}" in said.split("MIND's scorer")[1].split("\n")[0]


@pytest.mark.filterwarnings("default")
def test_runs_that_were_stopped_or_edited(runs, capsys):
    path = Path("runs/b/experiment.json")
    about = json.loads(path.read_text())
    def told(damage, *words):
        path.write_text(json.dumps({**about, **damage}))
        return main([*words]), *capsys.readouterr()
    for words in (["table", "runs"], ["compare", "runs", "draws=5"]):
        status, out, err = told(dict(finished=None), *words)
        assert status == 0 and "\n| NRMS |" in out and err == "newsrex: Left out, since it was not finished: runs/b.\n"
    for words in (["table", "runs"], ["compare", "runs"], ["share", "runs/b", "folder=shared"], ["train", *TINY, "seed=1", "folder=runs/b"]):
        status, _, err = told(dict(config=None), *words)
        assert status == 2 and "a run: config with model, data" in err and err.count("\n") == 1
    told({}, "table", "runs")


@pytest.mark.parametrize("words, sentence", [
    (["compare"], "at least one path"), (["compare", "nowhere"], "a run, or a folder of runs"), (["compare", "x", "metrics=auc"], "'metrics'"),
    (["table", "nowhere"], "a run, or a folder of runs"), (["probe"], "model=…"), (["probe", "model=nrms", "results"], "write results=…"), (["probe", "model=nrm"], "nrm")])
def test_one_sentence(words, sentence, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    said = capsys.readouterr().err
    assert sentence in said and said.count("\n") == 1
