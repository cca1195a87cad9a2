"""A recommender in service, for every model: the scores of the evaluation, whatever way articles and clicks came in."""
import dataclasses
import functools
import threading
import warnings

import numpy as np
import pytest

from newsrex_nb import hub, models
from newsrex_nb.recommend.catalogue import is_dot
from newsrex_nb.core import InputError
from newsrex_nb.engine.device import _PROGRAMS
from newsrex_nb.engine.scoring import scores
from newsrex_nb.recommend.requests import timely
from newsrex_nb.recommend import Recommender
from probes import few
from test_contracts import FEW, PAPERS, case as contract_case, few_models, same

LAST = 4 # hours of the test split that are replayed


@functools.cache
def case(cls):
    "The model of the contract test, whose programs are there, and its scores as `evaluate` reads them."
    data, model, _ = contract_case(cls)
    return data, model, scores(model, data, **FEW)


def fields(data, row):
    "An article as a dict of raw fields."
    n = data.news
    stated = {} if n.published is None or n.published[row] < 0 else dict(published=int(n.published[row]))
    return dict(id=str(n.ids[row]), title=n.title[row], abstract=n.abstract[row], category=n.category[row],
                subcategory=n.subcategory[row], entities=n.entities[row], **stated)


def request(data, i):
    "(history, candidates, user, time) of a test impression in ids."
    log, ids = data.test, data.news.ids
    part = slice(log.offsets[i], log.offsets[i + 1])
    return (ids[log.histories[log.history[i]]].tolist(), ids[log.candidates[part]].tolist(), str(data.users[log.user[i]]) or None,
            int(log.time[i])), part


def event(data, i):
    (history, shown, user, time), part = request(data, i)
    clicked = [a for a, label in zip(shown, data.test.labels[part]) if label]
    return dict(user=user, time=time, article=clicked, shown=shown, history=history)


def replay(data, rec, expected, hours, tell):
    "Scores hour by hour what the test split holds, then tells it."
    hour = data.hour(data.test.time)
    for h in np.unique(hour)[:hours]:
        now = np.flatnonzero(hour == h)
        asked = [request(data, i) for i in now.tolist()]
        if tell: rec.observe([], until=data.start + 3600 * int(h))
        history, candidates, user, at = map(list, zip(*(a for a, _ in asked)))
        found = rec.score(history, candidates, user=user, at=at)
        for one, (_, part) in zip(found, asked): yield one, expected[part]
        if tell: rec.observe([event(data, i) for i in now.tolist()])


@few_models
def test_replay_equals_evaluation(cls):
    "Without the test split, hour by hour, with what has happened observed."
    data, model, expected = case(cls)
    whole = "probe_ctr" in model.reads # made up by the length of the whole log
    rec = Recommender(model, data if whole else dataclasses.replace(data, test=None, features=copied(data)), clock=None)
    found, wanted = map(np.concatenate, zip(*replay(data, rec, expected, LAST if timely(model) else None, tell=not whole)))
    same(found, wanted)
    assert len(wanted) > 20


def copied(data):
    "Features that look at another log."
    f = data.features
    new = f.encode(data.news)
    new.kept = {("column", name): f[name] for name in ("title", "abstract", "category", "subcategory", "entities")}
    return new


@few_models
def test_company_order_and_steps_change_nothing(cls):
    "A user alone or among others, candidates in any order, in a list for all, articles added at once or in two steps, as dicts."
    data, model, _ = case(cls)
    rec, at, ids = Recommender(model, data, clock=None), int(data.test.time.max()), data.news.ids
    histories = [request(data, i)[0][0] for i in range(12)]
    users, pool = [request(data, i)[0][2] for i in range(12)], ids[1:40].tolist()
    together = rec.score(histories, pool, user=users, at=at)
    largest = np.abs(together).max()
    near = lambda a, b: np.abs(np.asarray(a) - np.asarray(b)).max() <= 1e-5 * largest
    assert near(rec.score(histories[3], pool, user=users[3], at=at), together[3])
    assert near(rec.score(histories[:2], [pool, pool[::-1]], user=users[:2], at=at)[1][::-1], together[1])
    assert near(rec.score(histories[3], pool[::-1], user=users[3], at=at)[::-1], together[3])
    best = rec.recommend(histories, k=5, user=users, at=at, among=pool)
    for mine, history, found in zip(best, histories, together):
        order = [pool[i] for i in np.argsort(-found, kind="stable") if pool[i] not in history][:5]
        values = dict(zip(pool, found))
        assert near([a.score for a in mine], [values[i] for i in order]) and not {a.id for a in mine} & {*history}
    new = [dict(id=f"A{i}", title=data.news.title[5 + i] or "Later news", abstract=data.news.abstract[9 + i], category=data.news.category[7],
                entities=data.news.entities[5 + i]) for i in range(6)]
    steps, at_once = (Recommender(model, data, clock=None) for _ in range(2))
    for part in (new[:2], new[2:]):
        steps.add(part)
        steps.score(histories[3], pool + ["A0"], user=users[3], at=at) # what was encoded before the second step stays
    assert at_once.add(new) == 6 and at_once.add(new) == 0
    mixed = pool + [a["id"] for a in new]
    found = at_once.score(histories[3] + ["A1"], mixed, user=users[3], at=at)
    assert near(steps.score(histories[3] + ["A1"], mixed, user=users[3], at=at), found)
    given = rec.score(histories[3] + [new[1]], pool + new, user=users[3], at=at)
    if cls in PAPERS: assert near(given, found), "dicts in the request" # probes have columns made of row numbers
    assert near(rec.score(histories[3], pool, user=users[3], at=at), together[3]), "and nothing stays of them"


@pytest.mark.parametrize("cls", few(PAPERS), ids=lambda c: c.__name__)
def test_loaded_and_vectors(cls, tmp_path):
    "From a folder, without catalogue or log: articles are added, users asked; vectors where the score is their product."
    data, model, _ = case(cls)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        loaded = Recommender.from_pretrained(hub.save(tmp_path, model, data.features))
    assert any("click graph" in str(w.message) for w in said) == (cls.__name__ == "GLORY")
    loaded.clock = None
    with pytest.raises(InputError, match="add"): loaded.recommend([])
    loaded.add([fields(data, r) for r in range(1, len(data.news))])
    history, at = request(data, 3)[0][0], int(data.test.time.max())
    if timely(model):
        with pytest.warns(UserWarning, match="No click is known"): loaded.score(history, loaded.articles[:2], at=at)
    found = dict((a.id, a.score) for a in loaded.recommend(history, k=100, user="nobody", at=at))
    assert np.isfinite([*found.values()]).all() and len(found) == len(data.news) - 1 - len({*history})
    loaded.observe([dict(user="nobody", time=at - 3600, article=loaded.articles[0], shown=loaded.articles[:5])], until=at)
    assert {a.id for a in loaded.recommend(None, k=100, user="nobody")} == {*loaded.articles[1:]}
    if not is_dot(model):
        with pytest.raises(InputError, match="dot product"): loaded.article_vectors()
        return
    users, articles = loaded.user_vectors([history, []]), loaded.article_vectors()
    same(users @ articles.T, np.stack(loaded.score([history, []], loaded.articles)))
    assert (loaded.user_vectors(history) - users[0]).max() <= 1e-5
    if cls.__name__ != "GLORY": same(np.stack([*found.values()]), np.stack([loaded.score(history, [i])[0] for i in found]))


def compiled(model):
    "How many programs there are for a model, all shapes counted."
    return sum(len(f.programs) for f in _PROGRAMS[model].values())


def test_nothing_is_compiled_for_a_request():
    "Any number of candidates, of clicks, of new articles and of observed clicks goes through the programs that are there."
    data, model, _ = case(models.NRMS)
    rec, ids = Recommender(model, data), data.news.ids[1:].tolist()
    for histories in ([ids[:5]], [ids[:3]] * 9): rec.recommend(histories, among=ids)
    before = compiled(model)
    for n in (1, 2, 7, 31):
        rec.add([dict(id=f"A{n}", title=f"News of {n}")])
        rec.observe([dict(time=data.test.time.max() + n, article=f"A{n}", user="U1")])
        rec.recommend([ids[n:2 * n]] * (1 + n % 9), among=ids[-70 - n:], at=data.test.time.max() + 3600 * n)
        rec.recommend([[dict(title="Only now")]])
    assert compiled(model) == before


def test_few_places(monkeypatch):
    "A budget for few articles costs time, not scores."
    data, model, _ = case(models.NRMS)
    rec, small = Recommender(model, data), Recommender(model, data, budget=1)
    monkeypatch.setattr("newsrex_nb.recommend.catalogue.LEAST", 40)
    histories, ids = [request(data, i)[0][0] for i in range(12)], data.news.ids[1:].tolist()
    for candidates in (ids, [ids[i:i + 30] for i in range(12)]):
        for a, b in zip(small.score(histories, candidates), rec.score(histories, candidates)): same(a, b)
    assert len(small.scorer.slots) == 40 < len(data.news)


def test_threads():
    "Requests, additions and observations of several threads: each answer is that of one state of the recommender."
    data, model, _ = case(models.NRMS)
    rec, ids = Recommender(model, data), data.news.ids[1:].tolist()
    expected, wrong = rec.score(ids[:4], ids), []
    def ask(n):
        for i in range(6):
            rec.add([dict(id=f"T{n}-{i}", title="Somebody adds")])
            if np.abs(rec.score(ids[:4], ids) - expected).max() > 1e-5 * np.abs(expected).max(): wrong.append(n)
            rec.observe([dict(time=data.start + i, article=ids[i])])
    threads = [threading.Thread(target=ask, args=(n,)) for n in range(4)]
    for t in threads: t.start()
    for t in threads: t.join()
    assert not wrong and len(rec.articles) == len(ids) + 24 and len(rec.data.observed) == 24


def test_bad_requests():
    data, model, _ = case(models.NRMS)
    rec, ids = Recommender(model, data), data.news.ids[1:].tolist()
    for sentence, call in {"neither": lambda: rec.recommend(None), "one per user": lambda: rec.score([ids[:2], []], ids, user=["U1"]),
                           "add\\(articles\\)": lambda: rec.observe([dict(time=data.start, article="no such")]), "a time": lambda: rec.observe([dict(article=ids[0])]),
                           "clicked": lambda: rec.observe([dict(time=data.start, clicked=ids[0])])}.items():
        with pytest.raises(InputError, match=sentence): call()
    assert len(rec.score(ids[:3], [])) == 0 and rec.score([], ids[:2] * 2).shape == (4,) and rec.recommend([[], []], among=[ids[:2], []])[1] == []
