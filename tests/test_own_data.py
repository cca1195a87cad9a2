"""Own data: against a slow builder in plain Python, the same from frames and files, and from a log to a measured run in the shell."""
import dataclasses
import json
import random
import re
import sys

import numpy as np
import pandas as pd
import pytest

from newsrex_nb.cli import main
from newsrex_nb.core import InputError
from newsrex_nb.data import custom, toy
from newsrex_nb.data.schema import UNKNOWN
from newsrex_nb.experiments.building import load_data
from newsrex_nb.experiments.configuration import configure

HOUR, START = 3600, 1_573_776_000  # 15 November 2019


def invented(seed):
    "A small random log of clicks: equal seconds, repeated clicks, nameless users, articles that no table has."
    rng = random.Random(seed)
    articles = [f"N{i}" for i in range(25)]
    news = pd.DataFrame(dict(id=articles[:20], title=[f"title {i} of many" for i in range(20)],
                             published=[START + rng.randrange(-30, 60) * HOUR if rng.random() < .6 else None for _ in range(20)]))
    times = [START + rng.randrange(60) * HOUR // 2 for _ in range(150)]
    clicks = pd.DataFrame([(rng.choice(["", *(f"U{u}" for u in range(12))]), t, rng.choice(articles)) for t in times],
                          columns=["user", "time", "article"])
    return news, clicks


def slow_impressions(news, clicks, alive, longest):
    "{(user, time): history, clicked, what could be shown}, one comparison at a time; nameless users as a list."
    known = set(news.id)
    signs = [(t, a) for _, t, a in clicks.values.tolist() if a in known]
    signs += [(int(t), a) for a, t in zip(news.id, news.published) if t == t]
    first = {}
    for n, (u, t, a) in enumerate(clicks.values.tolist()):
        who = (u, None) if u else ("", n)
        first[who, a] = min(t, first.get((who, a), t))
    found = {}
    order = lambda a: (0, news.id.tolist().index(a)) if a in known else (1, a)
    for (who, a), t in first.items():
        if a not in known: continue
        mine = [(s, b) for (w, b), s in first.items() if w == who]
        history = [b if b in known else UNKNOWN for s, b in sorted(mine, key=lambda e: (e[0], order(e[1]))) if s < t]
        shown = {b for s, b in signs if t - alive < s <= t} - {b for s, b in mine if s <= t}
        old = found.setdefault((who, t), (history[-longest:] if longest else history, set(), shown))
        old[1].add(a)
    return {key: entry for key, entry in found.items() if entry[2]}


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("alive, size, longest", [("2h", 4, None), ("36h", 5, 3), ("36h", 40, 100)])
def test_clicks_equal_a_slow_builder(seed, alive, size, longest):
    news, clicks = invented(seed)
    data = custom(news, clicks, alive=alive, candidates=size, max_history=longest, valid=.2, test=.25, seed=seed)
    expected = slow_impressions(news, clicks, int(alive[:-1]) * HOUR, longest)
    found, ids = [], data.news.ids
    for log in data.splits.values():
        for i in range(len(log)):
            at = slice(log.offsets[i], log.offsets[i + 1])
            shown, labels = ids[log.candidates[at]].tolist(), log.labels[at] > 0
            past = ids[log.histories[log.history[i]]].tolist()
            found.append((str(data.users[log.user[i]]), int(log.time[i]), past, sorted(np.array(shown)[labels]), set(np.array(shown)[~labels])))
            assert len(set(shown)) == len(shown)
    key = lambda e: (e[0], e[1], e[3])
    slow = sorted(((w[0], t, h, sorted(c), s) for (w, t), (h, c, s) in expected.items()), key=key)
    found.sort(key=key)
    assert [e[:4] for e in found] == [e[:4] for e in slow]
    for mine, theirs in zip(found, slow):
        others = max(size - len(mine[3]), 1)
        assert mine[4] <= theirs[4] and len(mine[4]) == min(others, len(theirs[4]))
    assert data.notes["impressions"] == len(slow) and data.notes["repeated clicks left out"] > 0
    times = sorted(t for _, t, *_ in slow)
    cut = times[len(times) - round(.25 * len(times))]
    rest = [t for t in times if t < cut]
    middle = rest[len(rest) - round(.2 * len(times))]
    assert [len(s) for s in data.splits.values()] == [sum(t < middle for t in times), sum(middle <= t < cut for t in times), sum(t >= cut for t in times)]
    assert data.train.time.max() < data.valid.time.min() and data.valid.time.max() < data.test.time.min() == cut
    assert set(data.users[1:data.trained_users + 1]) == {u for u, t, *_ in slow if t < middle and u}


def same(a, b):
    "Every array of two data sets."
    assert a.key == b.key and a.users.tolist() == b.users.tolist() and list(a.splits) == list(b.splits)
    for field in dataclasses.fields(a.news): np.testing.assert_array_equal(getattr(a.news, field.name), getattr(b.news, field.name)) \
        if field.name != "entities" else [] == [x for x, y in zip(a.news.entities, b.news.entities) if x != y]
    for name, log in a.splits.items(): equal_logs(log, b.splits[name])
    for name in ("title", "abstract", "category", "entities"): assert (a.features[name] == b.features[name]).all()


def equal_logs(a, b):
    for field in ("ids", "user", "time", "history", "candidates", "offsets", "labels"):
        np.testing.assert_array_equal(getattr(a, field), getattr(b, field))
    assert (a.histories.rows == b.histories.rows).all() and (a.histories.offsets == b.histories.offsets).all()


def test_a_log_that_has_grown_keeps_its_past():
    news, clicks = invented(5)
    whole, early = (custom(news, log, alive="12h", candidates=4, valid=None, test="2019-11-16", max_history=None)
                    for log in (clicks, clicks[clicks.time < START + 28 * HOUR].sample(frac=1, random_state=1)))
    assert len(early.test) < len(whole.test)
    for field in ("time", "candidates", "offsets", "labels"): assert (getattr(whole.train, field) == getattr(early.train, field)).all()


@pytest.fixture(scope="module")
def tables():
    "A toy world as two tables: articles, and impressions with lists."
    world = toy(articles=150, topics=4, subtopics=2, users=40, impressions=200, valid=50, test=60)
    n, ids = world.news, world.news.ids
    news = pd.DataFrame(dict(id=ids[1:], title=n.title[1:], abstract=n.abstract[1:], category=n.category[1:],
                             subcategory=n.subcategory[1:], entities=n.entities[1:]))
    rows = []
    for log in world.splits.values():
        for i in range(len(log)):
            at = slice(log.offsets[i], log.offsets[i + 1])
            shown = ids[log.candidates[at]]
            rows.append((log.ids[i], world.users[log.user[i]], pd.Timestamp(int(log.time[i]), unit="s"), shown.tolist(),
                         shown[log.labels[at] > 0].tolist(), ids[log.histories[log.history[i]]].tolist()))
    return world, news, pd.DataFrame(rows, columns=["id", "user", "time", "candidates", "clicks", "history"])


CUTS = dict(valid="2019-11-14", test="2019-11-15")


def test_the_toy_world_comes_back(tables):
    world, news, impressions = tables
    data = custom(news, impressions, **CUTS)
    for name, log in world.splits.items(): equal_logs(log, data.splits[name])
    assert data.users.tolist() == world.users.tolist() and data.sizes == world.sizes
    for field in ("title", "abstract", "category", "subcategory", "entities"):
        assert getattr(data.news, field) == getattr(world.news, field)
        assert (data.features[field] == world.features[field]).all()
    assert (data.features["ctr_bin"] == world.features["ctr_bin"]).all()


@pytest.mark.parametrize("kind", ["csv", "tsv", "tsv.gz", "parquet"])
def test_files_equal_frames(tables, tmp_path, kind):
    _, news, impressions = tables
    news = news.assign(published=[None if i % 3 else pd.Timestamp("2019-11-10") + pd.Timedelta(hours=i) for i in range(len(news))])
    news["title"] = [f'{t} "quoted",\tNA\nnext' if i % 5 == 0 else t for i, t in enumerate(news["title"])]
    frames = custom(news, impressions, **CUTS)
    if kind == "parquet":
        pytest.importorskip("pyarrow")
        news.to_parquet(tmp_path / "news.parquet"); impressions.to_parquet(tmp_path / "log.parquet")
    else:
        join = lambda lists: lists.map(" ".join)
        lists = dict(candidates=join(impressions.candidates), clicks=join(impressions.clicks), history=join(impressions.history))
        how = dict(index=False, sep="\t" if kind[0] == "t" else ",")
        news.assign(entities=join(news.entities)).to_csv(tmp_path / f"news.{kind}", **how)
        impressions.assign(**lists).to_csv(tmp_path / f"log.{kind}", **how)
    same(frames, custom(tmp_path / f"news.{kind}", str(tmp_path / f"log.{kind}"), cache=tmp_path / "cache", **CUTS))
    same(frames, custom(tmp_path / f"news.{kind}", tmp_path / f"log.{kind}", cache=tmp_path / "cache", **CUTS))
    assert frames.features["published_hour"].min() < 0


def test_histories_of_impressions_equal_a_slow_builder(tables):
    "Without a column `history`: the user's clicks in earlier impressions."
    _, news, impressions = tables
    data, log = custom(news, impressions.drop(columns="history"), valid=None, test="100%", max_history=4), impressions
    for i in range(len(log)):
        earlier = log[(log.user == log.user[i]) & (log.time < log.time[i])].sort_values("time", kind="stable")
        clicks = list(dict.fromkeys(a for some in earlier.clicks for a in sorted(some, key=data.news.row.get)))
        assert data.news.ids[data.test.histories[data.test.history[i]]].tolist() == clicks[-4:]


def test_the_shell_names_columns_and_events(tables, tmp_path, monkeypatch):
    "Names, events and splits as keys of the shell; each of them makes another file in the cache, and the second start reads it."
    world, news, impressions = tables
    impressions = impressions[::3]
    views = impressions.explode("candidates")[["id", "user", "time", "candidates"]].assign(what="seen").rename(columns=dict(candidates="nid"))
    clicks = impressions.explode("clicks")[["id", "user", "time", "clicks"]].assign(what="open").rename(columns=dict(clicks="nid"))
    events = pd.concat([views, clicks]).rename(columns=dict(id="list", user="reader"))
    news.assign(entities=news.entities.map(" ".join)).rename(columns=dict(id="key", title="Title")).to_csv(tmp_path / "news.csv", index=False)
    events.to_csv(tmp_path / "events.csv", index=False)
    monkeypatch.setenv("NEWSREX_CACHE", str(tmp_path / "cache"))
    names = dict(id="key", title="Title", user="reader", article="nid", impression="list", event="what")
    keys = ["data=custom", f"data.news={tmp_path}/news.csv", f"data.behaviors={tmp_path}/events.csv", "data.valid=null", "data.test=2019-11-14",
            *(f"data.columns.{ours}={theirs}" for ours, theirs in names.items()), "data.event.click=[open,read]", "data.event.view=seen"]
    with pytest.raises(InputError, match="events 'read'.*'seen'.*'open'"): load_data(configure(*keys))
    keys[-2] = "data.event.click=open"
    for _ in range(2): same(load_data(configure(*keys)), custom(news, impressions.drop(columns="history"), valid=None, test="2019-11-14"))
    assert len(list((tmp_path / "cache").rglob("custom-*.npz"))) == 1
    with pytest.warns(UserWarning, match=r"Events that were not read: [\d,]+ 'seen'\."): load_data(configure(*keys[:-1]))
    assert len(list((tmp_path / "cache").rglob("custom-*.npz"))) == 2


@pytest.mark.parametrize("seed", range(3))
def test_given_splits_equal_a_log_that_was_cut(tables, seed):
    "Three tables instead of one: the same impressions, and histories that go across the tables; a click log too."
    _, news, impressions = tables
    log = impressions.drop(columns="history").sample(frac=1, random_state=seed)
    early, middle, late = (log[(log.time >= a) & (log.time < b)] for a, b in (("2019", "2019-11-14"), ("2019-11-14", "2019-11-15"), ("2019-11-15", "2020")))
    same_but_for_numbers(custom(news, train=early, valid=middle, test=late), custom(news, log, **CUTS))
    news, clicks = invented(seed)
    cuts = START + 12 * HOUR, START + 22 * HOUR
    early, middle, late = (clicks[(clicks.time >= a) & (clicks.time < b)] for a, b in zip((0, *cuts), (*cuts, 2 * START)))
    same_but_for_numbers(custom(news, train=early, valid=middle, test=late, alive="12h"), custom(news, clicks, valid=cuts[0], test=cuts[1], alive="12h"))


def same_but_for_numbers(a, b):
    "Two data sets whose impressions and histories may be numbered otherwise."
    assert a.users.tolist() == b.users.tolist() or {*a.users} == {*b.users}
    for name, log in a.splits.items():
        rows = [sorted((d.users[l.user[i]], int(l.time[i]), l.candidates[l.offsets[i]:l.offsets[i + 1]].tolist(),
                        l.labels[l.offsets[i]:l.offsets[i + 1]].tolist(), l.histories[l.history[i]].tolist()) for i in range(len(l)))
                for d, l in ((a, log), (b, b.splits[name]))]
        assert rows[0] == rows[1] and len(rows[0]) == len(log)


@pytest.mark.parametrize("heading", ["is_click", "Clicked", "clk", "premium", "label", "clicked"])
def test_flags_are_never_passed_over(heading):
    "Views in a click log: rows of lists are read as such under a name that says so, and refused under every other; single rows always."
    rng = random.Random(heading)
    news = pd.DataFrame(dict(id=[f"N{i}" for i in range(9)], title="a title"))
    rows = [(f"U{i % 7}", START + i * HOUR, a, int(n == i % 4)) for i in range(40) for n, a in enumerate(rng.sample(list(news.id), 4))]
    log = pd.DataFrame(rows, columns=["user", "time", "article", heading])
    expected = custom(news, log.rename(columns={heading: "clicked"}), columns={"clicked": "clicked"})
    assert sum(len(split) for split in expected.splits.values()) == 40
    if heading in ("label", "clicked"): same(custom(news, log), expected)
    else:
        with pytest.raises(InputError, match=f"{heading}.*columns="): custom(news, log)
        same(custom(news, log, columns={"clicked": heading}), expected)
    with pytest.raises(InputError, match=f"{heading}.*columns="): custom(news, log.assign(time=range(START, START + len(log))))


def test_parquet_needs_pyarrow(tmp_path, monkeypatch):
    for name in ("pyarrow", "fastparquet"): monkeypatch.setitem(sys.modules, name, None)
    for name in ("news", "log"): (tmp_path / f"{name}.parquet").write_bytes(b"PAR1")
    with pytest.raises(InputError, match="pyarrow.*pip install pyarrow"): custom(tmp_path / "news.parquet", tmp_path / "log.parquet", cache=False)


def test_the_shell_trains_on_files(tables, tmp_path, monkeypatch, capsys):
    world, news, impressions = tables
    clicks = impressions.explode("clicks").rename(columns=dict(clicks="article"))[["user", "time", "article"]]
    news.assign(entities=news.entities.map(" ".join)).to_csv(tmp_path / "news.csv", index=False)
    clicks.to_csv(tmp_path / "clicks.csv", index=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NEWSREX_CACHE", str(tmp_path / "cache"))
    files = ["data=custom", "data.news=news.csv", "data.behaviors=clicks.csv"]
    tiny = ["model.num_heads=2", "model.head_dim=4", "model.word_dim=8", "model.query_dim=4", "model.title_length=6",
            "model.history_length=6", "recipe.epochs=1", "recipe.batch_size=64", "data.min_count=1", "data.test=2019-11-15"]
    assert main(["train", *files, *tiny]) == 0
    trained = capsys.readouterr().out
    drawn = "Candidates: 20 of what was published or clicked in the 36h before, drawn with seed 42"
    assert "Test: custom" in trained and drawn in trained
    assert main(["evaluate", "runs/nrms-custom-seed_42"]) == 0
    measured = capsys.readouterr().out
    row = lambda text: re.search(r"^NRMS .*$", text, re.M)[0]
    assert row(measured) == row(trained) and drawn in measured
    about = json.loads((tmp_path / "runs/nrms-custom-seed_42/test_results.json").read_text())
    assert about["candidates"] == drawn.removeprefix("Candidates: ")
    saved = "".join(p.read_text() for p in (tmp_path / "runs/nrms-custom-seed_42").glob("*.json"))
    assert not [u for u in world.users[1:] if f'"{u}"' in saved]
    assert main(["train", "data=custom", "data.news=news.csv"]) == 2 and "behaviors=" in capsys.readouterr().err
    assert main(["train", *files, "data.alive=36"]) == 2 and "data.alive" in capsys.readouterr().err
