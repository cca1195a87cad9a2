"""The contract on anybody's model: a sound one keeps every promise, and a model with one mistake breaks that promise and no other."""
import dataclasses

import jax
import keras
import numpy as np
import pytest
from broken_models import BROKEN, Means, mean_of
from keras import ops
import probes  # registers the columns that some models read

from newsrex_nb.contract import check_model
from newsrex_nb.contract.report import PROMISES, ContractError
from newsrex_nb.contract.worlds import contract_world
from newsrex_nb.core import InputError
from newsrex_nb.data import toy
from newsrex_nb.layers.attention import masked_softmax
from newsrex_nb.models import NRMS

QUICK = [name for name in PROMISES if name != "saving"]  # the one that starts a process


@pytest.fixture(scope="module")
def data(): return contract_world()


def one_line(cls, data, asked):
    "Whether a model breaks the promise that its docstring names and no other of those asked, which one line of the error says."
    promise = cls.__doc__
    with pytest.raises(ContractError) as e: check_model(cls, data, only=asked)
    assert e.value.report.broken == [promise]
    first, *lines = str(e.value).split("\n")
    assert first.startswith(f"Expected {cls.__name__} to keep ") and len(lines) == 1
    assert lines[0].startswith(f"{promise}: ") and ", allowed " in lines[0] and PROMISES[promise].remedy in lines[0]


@pytest.mark.parametrize("cls", BROKEN, ids=lambda c: c.__name__)
def test_one_mistake_is_one_line(cls, data): one_line(cls, data, [cls.__doc__])


@pytest.mark.slow
@pytest.mark.parametrize("cls", BROKEN, ids=lambda c: c.__name__)
def test_one_mistake_breaks_no_other_promise(cls, data): one_line(cls, data, [*QUICK, cls.__doc__])


def test_every_promise_has_a_model_that_breaks_it():
    assert {cls.__doc__ for cls in BROKEN} >= set(PROMISES) - {"plain path", "cached in half precision"}


def test_a_sound_model_keeps_all():
    report = check_model(Means)
    lines = str(report).split("\n")
    assert not report.broken and len(lines) == 3 + len(PROMISES)
    assert report["more neighbours"].reason == "not applicable: it has no graph"
    assert report["saving"].measured.value == 0


class KeepsWords(Means):
    "An article is its words, of which there are more in wider groups."
    def encode_news(self, news, training=False): return dict(words=self.words(news["title"]), real=ops.cast(news["title"] > 0, "int32"))
    def mean(self, news): return mean_of(news["words"], news["real"] > 0)
    def encode_user(self, clicked, mask, context, training=False): return mean_of(self.mean(clicked), mask)
    def score(self, state, candidates, context, training=False): return super().score(state, self.mean(candidates), context)


class KeepsClicks(Means):
    "Candidates look at the clicks, of which there are more in wider blocks."
    def encode_user(self, clicked, mask, context, training=False): return dict(clicked=clicked, mask=mask)
    def score(self, state, candidates, context, training=False):
        looks = ops.einsum("bhd,bcd->bch", state["clicked"], candidates)
        return ops.sum(masked_softmax(looks, state["mask"][:, None, :]) * looks, axis=-1)


class KeepsAMaskToBeAdded(KeepsClicks):
    "The same with a mask that is 0 for clicks, as filled up places are."
    def encode_user(self, clicked, mask, context, training=False): return dict(clicked=clicked, far=-3e4 * ops.cast(~mask, clicked.dtype))
    def score(self, state, candidates, context, training=False):
        looks = ops.einsum("bhd,bcd->bch", state["clicked"], candidates)
        return ops.sum(ops.softmax(looks + state["far"][:, None, :], axis=-1) * looks, axis=-1)


@pytest.mark.parametrize("cls", [KeepsWords, KeepsClicks], ids=lambda c: c.__name__)
def test_the_engine_fills_up_what_counts_words_or_clicks(cls, data):
    report = check_model(cls, data, only=QUICK)
    shape, paths = ("news shape" if cls is KeepsWords else "state shape"), ("fast = plain", "cached = direct", "cached in half precision")
    assert all(report[name].measured for name in (shape, *paths))


def test_what_is_filled_up_must_mean_nothing(data):
    report = check_model(KeepsAMaskToBeAdded, data, only=QUICK, raises=False)
    assert report["state shape"].measured.value == 0, "shapes do not show it"
    assert report.broken == ["fast = plain", "cached = direct"]


def test_a_step_that_raises_is_said(data):
    class Raises(Means):
        def encode_user(self, clicked, mask, context, training=False): raise ZeroDivisionError("nothing\nto divide by")
    report = check_model(Raises, data, only=["plain path", "company", "saving"], raises=False)
    assert report.broken == ["plain path"] and "ZeroDivisionError: nothing" in report["plain path"].measured.detail
    assert report["company"].reason == "not measured: plain path is broken"


def test_own_data_and_a_function_that_makes_models():
    mine = toy(articles=200, users=20, impressions=40, valid=0, test=0)  # a split for training is enough
    made = []
    def make(sizes, **arguments):
        made.append(sizes)
        return NRMS(sizes, num_heads=2, head_dim=3, query_dim=4, word_dim=5, **arguments)
    report = check_model(make, mine, only=["more words", "order of candidates"], history_length=7)
    assert report.model == "NRMS" and not report.broken and set(made) == {mine.sizes}


@pytest.mark.parametrize("make", [lambda sizes: Means(sizes), lambda sizes, **more: Means(sizes, **{**more, "seed": 1, "history_length": 6})], ids=["neither", "drops"])
def test_a_function_that_takes_no_more_than_sizes(make, data):
    report = check_model(make, data, only=["more clicks", "seeds", "configuration"], raises=False)
    assert "more clicks" not in report.broken and "configuration" not in report.broken


def test_what_a_function_does_not_take_is_told(data):
    make = lambda sizes, dim=4: Means(sizes, dim=dim, history_length=3)
    report = check_model(make, data, only=["more clicks", "seeds"])
    for name, wanted in (("seeds", "seed"), ("more clicks", "history_length")):
        assert report[name].reason.startswith(f"not applicable: what makes the model does not take {wanted} (TypeError: ")


class Unmade(Means):
    def parts(self): raise ZeroDivisionError("nothing\nto divide by")


def test_a_constructor_that_raises_breaks_the_plain_path(data):
    report = check_model(Unmade, data, raises=False)
    assert report.model == "Unmade" and report.broken == ["plain path"]
    assert report["plain path"].measured.detail == "ZeroDivisionError: nothing"


class NoNews(Means):
    def parts(self): self.reads = {"no such column": None}


@pytest.mark.parametrize("maker, told", [
    (lambda data: Means(data.sizes), "got an object of Means"), (lambda data: keras.layers.Dense, "got the class Dense"),
    (lambda data: keras.Model, "got the class Model"), (lambda data: (lambda sizes: keras.Model()), "got an object of Model"),
    (lambda data: "NRMS", "got an object of str"), (lambda data: NoNews, "no such column")])
def test_what_is_no_maker_of_models_is_told_in_a_sentence(maker, told, data):
    with pytest.raises(InputError, match=told) as e: check_model(maker(data), data)
    assert "\n" not in str(e.value)


def test_data_without_labels(data):
    blind = dataclasses.replace(data, train=dataclasses.replace(data.train, labels=None))
    with pytest.raises(InputError, match="says what was clicked in check_model, got no labels: "): check_model(Means, blind)


def test_reports_know_what_they_asked(data):
    report = check_model(Means, data, only="plain path")
    with pytest.raises(InputError, match="to be one of 'plain path', got 'saving'"): report["saving"]


def test_unknown_promises(data):
    with pytest.raises(InputError, match="'more wrods'"): check_model(Means, data, only="more wrods")


def test_a_line_at_a_time(data, capsys):
    check_model(Means, data, only=["seeds", "news shape"], verbose=1)
    assert [line.split("  ")[0] for line in capsys.readouterr().out.splitlines()] == ["news shape", "seeds"]
