"""Metrics beyond accuracy: what evaluate and the shell say by name, on the toy world, and what they refuse."""
import dataclasses
import sys
import types

import numpy as np
import pytest

from newsrex_nb.cli import main
from newsrex_nb.core import METRICS, InputError
from newsrex_nb.data import toy
from newsrex_nb.data.schema import take
from newsrex_nb.data.sentiment import with_sentiment
from newsrex_nb.evaluate import evaluate, predict
from newsrex_nb.evaluate.baselines import CategoryMatch, ClicksSoFar, RandomScores
from newsrex_nb.evaluate.norms import NEEDS, NORMS, per_list
from newsrex_nb.metrics.lists import at_places, top_places
from newsrex_nb.metrics.overlap import rank_biased_overlap

WORLD = dict(articles=200, users=50, impressions=200, valid=50, test=60)
SHELL = [f"data.{name}={value}" for name, value in WORLD.items()]


@pytest.fixture
def data():
    "The toy world, its articles published an hour before they were first shown."
    world = toy(**WORLD)
    first = np.full(len(world.news), np.iinfo(np.int64).max)
    for log in world.splits.values(): np.minimum.at(first, log.candidates, np.repeat(log.time, log.lengths))
    world.news.published = np.where(first == first.max(), -1, first - 3600)
    return world


def names(k=5): return [f"{name}@{k}" for name in NORMS]


def test_evaluate_knows_every_name_and_asks_for_four(data):
    ranker = CategoryMatch(data)
    plain = evaluate(ranker, data)
    assert [*plain] == [*METRICS, "impressions", "one_class"] and evaluate(ranker, data, metrics=None) == plain
    asked = evaluate(ranker, data, metrics=[*METRICS, *names()])
    assert {name: asked[name] for name in plain} == plain
    assert all(np.isfinite(asked[name]) for name in names())


def test_rankers_differ_as_they_should(data):
    random, match, popular = [evaluate(of, data, metrics=names()) for of in (RandomScores(seed=0), CategoryMatch(data), ClicksSoFar(data))]
    for name in ("ild@5", "category_diversity@5", "calibration@5", "calibration_js@5", "calibration_ranked@5"): assert match[name] < random[name], name
    assert match["personalisation@5"] > random["personalisation@5"]
    assert popular["popularity_lift@5"] > .2 > abs(random["popularity_lift@5"]) and popular["novelty@5"] < random["novelty@5"]
    assert popular["gini@5"] > random["gini@5"] and popular["fragmentation@5"] < random["fragmentation@5"]


def test_no_labels_are_read(data):
    hidden = dataclasses.replace(data.test, labels=None)
    seen, unseen = [evaluate(CategoryMatch(data), data, log, names()) for log in (data.test, hidden)]
    assert {name: seen[name] for name in names()} == {name: unseen[name] for name in names()} and unseen["impressions"] == len(hidden)
    with pytest.raises(InputError, match="labelled impressions"): evaluate(CategoryMatch(data), data, hidden, ["auc", "ild@5"])
    with pytest.raises(InputError, match="labelled impressions"): evaluate(CategoryMatch(data), data, hidden, [])


def test_unknown_names_are_answered_with_all(data):
    for name in ("diversity@5", "ild", "ild@0", "gini@k", "auc@5", "rbo@10"):
        with pytest.raises(InputError) as refused: evaluate(RandomScores(), data, metrics=["auc", name])
        assert repr(name) in str(refused.value) and all(f"{known}@k" in str(refused.value) for known in (*NORMS, "ndcg"))
    with pytest.raises(InputError, match="names of metrics"): evaluate(RandomScores(), data, metrics=7)


@pytest.mark.parametrize("need", NEEDS)
def test_what_is_lacking_is_one_sentence_before_anything_is_scored(data, need):
    empty = dict(category=[""] * len(data.news), entities=[[]] * len(data.news), published=None, minority=np.full(len(data.news), -1),
                 sentiment=np.full(len(data.news), np.nan, np.float32), text=[""] * len(data.news))
    log = data.test
    if need == "history": log = dataclasses.replace(log, history=np.zeros_like(log.history))
    elif need == "click":
        log = dataclasses.replace(log, labels=None)
        data.train, data.valid, data.test = None, None, log
    elif need == "text": data.news.title = data.news.abstract = empty["text"]
    else: setattr(data.news, need, empty[need])

    def ranker(behaviors): raise AssertionError("scored")
    wanting = [name for name, (_, needs) in NORMS.items() if need in needs]
    assert wanting
    for name in wanting:
        with pytest.raises(InputError) as refused: evaluate(ranker, data, log, [f"{name}@5"])
        text = str(refused.value)
        assert NEEDS[need][0] in text and f"{name}@5" in text and NEEDS[need][1] in text and text.count(".") == 1


def test_an_impression_has_its_value_wherever_it_stands(data):
    few = take(data.test, [7, 3])
    scores = np.random.default_rng(0).normal(size=len(data.news))
    alone = [name for name in names() if name.split("@")[0] not in ("fragmentation", "gini", "coverage")]
    every, some = [per_list(data, log, scores[log.candidates], alone) for log in (data.test, few)]
    for name in alone: np.testing.assert_allclose(every[name][[7, 3]], some[name], rtol=1e-6, err_msg=name)


def test_two_rankers_overlap(data):
    log = data.test
    lists = [at_places(log.candidates, top_places(of.scores(log), log.offsets, 5), 0) for of in (RandomScores(seed=0), RandomScores(seed=1), CategoryMatch(data))]
    assert np.allclose(rank_biased_overlap(lists[2], lists[2]), 1)
    assert 0 < rank_biased_overlap(lists[0], lists[1]).mean() < 1


def test_the_shell_measures_what_it_is_asked_for(data, tmp_path, capsys):
    predict(CategoryMatch(data), data, tmp_path / "scores.tsv")
    line = ["evaluate", f"predictions={tmp_path / 'scores.tsv'}", "data=toy", *SHELL]
    assert not main([*line, "metrics=auc,ild@5,gini@5"])
    shown = capsys.readouterr().out
    assert all(word in shown for word in ("AUC", "ild@5", "gini@5", "random")) and "nDCG" not in shown
    assert f"{evaluate(CategoryMatch(data), data, metrics=['ild@5'])['ild@5']:.4f}" in shown
    assert main([*line, "metrics=[ild]"]) == 2 and "ild@k" in capsys.readouterr().err


def test_vader_rates_headlines(data):
    "The optional lexicon: glad and gloomy words have their signs, an empty title none."
    pytest.importorskip("vaderSentiment")
    titles = ["", "Mayor celebrates glorious opening", "Terrible fire kills two", ""]
    data.news.title[:4], data.news.sentiment = titles, None
    rated = with_sentiment(data)
    assert np.isnan(rated.news.sentiment[[0, 3]]).all() and rated.news.sentiment[1] > .5 and rated.news.sentiment[2] < -.5
    assert rated.notes["sentiment"] == "of the title, by vader_compound"
    assert evaluate(CategoryMatch(rated), rated, metrics=["sentiment_diversity@5"])["sentiment_diversity@5"] > 0


def test_vader_is_asked_and_its_absence_is_a_sentence(data, monkeypatch):
    class Analyzer:
        def polarity_scores(self, text): return dict(compound=.5 if "opening" in text else -.5)
    module = types.ModuleType("vaderSentiment.vaderSentiment")
    module.SentimentIntensityAnalyzer = Analyzer
    monkeypatch.setitem(sys.modules, "vaderSentiment", types.ModuleType("vaderSentiment"))
    monkeypatch.setitem(sys.modules, "vaderSentiment.vaderSentiment", module)
    data.news.title[1:3], data.news.sentiment = ["Grand opening", "Fire"], None
    rated = with_sentiment(data)
    assert rated.news.sentiment[1:3].tolist() == [.5, -.5] and np.isnan(rated.news.sentiment[0])
    monkeypatch.setitem(sys.modules, "vaderSentiment.vaderSentiment", None)
    with pytest.raises(InputError, match=r"newsrex_nb\[sentiment\]"): with_sentiment(data)
