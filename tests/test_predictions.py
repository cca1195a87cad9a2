"""Files of predictions: a scorer of its own agrees with ours, and the shell measures and checks any system's file."""
import dataclasses
import json
import re
import zipfile

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from newsrex_nb.evaluate.baselines import CategoryMatch
from newsrex_nb.cli import main
from newsrex_nb.core import InputError
from newsrex_nb.data import mind, toy
from newsrex_nb.data.schema import take
from newsrex_nb.evaluate import evaluate, predict
from newsrex_nb.evaluate.predictions import FileScores, check_predictions, read_scores, write_scores

WORLD = dict(articles=200, users=50, impressions=200, valid=50, test=60)
SHELL = [f"data.{name}={value}" for name, value in WORLD.items()]
NAMES = "auc", "mrr", "ndcg@5", "ndcg@10"


@pytest.fixture(scope="module")
def data(): return toy(**WORLD)


def gain(labels, order, k): return sum(labels[place] / np.log2(i + 2) for i, place in enumerate(order[:k]))


def official(archive, truth):
    "MIND's measures of a submission, impression by impression, as the rules of its leaderboard say."
    found = []
    with zipfile.ZipFile(archive) as z: lines = z.read("prediction.txt").decode().splitlines()
    for line, (name, labels) in zip(lines, truth, strict=True):
        impression, ranks = line.split()
        assert impression == name
        scores = np.array([1 / rank for rank in json.loads(ranks)])
        order, labels = np.argsort(scores, kind="stable")[::-1], np.array(labels)
        best = np.sort(labels)[::-1]
        found.append([roc_auc_score(labels, scores), sum(labels[p] / (i + 1) for i, p in enumerate(order)) / labels.sum(),
                      *(gain(labels, order, k) / gain(best, range(len(best)), k) for k in (5, 10))])
    return dict(zip(NAMES, np.mean(found, axis=0)))


@pytest.mark.parametrize("system", ["oracle", "ties"])
def test_a_scorer_of_its_own(data, tmp_path, system):
    path, system = tmp_path / "prediction.zip", data.oracle if system == "oracle" else CategoryMatch(data)
    predict(system, data, path)
    assert check_predictions(path, data.test) == 60
    truth = [(str(i), data.test.labels[a:b].tolist()) for i, a, b in zip(data.test.ids, data.test.offsets, data.test.offsets[1:])]
    expected, measured, own = official(path, truth), evaluate(FileScores(path, data), data), evaluate(system, data)
    for name in NAMES:
        assert abs(measured[name] - expected[name]) < 1e-12
        if system is data.oracle or name != "auc": assert abs(own[name] - expected[name]) < 1e-12


def test_articles_that_cannot_be_told_apart(data, tmp_path):
    "One article twice in an impression needs equal scores, in whatever order the rows are."
    test, path = take(data.test, slice(0, 5)), tmp_path / "scores.tsv"
    again = dataclasses.replace(test, candidates=np.concatenate([test.candidates, test.candidates[-1:]]), labels=None,
                                offsets=np.append(test.offsets[:-1], test.offsets[-1] + 1))
    scores = np.arange(len(again.candidates), dtype=np.float32)
    write_scores(path, data.news, again, scores)
    with pytest.raises(InputError, match="equal scores for one article"): read_scores(path, data.news, again)
    scores[-1] = scores[-2]
    write_scores(path, data.news, again, scores)
    pd.read_csv(path, sep="\t").sample(frac=1, random_state=1).to_csv(path, sep="\t", index=False)
    assert (read_scores(path, data.news, again) == scores).all()


def test_a_machine_without_pyarrow(data, tmp_path, monkeypatch):
    def absent(*args, **kwargs): raise ImportError("Unable to find a usable engine")
    monkeypatch.setattr(pd, "read_parquet", absent)
    monkeypatch.setattr(pd.DataFrame, "to_parquet", absent)
    for call in (lambda: predict(data.oracle, data, tmp_path / "s.parquet"), lambda: FileScores(tmp_path / "s.parquet", data).scores(data.test)):
        with pytest.raises(InputError, match="pip install pyarrow, or use a .tsv"): call()


@pytest.mark.parametrize("suffix", [".zip", ".parquet"])
def test_shell(data, tmp_path, monkeypatch, capsys, suffix):
    monkeypatch.chdir(tmp_path)
    predict(data.oracle, data, f"file{suffix}")
    assert main(["evaluate", f"predictions=file{suffix}", *SHELL]) == 0
    said = capsys.readouterr().out
    rows = {name: re.search(rf"^{re.escape(name)} +(.*)$", said, re.M)[1] for name in (f"file{suffix}", "oracle", "popularity")}
    assert rows[f"file{suffix}"] == rows["oracle"] != rows["popularity"] and "60 impressions" in said
    assert main(["evaluate", f"predictions=file{suffix}", "split=valid", *SHELL]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_shell_without_labels(data, tmp_path, monkeypatch, capsys):
    "A label-less test file of MIND's form: nothing to measure, but to check."
    monkeypatch.chdir(tmp_path)
    data.write_mind(tmp_path / "mind", unlabelled=True)
    files = ["data=mind", "data.path=mind/test", "data.cache=false"]
    unlabelled = mind(path="mind/test", cache=False)
    assert unlabelled.test.labels is None
    predict(CategoryMatch(unlabelled), unlabelled, "prediction.zip")
    assert main(["evaluate", "predictions=prediction.zip", *files]) == 0
    assert "60 impressions" in capsys.readouterr().out
    predict(CategoryMatch(unlabelled), unlabelled, "scores.tsv")
    assert main(["evaluate", "predictions=scores.tsv", *files]) == 2
    assert "labelled impressions" in capsys.readouterr().err
