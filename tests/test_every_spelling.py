"""Logs in every shape and spelling are read as what they say: hypothesis draws a small log and a way to write it down, and the data set is
compared with the log itself. `NEWSREX_EXAMPLES=10000` draws as many (.ci/weekly)."""
import gzip
import json
import os
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from newsrex_nb.core import InputError
from newsrex_nb.data import custom, mind

pytest.importorskip("hypothesis")
from hypothesis import HealthCheck, given, settings, strategies as st

EXAMPLES = int(os.environ.get("NEWSREX_EXAMPLES", 120))
drawn = settings(max_examples=EXAMPLES, deadline=None, derandomize=EXAMPLES < 1000, database=None,
                 suppress_health_check=list(HealthCheck))
START = 1573776000  # 2019-11-15 00:00:00
IDS = dict(
    words=["N1", "N2", "N3", "N10", "N11", "b"],
    numbers=["1", "2", "3", "10", "123456789", "9007199254740993"],
    zeros=["007", "7", "0", "00", "0070", "70"],
    addresses=["https://a.example/x,1-2.html", "https://a.example/it's", 'https://a.example/"q"', "https://a.example/[live]",
               "https://a.example/{b}", "https://a.example/c d"],
    letters=["Å-1x", "日本", "É’s", "ß", "ид", "n_1"],
)
PLAIN = "words", "numbers", "zeros", "letters"  # ids that can stand between spaces or commas


@st.composite
def logs(draw, shape=None):
    "A small log: {kind of ids, articles, impressions as (second, user, candidates, clicks)}, in the order of time."
    kind = draw(st.sampled_from([*IDS]))
    articles = draw(st.permutations(IDS[kind]))[: draw(st.integers(3, 6))]
    users = ["U1", "U2", "7"]
    seconds = draw(st.lists(st.integers(0, 3 * 86400), min_size=2, max_size=6, unique=True))
    impressions = []
    for second in sorted(seconds):
        shown = draw(st.permutations(articles))[: draw(st.integers(2, len(articles)))]
        clicked = [a for a in shown if draw(st.booleans())] or shown[:1]
        if not impressions: clicked = clicked[: len(shown) - 1]  # rows that all say yes are a log of clicks
        impressions.append((START + second, draw(st.sampled_from(users)), list(shown), clicked))
    return dict(kind=kind, articles=list(articles), impressions=impressions)


def histories(log):
    "What each user had clicked before each impression: each article once, in the order of the first clicks; those of one second as in the news."
    place = {a: n for n, a in enumerate(log["articles"])}
    lists = []
    for second, user, _, _ in log["impressions"]:
        earlier = [(t, place[a], a) for t, u, _, clicked in log["impressions"] for a in clicked if u == user and t < second]
        lists.append(list(dict.fromkeys(a for *_, a in sorted(earlier))))
    return lists


def expected(log):
    "[(second, user, [(candidate, clicked)], history)]"
    return [(t, u, [(a, int(a in clicked)) for a in shown], h) for (t, u, shown, clicked), h in zip(log["impressions"], histories(log))]


def read(data):
    "The same of a data set, in the order of time."
    log, ids = data.test, data.news.ids.tolist()
    rows = []
    for i in range(len(log)):
        a, b = log.offsets[i : i + 2]
        shown = [(ids[row], int(label)) for row, label in zip(log.candidates[a:b], log.labels[a:b])]
        rows.append((int(log.time[i]), str(data.users[log.user[i]]), shown, [ids[row] for row in log.histories[log.history[i]]]))
    return sorted(rows)


def quoted(mark):
    return lambda ids: "[" + ", ".join(mark + i.replace("\\", "\\\\").replace(mark, "\\" + mark) + mark for i in ids) + "]"


def postgres(ids):
    return "{" + ",".join('"' + i.replace("\\", "\\\\").replace('"', '\\"') + '"' for i in ids) + "}"


LISTS = dict(  # how a list of ids is written: {name: (function of the ids, kinds of ids it can hold)}
    spaces=(" ".join, PLAIN), commas=(",".join, PLAIN), comma_and_space=(", ".join, PLAIN), json=(json.dumps, tuple(IDS)),
    letters_of_json=(lambda ids: json.dumps(ids, ensure_ascii=False), tuple(IDS)), repr=(repr, tuple(IDS)),
    tuple=(lambda ids: repr(tuple(ids)), tuple(IDS)), numpy=(lambda ids: repr(np.array(ids, dtype=object)), tuple(IDS)),
    numpy_text=(lambda ids: str(np.array(ids)), PLAIN), quotes=(quoted('"'), tuple(IDS)), postgres=(postgres, tuple(IDS)),
    numbers=(lambda ids: json.dumps([int(i) for i in ids]), ("numbers",)),
)
OBJECTS = dict(  # in a frame
    list=(list, tuple(IDS)), tuple=(tuple, tuple(IDS)), array=(lambda ids: np.array(ids, dtype=object), tuple(IDS)),
    numbers=(lambda ids: [int(i) for i in ids], ("numbers",)), int_array=(lambda ids: np.array([int(i) for i in ids]), ("numbers",)),
)


def iso(between="T", zone=0, ending="", fraction=""):
    def write(second):
        text = str(np.datetime64(second + zone * 3600, "s")).replace("T", between)
        return text + fraction + ending
    return write


TIMES = dict(
    iso=iso(" "), t=iso(), fraction=iso(fraction=".123"), utc=iso(ending="Z"), berlin=iso(" ", 1, "+01:00"), new_york=iso(zone=-5, ending="-05:00"),
    seconds=str, milliseconds=lambda s: str(s * 10**3), microseconds=lambda s: str(s * 10**6), nanoseconds=lambda s: str(s * 10**9),
)
STAMPS = dict(
    stamp=lambda s: pd.Timestamp(s, unit="s"), aware=lambda s: pd.Timestamp(s, unit="s", tz="UTC").tz_convert("Asia/Tokyo"),
    number=int, number_ms=lambda s: s * 1000,
)


@st.composite
def spellings(draw, log, shape, in_frame):
    "Functions that write a list of ids and a time."
    lists = {**LISTS, **(OBJECTS if in_frame else {})}
    possible = [name for name, (_, kinds) in lists.items() if log["kind"] in kinds]
    times = {**TIMES, **(STAMPS if in_frame else {})}
    return lists[draw(st.sampled_from(possible))][0], times[draw(st.sampled_from([*times]))]


def impressions(log, ids, time):
    return [dict(user=u, time=time(t), candidates=ids(shown), clicks=ids(clicked)) for t, u, shown, clicked in log["impressions"]]


def labels(log, ids, time):
    return [dict(user=u, time=time(t), candidates=ids(shown), labels=str([int(a in clicked) for a in shown]))
            for t, u, shown, clicked in log["impressions"]]


def marked(log, ids, time):
    "MIND's candidates in a column."
    return [dict(user=u, time=time(t), candidates=" ".join(f"{a}-{int(a in clicked)}" for a in shown)) for t, u, shown, clicked in log["impressions"]]


def long_form(log, ids, time):
    return [dict(impression=n, user=u, time=time(t), article=a, clicked=int(a in clicked))
            for n, (t, u, shown, clicked) in enumerate(log["impressions"], 1) for a in shown]


def events(log, ids, time):
    "Views, then the clicks among them, of one impression and second."
    rows = []
    for n, (t, u, shown, clicked) in enumerate(log["impressions"], 1):
        rows += [dict(impression=n, user=u, time=time(t), article=a, event="view") for a in shown]
        rows += [dict(impression=n, user=u, time=time(t), article=a, event="click") for a in clicked]
    return rows


SHAPES = dict(impressions=impressions, labels=labels, marked=marked, long_form=long_form, events=events)


def write_csv(separator, ending, end="\n", encoding="utf-8"):
    def write(frame, folder, name):
        path = folder / f"{name}.{ending}"
        data = frame.to_csv(index=False, sep=separator, lineterminator=end).encode(encoding)
        path.write_bytes(gzip.compress(data) if ending.endswith("gz") else data)
        return path
    return write


def write_jsonl(frame, folder, name):
    path = folder / f"{name}.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in frame.to_dict("records")), encoding="utf-8")
    return path


FILES = dict(
    frame=lambda frame, folder, name: frame, csv=write_csv(",", "csv"), semicolons=write_csv(";", "csv"), tsv=write_csv("\t", "tsv"),
    packed=write_csv(",", "csv.gz"), windows=write_csv(",", "CSV", "\r\n", "utf-8-sig"), jsonl=write_jsonl,
)
OTHER = dict(user="reader id", time="at", candidates="shown", clicks="opened", labels="was_clicked", article="item", clicked="hit", event="what",
             impression="request", id="item", title="headline")  # names that a file may have, with columns=


def tables(log, rows, file, folder, renamed):
    "Articles and log as they are given to `custom`, and the names of their columns."
    news = pd.DataFrame(dict(id=log["articles"], title=[f"title of {n}" for n in range(len(log["articles"]))]))
    behaviors = pd.DataFrame(rows)
    names = {name: OTHER[name] for frame in (news, behaviors) for name in frame} if renamed else None
    if renamed: news, behaviors = (frame.rename(columns=OTHER) for frame in (news, behaviors))
    return FILES[file](news, folder, "news"), FILES[file](behaviors, folder, "log"), names


@drawn
@given(st.data())
def test_a_log_is_read_as_it_is_written(data):
    log = data.draw(logs())
    shape = data.draw(st.sampled_from([s for s in SHAPES if s != "marked" or log["kind"] in PLAIN]))
    file = data.draw(st.sampled_from([*FILES]))
    ids, time = data.draw(spellings(log, shape, file == "frame"))
    with tempfile.TemporaryDirectory() as folder:
        news, behaviors, names = tables(log, SHAPES[shape](log, ids, time), file, Path(folder), data.draw(st.booleans()))
        found = custom(news, behaviors, columns=names, event=dict(click="click", view="view") if shape == "events" else None,
                       valid=None, test="100%", cache=False)
    assert read(found) == expected(log)
    assert found.news.ids.tolist()[1:] == log["articles"]


def mind_clock(second):
    return pd.Timestamp(second, unit="s").strftime("%m/%d/%Y %I:%M:%S %p")


def mind_lines(log):
    "A behaviors.tsv and a news.tsv."
    lines = []
    for n, ((t, u, shown, clicked), history) in enumerate(zip(log["impressions"], histories(log)), 1):
        candidates = " ".join(f"{a}-{int(a in clicked)}" for a in shown)
        lines.append("\t".join([str(n), u, mind_clock(t), " ".join(history), candidates]))
    return lines, ["\t".join([a, "sport", "", f'"title" of {n}', "", "", "[]", ""]) for n, a in enumerate(log["articles"])]


@settings(drawn, max_examples=max(EXAMPLES // 4, 20))
@given(st.data())
def test_a_folder_of_mind_is_read_as_it_is_written(data):
    log = data.draw(logs().filter(lambda log: log["kind"] in PLAIN))
    end, encoding = data.draw(st.sampled_from(["\n", "\r\n"])), data.draw(st.sampled_from(["utf-8", "utf-8-sig"]))
    last, test = data.draw(st.sampled_from(["", "x"])), data.draw(st.sampled_from(["dev", "valid", "validation", "val", "MINDsmall_dev"]))
    with tempfile.TemporaryDirectory() as folder:
        for split in ("MINDsmall_train" if test.startswith("MIND") else "train", test):
            place = Path(folder) / split
            place.mkdir()
            for name, lines in zip(("behaviors.tsv", "news.tsv"), mind_lines(log)):
                text = end.join(lines) + (end if last else "")
                if data.draw(st.booleans()): (place / f"{name}.gz").write_bytes(gzip.compress(text.encode(encoding)))
                else: (place / name).write_bytes(text.encode(encoding))
        found = mind(path=folder, validation=None, cache=False)
    assert read(found) == expected(log)


BROKEN = ["", "noon", "2019", "43784", "5", "[0 1 2 ... 9]", "[", "{", '["N1"', "None", "nan", "[None]", "[nan, 1]", "1.5", "-1", "\ufeff", '"', "N1-1 N2",
          "2019-11-15 08:00+01:00", "20191115", "9" * 25, "[[1], [2]]", "{'a': 1}"]


@drawn
@given(st.data())
def test_a_broken_cell_is_a_sentence_or_another_cell(data):
    "Whatever stands in one cell: the other impressions are read as they are, or one sentence says what is wrong; nothing else is raised."
    log = data.draw(logs())
    shape = data.draw(st.sampled_from([s for s in SHAPES if s not in ("marked", "events", "long_form") or log["kind"] in PLAIN]))
    ids, time = data.draw(spellings(log, shape, False))
    rows = SHAPES[shape](log, ids, time)
    row = data.draw(st.integers(0, len(rows) - 1))
    column = data.draw(st.sampled_from([name for name in rows[0] if name not in ("user", "impression")]))
    rows[row][column] = data.draw(st.sampled_from(BROKEN))
    with tempfile.TemporaryDirectory() as folder:
        news, behaviors, _ = tables(log, rows, data.draw(st.sampled_from(["frame", "csv", "jsonl"])), Path(folder), False)
        try:
            found = custom(news, behaviors, event=dict(click="click", view="view") if shape == "events" else None, valid=None, test="100%", cache=False)
        except InputError as e:
            assert str(e).startswith("Expected ") and str(e).count("\n") == 0
            return
    if shape in ("impressions", "labels", "marked"):
        whole = [entry[:3] for n, entry in enumerate(expected(log)) if n != row]
        assert all(entry in [e[:3] for e in read(found)] for entry in whole)
