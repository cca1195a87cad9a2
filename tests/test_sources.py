"""EB-NeRD and Adressa: the toy world written in their formats comes back as it was, and goes through the shell."""
import json
import sys
import zipfile

import numpy as np
import pandas as pd
import pytest

from newsrex_nb.cli import main
from newsrex_nb.core import InputError
from newsrex_nb.data import adressa, custom, ebnerd, toy
from newsrex_nb.data.causal import check_causal
from newsrex_nb.evaluate import evaluate, predict
from newsrex_nb.evaluate.predictions import FileScores

SMALL = dict(articles=80, topics=4, subtopics=2, days=4, users=30, impressions=120, valid=30, test=60, history=(4, .8, 1, 6), daily=1)


@pytest.fixture(scope="module")
def world(): return toy(**SMALL)


def number(row): return 9_000_001 - 7 * int(row)  # of an article: in another order than the rows


def lists(log, rows):
    "What each impression shows, or clicked, as numbers of articles."
    parts = np.split(np.arange(len(rows)), log.offsets[1:-1])
    return [[number(rows[i]) for i in part] for part in parts]


def write_ebnerd(world, folder):
    "The three splits of a world as Ekstra Bladet publishes them; the test without clicks, its last ten impressions with the id 0."
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    rows = np.arange(1, len(world.news))[::-1]
    stamp = lambda seconds: pa.array(np.asarray(seconds, np.int64) * 10**6).cast(pa.timestamp("us"))
    ids = pa.large_list(pa.int32())
    news = world.news
    folder.mkdir()
    pq.write_table(pa.table(dict(
        article_id=pa.array([number(r) for r in rows], pa.int32()), title=[news.title[r] for r in rows], subtitle=[news.abstract[r] for r in rows],
        category_str=[news.category[r] for r in rows], ner_clusters=pa.array([news.entities[r] for r in rows], pa.large_list(pa.string())),
        published_time=stamp(np.full(len(rows), world.start)), total_pageviews=pa.array(rows, pa.int32()))), folder / "articles.parquet")
    for name, log in zip(("train", "validation", "test"), world.splits.values()):
        (folder / name).mkdir()
        names = log.ids.copy()
        if name == "test": names[-10:] = 0
        columns = dict(impression_id=pa.array(names, pa.uint32()), impression_time=stamp(log.time), user_id=pa.array(log.user, pa.uint32()),
                       article_ids_inview=pa.array(lists(log, log.candidates), ids))
        if name == "test": columns["is_beyond_accuracy"] = pa.array(names == 0)
        else: columns["article_ids_clicked"] = pa.array([[a for a, y in zip(shown, labels) if y] for shown, labels in zip(
            lists(log, log.candidates), np.split(log.labels, log.offsets[1:-1]))], ids)
        pq.write_table(pa.table(columns), folder / name / "behaviors.parquet", row_group_size=50)
        users, first = np.unique(log.user, return_index=True)
        clicks = [log.histories[log.history[i]] for i in first]
        pq.write_table(pa.table(dict(user_id=pa.array(users, pa.uint32()), article_id_fixed=pa.array([list(map(number, c)) for c in clicks], ids),
                                     impression_time_fixed=pa.array([list(range(len(c))) for c in clicks], pa.large_list(pa.int64())).cast(
                                         pa.large_list(pa.timestamp("s"))))), folder / name / "history.parquet")


@pytest.fixture(scope="module")
def folder(world, tmp_path_factory):
    folder = tmp_path_factory.mktemp("published") / "ebnerd"
    write_ebnerd(world, folder)
    return folder


def test_the_toy_world_comes_back_as_ebnerd(world, folder):
    data = ebnerd(folder, validation="dev", cache=False)
    assert list(data.splits) == ["train", "valid", "test"]
    row = {str(number(r)): r for r in range(1, len(world.news))}
    for name, log in world.splits.items():
        read = data.split(name)
        assert [row[a] for a in data.news.ids[read.candidates]] == log.candidates.tolist()
        assert (read.offsets == log.offsets).all() and (read.time == log.time).all()
        assert [int(u or 0) for u in data.users[read.user]] == log.user.tolist()
        assert read.labels is None if name == "test" else (read.labels == log.labels).all()
        first = {user: i for i, user in reversed([*enumerate(log.user.tolist())])}
        for i, user in enumerate(log.user.tolist()):
            clicks = log.histories[log.history[first[user]]].tolist()
            assert [row[a] for a in data.news.ids[read.histories[read.history[i]]]] == clicks
    for r in range(1, len(world.news)):
        here = data.news.row[str(number(r))]
        assert (data.news.title[here], data.news.category[here]) == (world.news.title[r], world.news.category[r])
        assert data.news.entities[here] == list(dict.fromkeys(world.news.entities[r]))
    assert data.notes["columns not read, since they know the future"] == ["total_pageviews"]
    held = ebnerd(folder, cache=False)
    assert (held.test.labels == world.valid.labels).all() and len(held.train) + len(held.valid) == len(world.train)
    assert all(check_causal(["ctr", "ctr_bin", "published_hour", "word_ctr", "entity_ctr", "news_counts"], held).values())


def test_a_file_of_ebnerds_leaderboard_goes_and_comes_back(world, folder, tmp_path):
    data = ebnerd(folder, validation="dev", cache=False)
    scores = np.random.default_rng(0).normal(size=len(data.test.candidates))
    predict(scores, data, tmp_path / "predictions.zip")
    with zipfile.ZipFile(tmp_path / "predictions.zip") as archive: lines = archive.read("predictions.txt").decode().splitlines()
    assert [line.split(" ")[0] for line in lines[-10:]] == ["0"] * 10
    for line, a, b in zip(lines, data.test.offsets, data.test.offsets[1:]):
        assert json.loads(line.split(" ")[1]) == [1 + int((scores[a:b] > s).sum()) for s in scores[a:b]]
    read = FileScores(tmp_path / "predictions.zip", data).scores(data.test)
    labels = world.test
    measured = [evaluate(flat, data, data.test.__class__(**{**vars(data.test), "labels": labels.labels})) for flat in (scores, read)]
    assert measured[0] == pytest.approx(measured[1])


def test_pyarrow_is_named_where_it_lacks(folder, monkeypatch):
    for name in ("pyarrow", "pyarrow.compute", "pyarrow.parquet"): monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(InputError, match="pyarrow.*pip install pyarrow"): ebnerd(folder, cache=False)


def test_the_shell_predicts_for_ebnerd(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NEWSREX_CACHE", str(tmp_path / "cache"))
    tiny = ["model.num_heads=2", "model.head_dim=4", "model.word_dim=8", "model.query_dim=4", "model.title_length=6",
            "model.history_length=6", "recipe.epochs=1", "recipe.batch_size=64", "data.min_count=1", "data.validation=dev"]
    assert main(["train", "data=ebnerd", f"data.path={folder}", *tiny]) == 0, capsys.readouterr()
    (run,) = (tmp_path / "runs").iterdir()
    assert main(["predict", f"runs/{run.name}", "path=predictions.zip"]) == 0, capsys.readouterr()
    with zipfile.ZipFile("predictions.zip") as archive: assert archive.namelist() == ["predictions.txt"]
    assert main(["train", "data=adressa", "data.path=nowhere"]) == 2
    assert "Expected a folder or archive in nowhere, got nothing" in capsys.readouterr().err


def test_the_toy_worlds_clicks_come_back_as_adressa(world, tmp_path):
    "The same data set as `custom` makes of the same clicks, but for what a click log does not know."
    news, clicks = [], []
    for log in world.splits.values():
        clicked = np.flatnonzero(log.labels)
        owner = np.repeat(np.arange(len(log)), log.lengths)[clicked]
        clicks += zip(log.user[owner].tolist(), log.time[owner].tolist(), log.candidates[clicked].tolist())
    for user, time, row in clicks:
        about = dict(id=f"{row:040x}", title=world.news.title[row], category1=world.news.category[row], publishtime="2019-11-11T00:00:00.000Z")
        day = pd.Timestamp(time, unit="s").strftime("%Y%m%d")
        event = dict(eventId=1, userId=f"cx:{user}", time=time, url="http://a.no", **about)
        with open(tmp_path / day, "a", encoding="utf-8") as file: file.write(json.dumps(event) + "\n" + json.dumps(dict(event, id=None)) + "\n")
    seen = list(dict.fromkeys(row for _, _, row in sorted(clicks, key=lambda c: pd.Timestamp(c[1], unit="s").strftime("%Y%m%d"))))
    news = pd.DataFrame(dict(id=[f"{r:040x}" for r in seen], title=[world.news.title[r] for r in seen], category=[world.news.category[r] for r in seen],
                             published="2019-11-11"))
    log = pd.DataFrame([(f"cx:{u}", t, f"{r:040x}") for u, t, r in clicks], columns=["user", "time", "article"])
    same, data = custom(news, log, cache=False, name="Adressa"), adressa(tmp_path, cache=False)
    assert data.notes["views without an article, such as the front page"] == len(clicks) == data.notes["views of articles"]
    for name, split in same.splits.items():
        for field in ("time", "candidates", "offsets", "labels"): assert (getattr(split, field) == getattr(data.split(name), field)).all()
        assert (same.users[split.user] == data.users[data.split(name).user]).all()
    assert data.news.title == same.news.title and (data.news.published == same.news.published).all()
