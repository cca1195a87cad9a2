"""Metrics beyond accuracy against the code of others: their values on one input, computed once, lie beside this file with the commits they come from."""
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from newsrex_nb.data.schema import Behaviors, make_histories, news_table, offsets_of
from newsrex_nb.evaluate.norms import Lists, per_list
from newsrex_nb.metrics.divergence import js_distance, list_distance, shares
from newsrex_nb.metrics.diversity import mean_distance, mood_numbers, unit_vectors
from newsrex_nb.metrics.exposure import gini, shown_counts
from newsrex_nb.metrics.overlap import rank_biased_overlap

OTHERS = json.loads((Path(__file__).parent / "norms_of_others.json").read_text(encoding="utf-8"))
VALUES, K = OTHERS["values"], OTHERS["k"]


@pytest.fixture(scope="module")
def lists():
    "Their articles and impressions; row 0 is padding, so an article's row is its number and one."
    of = OTHERS["articles"]
    names = lambda entities: [name for name, often in entities for _ in range(often)]
    news = news_table([dict(id=f"N{n}", title="", category=f"c{of['category'][n]}", sentiment=of["sentiment"][n], entities=names(of["entities"][n]),
                            minority=of["minority"][n]) for n in range(len(of["category"]))])
    shown = OTHERS["impressions"]
    histories, numbers = make_histories([[1 + n for n in s["history"]] for s in shown])
    flat = lambda key: [x for s in shown for x in s[key]]
    log = Behaviors(ids=np.arange(len(shown)), user=np.ones(len(shown)), time=np.zeros(len(shown)), history=numbers, candidates=1 + np.array(flat("candidates")),
                    offsets=offsets_of([len(s["scores"]) for s in shown]), labels=None, histories=histories)
    return Lists(SimpleNamespace(news=news, name="others", features=None), log, np.array(flat("scores")))


def ours(lists, *names): return per_list(lists.data, lists.log, lists.scores, [f"{name}@{K}" for name in names])


def test_newsreclib(lists):
    assert (mood_numbers(lists.data.news.sentiment)[1:] - 1 == OTHERS["articles"]["mood"]).all(), "its three classes of sentiment"
    found, theirs = ours(lists, "category_diversity", "sentiment_diversity", "personalisation"), VALUES["NewsRecLib"]
    for name, key in (("category_diversity", "categ_div"), ("sentiment_diversity", "sent_div"), ("personalisation", "categ_pers")):
        np.testing.assert_allclose(found[f"{name}@{K}"], theirs[key], rtol=1e-6, err_msg=name)


def test_informfully_and_lenskit(lists):
    vectors = unit_vectors(np.concatenate([np.zeros((1, 4)), OTHERS["articles"]["vectors"]]))
    rows = lists.rows(K)
    np.testing.assert_allclose(mean_distance(rows, vectors), VALUES["Informfully"]["ild"], rtol=1e-6)
    assert gini(shown_counts(rows, lists.log.candidates)) == pytest.approx(VALUES["LensKit"]["gini"], abs=1e-8)
    for one, theirs in zip(rows, VALUES["LensKit"]["rbo"]): # theirs ends at the k-th place; ours goes on as it was there
        common = np.array([len({*one} & {*other}) for other in rows])
        found = rank_biased_overlap(np.tile(one, (len(rows), 1)), rows)
        np.testing.assert_allclose(found, np.array(theirs) * (1 - .9 ** K) + .9 ** K * common / K, atol=1e-8)


def mixed_distance(p, q, alpha=1e-3):
    "RADio mixes a thousandth of each distribution into the other before it measures; without it, disjoint ones have the distance 1, as here."
    return js_distance((1 - alpha) * p + alpha * q, (1 - alpha) * q + alpha * p)


def test_radio_calibration(lists):
    classes = lists.categories
    for ranked, key, name in ((True, "calibration", "calibration_ranked"), (False, "calibration_flat", "calibration_js")):
        parts = shares(lists.of_histories(*classes, ranked)), shares(lists.of_lists(*classes, K, ranked))
        np.testing.assert_allclose(mixed_distance(*parts), VALUES["RADio"][key], atol=1e-5) # its harmonic number of one click is 1.0022
        np.testing.assert_allclose(ours(lists, name)[f"{name}@{K}"], js_distance(*parts), atol=1e-12)


def test_radio_fragmentation(lists):
    rows = lists.rows(K)
    for one, theirs in zip(rows, VALUES["RADio"]["fragmentation"]):
        found = list_distance(np.tile(one, (len(rows), 1)), rows)
        np.testing.assert_allclose(found, theirs, atol=.006)
        np.testing.assert_allclose(found == 1, np.array(theirs) > .99)


@pytest.mark.parametrize("name, tolerance", [("activation", .0025), ("representation", .002), ("alternative_voices", .0006)])
def test_radio_against_the_pool(lists, name, tolerance):
    "Up to the mixture, and shares that RADio rounds to three digits for activation."
    np.testing.assert_allclose(ours(lists, name)[f"{name}@{K}"], VALUES["RADio"][name], atol=tolerance)
