"""Popularity looks back only: real impressions do not change what was known at an hour, whatever happens from then on."""
import dataclasses
from pathlib import Path

import numpy as np
import pytest

from newsrex_nb.data import mind
from newsrex_nb.data.causal import check_causal
from newsrex_nb.data.features import Features

SAMPLE = Path(__file__).parents[2] / "shared" / "data" / "mind-sample"  # lies beside a checkout, where there is one


@pytest.fixture(scope="module")
def data():
    if not SAMPLE.exists(): pytest.skip("no sample of MIND beside the checkout")
    return mind(path=SAMPLE, malformed="skip", cache=False)


LOOKING_BACK = ["ctr", "ctr_bin", "ctr_floor", "word_ctr", "entity_ctr", "published_hour", "news_counts"]


@pytest.mark.parametrize("recipe", [dict(popularity_hours=6), *(pytest.param(recipe, marks=pytest.mark.slow) for recipe in (dict(popularity_hours=1), dict(popularity_mode="train_only")))], ids=str)
def test_nothing_is_known_of_the_present_and_the_future(data, recipe):
    features = Features(data.news, data.features.recipe | recipe, data.features.vocabulary)
    features.kept = {("column", name): data.features[name] for name in ("title", "entities")}
    data = dataclasses.replace(data, features=features)
    assert all(check_causal(LOOKING_BACK, data, moments=5).values())
    assert np.count_nonzero(data.features["ctr_bin"]) > 50


def test_graphs_know_the_training_log_only(data):
    assert all(check_causal(["click_edges", "click_graph", "click_graph_top8", "entity_neighbours"], data, moments=2).values())


def test_counts_equal_a_loop(data):
    "Bins of articles, of words and of entities at some hours, counted one candidate at a time; empty hours are 0."
    def bin_of(pairs): return min(199, int(np.ceil(200 * sum(c for c, _ in pairs) / (len(pairs) + .01)))) if pairs else 0
    f, logs, seen = data.features, data.splits.values(), {}
    for log in logs:
        for i, hour in enumerate(data.hour(log.time).tolist()):
            for at in range(log.offsets[i], log.offsets[i + 1]):
                row, event = int(log.candidates[at]), (int(log.labels[at]), 0)
                things = {("article", row), *(("word", w) for w in f["title"][row].tolist()), *(("entity", e) for e in f["entities"][row].tolist())}
                for thing in things: seen.setdefault((hour, *thing), []).append(event)
    tables = dict(article=f["ctr_bin"].T, word=f.table("word_ctr"), entity=f.table("entity_ctr"))
    for kind, found in tables.items():
        expected = np.zeros_like(found)
        for (hour, name, number), events in seen.items():
            if name == kind and number: expected[hour + 1, number] = bin_of(events)
        assert found.any() and (found == expected).all(), kind
