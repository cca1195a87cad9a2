"""Rankers across packages: what has `scores(behaviors)`, and what `ranker_of` makes one of, is measured, written, sliced, compared and watched."""
import re
import zipfile

import numpy as np
import pytest

from newsrex_nb.core import InputError
from newsrex_nb.data import toy
from newsrex_nb.engine.rankers import NamedRanker
from newsrex_nb.evaluate import Ranker, evaluate, predict, ranker_of, scores
from newsrex_nb.evaluate.baselines import ClicksSoFar, baselines
from newsrex_nb.evaluate.bootstrap import Comparison
from newsrex_nb.evaluate.protocols import under_protocols
from newsrex_nb.evaluate.rankers import check_order, scores_of, top_articles
from newsrex_nb.evaluate.slices import slices
from newsrex_nb.experiments.comparison_tables import compare_scores, impression_metrics, slice_table
from newsrex_nb.experiments.compare_runs import comparison_report, ranker_scores
from newsrex_nb.experiments.runner import measure
from newsrex_nb.experiments.shares import shares
from newsrex_nb.viz.live import watch_evaluation


def newest(behaviors):
    "Whole numbers, in a list."
    return behaviors.candidates.tolist()


class Newest:
    "The same as an object."
    def scores(self, behaviors): return behaviors.candidates


@pytest.fixture(scope="module")
def data(): return toy(articles=200, users=50, impressions=200, valid=50, test=120)


@pytest.mark.parametrize("ranker", [newest, Newest()], ids=["function", "object"])
def test_every_use_of_scores(data, ranker, tmp_path):
    rows = data.test.candidates.astype(np.float32)
    expected = evaluate(rows, data)
    assert evaluate(ranker, data) == expected == measure(ranker_of(ranker, data), data)["model"]
    assert (predict(ranker, data, tmp_path / "p.zip") == rows).all() and (predict(ranker, data, tmp_path / "s.tsv") == rows).all()
    with zipfile.ZipFile(tmp_path / "p.zip") as z: assert len(z.read("prediction.txt").splitlines()) == 120
    assert evaluate(tmp_path / "s.tsv", data) == expected == evaluate(str(tmp_path / "p.zip"), data)
    assert check_order(ranker, data) == len(data.valid)
    assert watch_evaluation(ranker, data).so_far[-1] == pytest.approx(expected["auc"])
    assert under_protocols(scores_of({"mine": ranker}, data), data.test)["MIND's scorer (ours)"]["mine"]["mrr"] == pytest.approx(expected["mrr"])
    assert 0 <= shares(scores(ranker_of(ranker, data), data), data, data.test, draws=20)["explained"] < .5
    best, _ = top_articles(ranker, data, data.news.ids[[3, 4]].tolist(), k=1)[0]
    assert best == data.news.ids[-1]


def test_comparisons_and_slices(data):
    found = ranker_scores({"mine": newest, "popularity": ClicksSoFar(data)}, data, data.test)
    values = impression_metrics(found, data.test)
    assert compare_scores(found, data.test, draws=20)["auc"].means["mine"][0] == pytest.approx(evaluate(newest, data)["auc"])
    assert Comparison(values["auc"], data.test.user, draws=20).unknown == []
    cut = slices(data, data.test, ("user", "hour"))
    assert len(slice_table(values["auc"], data.test, cut, draws=20)) == 2 + sum(map(len, cut.values()))
    (title, overview), (_, gaps) = comparison_report(found, data, data.test, draws=20)[0]
    assert {row[0] for row in overview[1:]} == {"mine", "popularity"} and len(gaps) == 2


def test_the_protocol(data):
    for ranker in baselines(data).values(): assert isinstance(ranker, Ranker) and not isinstance(ranker, NamedRanker)
    assert isinstance(ranker_of("their.tsv", data), NamedRanker) and isinstance(ranker_of(newest, data), NamedRanker)


@pytest.mark.parametrize("scored, sentence", [
    (lambda b: b.candidates[1:], "one for each candidate in wrong, got"),
    (lambda b: [0.] * (len(b.candidates) - 1) + [float("nan")], "a finite score for every candidate in wrong, impression 119"),
    (lambda b: [0.] * (len(b.candidates) - 1) + [float("inf")], "1 that are NaN or infinite"),
    (lambda b: b.candidates[:, None], "in one flat array"),
    (lambda b: [[1.] * n for n in b.lengths], "got lists of several lengths"),
    (lambda b: b.candidates.astype(str), "as real numbers"),
    (lambda b: None, "got an object of NoneType"),
    (lambda b: dict(zip(b.candidates, b.candidates)), "got an object of dict")])
def test_what_is_wrong_is_said_in_one_sentence(data, tmp_path, scored, sentence):
    scored.__name__ = "wrong"
    for use in (lambda: evaluate(scored, data), lambda: predict(scored, data, tmp_path / "s.tsv"), lambda: scores_of({"": scored}, data)):
        with pytest.raises(InputError, match=re.escape(sentence)) as raised: use()
        assert str(raised.value).endswith(".") and "\n" not in str(raised.value)
    assert not [*tmp_path.iterdir()]


def test_a_wrong_order_is_found(data):
    with pytest.raises(InputError, match="wherever it stands"): check_order(lambda b: np.sort(b.candidates), data)
