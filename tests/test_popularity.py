"""Popularity looks back only: real impressions do not change what was known at an hour, whatever happens from then on."""
import dataclasses
from pathlib import Path

import numpy as np
import pytest

from newsrex_nb.data import mind
from newsrex_nb.data.features import Features
from newsrex_nb.data.schema import owner, take

SAMPLE = Path(__file__).parents[2] / "shared" / "data" / "mind-sample"  # lies beside a checkout, where there is one


@pytest.fixture(scope="module")
def data():
    if not SAMPLE.exists(): pytest.skip("no sample of MIND beside the checkout")
    return mind(path=SAMPLE, malformed="skip", cache=False)


def with_splits(data, change, **recipe):
    "The data set with other splits: what was made of the articles is kept, what was made of the log is built anew."
    features = Features(data.news, data.features.recipe | recipe, data.features.vocabulary)
    features.kept = {("column", name): data.features[name] for name in ("title", "entities")}
    return dataclasses.replace(data, **{name: change(log) for name, log in data.splits.items()}, features=features)


def known(data, hour):
    "What an impression of this hour reads of any article, word and entity."
    f = data.features
    return [f["ctr"][:, hour], f["ctr_bin"][:, hour], f.table("word_ctr")[hour], f.table("entity_ctr")[hour],
            np.maximum(hour - f["published_hour"], 0)]


@pytest.mark.parametrize("width", [1, 6])
def test_nothing_is_known_of_the_present_and_the_future(data, width):
    data = with_splits(data, lambda log: log, popularity_hours=width)
    busy = np.unique(np.concatenate([data.hour(log.time) for log in data.splits.values()]))
    hours = busy[1:][np.diff(busy) == 1]
    for hour in np.random.default_rng(0).choice(hours, min(5, len(hours)), replace=False):
        before = with_splits(data, lambda log: take(log, data.hour(log.time) < hour))
        def scramble(log):
            later = (data.hour(log.time) >= hour)[owner(log.offsets)]
            return dataclasses.replace(log, labels=np.where(later, 1 - log.labels, log.labels),
                                       candidates=np.where(later, np.roll(log.candidates, 2), log.candidates))
        for other in (before, with_splits(data, scramble)):
            assert all((a == b).all() for a, b in zip(known(data, hour), known(other, hour)))
    assert np.count_nonzero(data.features["ctr_bin"]) > 50


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
