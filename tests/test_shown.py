"""What a notebook shows where a cell ends with a name: a few lines, whatever the object holds."""
import dataclasses
import importlib
import inspect
import pkgutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

import newsrex_nb
from newsrex_nb.data import toy
from newsrex_nb.data.samples import training_samples
from newsrex_nb.evaluate.bootstrap import Estimate
from newsrex_nb.metrics.ranking import Clicks

SHORT = {int, str, float, bool, Path, Callable}  # types of fields that are shown whole
MODULES = [m.name for m in pkgutil.walk_packages(newsrex_nb.__path__, "newsrex_nb.") if not m.name.endswith("_modidx")]


def generated(cls):
    "Whether a data class writes all its fields, since nobody said otherwise."
    return hasattr(vars(cls).get("__repr__"), "__wrapped__")


@pytest.mark.parametrize("name", MODULES)
def test_data_classes_with_arrays_are_shown_in_short(name):
    for cls in vars(importlib.import_module(name)).values():
        if not inspect.isclass(cls) or cls.__module__ != name or not dataclasses.is_dataclass(cls) or not generated(cls): continue
        long = [field.name for field in dataclasses.fields(cls) if field.type not in SHORT]
        assert not long, f"{cls.__name__} prints {', '.join(long)} whole: write `__repr__ = short_repr`, or @dataclasses.dataclass(repr=False) if its base has one"


def test_the_law_sees_what_it_forbids():
    assert generated(dataclasses.make_dataclass("Long", [("rows", np.ndarray)])) and generated(Estimate) and not generated(Clicks)


def held(value, found):
    "Objects of the package that an object holds, at any depth: {id: object}."
    if id(value) in found: return found
    if type(value).__module__.startswith("newsrex_nb"):
        found[id(value)] = value
        for part in vars(value).values(): held(part, found)
    elif isinstance(value, (list, tuple, dict)):
        for part in (value.values() if isinstance(value, dict) else value): held(part, found)
    return found


def test_a_data_set_and_its_parts_are_short():
    data = toy(vectors=4)
    for name in ("title", "entities", "ctr"): data.features[name]
    parts = [data, training_samples(data.train), data.features.encode([{"id": "N1", "title": "Goal!"}])]
    seen = held(parts, {}).values()
    assert {"ToyData", "News", "Behaviors", "Histories", "Features", "Oracle", "Samples", "Sizes"} <= {type(part).__name__ for part in [*seen, data.sizes]}
    assert not {type(part).__name__: len(repr(part)) for part in seen if len(repr(part)) > 600}
    assert len(repr(data.report())) < 2000, "a report is a table: it is asked for to be read"


def test_a_run_and_what_is_made_of_it_are_short():
    from newsrex_nb.evaluate.bootstrap import Ranking
    from newsrex_nb.models import NRMS
    from newsrex_nb.train import fit

    data = toy(articles=80, topics=4, subtopics=2, days=3, users=30, impressions=60, valid=12, test=30, history=(4, .8, 1, 6), daily=1)
    model = NRMS(data.sizes, num_heads=2, head_dim=4, query_dim=4, word_dim=8, title_length=4, history_length=4)
    run = fit(model, data, epochs=1, batch_size=16, verbose=0)
    parts = [*held(run, {}).values(), Ranking(["NRMS"] * 40, np.eye(40, dtype=bool), [[0], [*range(40)]])]
    assert not {type(part).__name__: len(repr(part)) for part in parts if len(repr(part)) > 600}


class Table(HTMLParser):
    "Rows of cells, and the tags that are open."
    def __init__(self):
        super().__init__()
        self.rows, self.open = [], []

    def handle_starttag(self, tag, attrs):
        assert not attrs, "no colours and no scripts of its own"
        self.open.append(tag)
        if tag == "tr": self.rows.append([])

    def handle_endtag(self, tag): assert self.open.pop() == tag

    def handle_data(self, text):
        if self.open[-1:] and self.open[-1] in ("td", "th"): self.rows[-1].append(text)


def test_a_data_set_is_a_table_in_a_notebook():
    data = dataclasses.replace(toy(), name="<img src=x>")
    parser = Table()
    parser.feed(data._repr_html_())
    assert not parser.open
    assert [row[0] for row in parser.rows[1:]] == ["train", "valid", "test"]
    assert parser.rows[1][1] == f"{len(data.train):,}" and len(data._repr_html_()) < 1500
