"""Tables in every kind of file and frame give the same data set, and a path is what somebody called it."""
import importlib
import itertools
import os
import random
import warnings

import pandas as pd
import pytest

from newsrex_nb.cli import main
from newsrex_nb.core import InputError
from newsrex_nb.data import custom, toy
from newsrex_nb.data.ids import as_texts, id_lists
from newsrex_nb.data.sources.frames import read_frame

BIG = 2**53 + 1  # the first whole number that a fraction cannot hold
NEWS = pd.DataFrame(dict(id=[f"{BIG + i}" for i in range(8)], title=['"Quoted" start', 'it\'s, "so"', "a\tb", *(f"title of {i}" for i in range(5))]))
LOG = pd.DataFrame([(f"U{i % 5}", f"2024-01-{1 + i // 8:02d} 0{i % 8}:00:00", [f"{BIG + i % 8}", f"{BIG + (i + 3) % 8}"], [f"{BIG + i % 8}"]) for i in range(40)],
                   columns=["user", "time", "candidates", "clicks"])


@pytest.fixture(autouse=True)
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def read(news, log): return custom(news, log, min_count=1, cache=False)


@pytest.fixture(scope="module")
def expected(): return read(NEWS, LOG)


def spread(folder, frame):
    "A frame as parts in folders whose names hold one of its columns."
    column = frame.columns[0]
    for number, (value, part) in enumerate(frame.groupby(column, sort=False)):
        (folder / f"{column}={value}").mkdir(parents=True, exist_ok=True)
        part.drop(columns=column).to_parquet(folder / f"{column}={value}" / f"{number}.parquet")
    return folder


def polars(frame, lazy=False):
    frame = pytest.importorskip("polars").DataFrame(frame.to_dict("list"))
    return frame.lazy() if lazy else frame


def arrow(frame): return pytest.importorskip("pyarrow").Table.from_pylist(frame.to_dict("records"))


def duck(frame):
    table = arrow(frame)
    return pytest.importorskip("duckdb").connect().from_arrow(table)


FRAMES = dict(polars=polars, lazy=lambda f: polars(f, lazy=True), arrow=arrow, duckdb=duck, stream=lambda f: arrow(f).to_reader())


@pytest.mark.parametrize("kind", FRAMES)
def test_frames_of_other_libraries(kind, expected):
    data = read(FRAMES[kind](NEWS), FRAMES[kind](LOG))
    assert data.key == expected.key and data.news.ids.tolist() == expected.news.ids.tolist()


FILES = {
    "a.csv": {}, "A.CSV": {}, "a.tsv.gz": dict(sep="\t"), "a.csv.zst": {}, "semicolons.csv": dict(sep=";"), "bars.txt.bz2": dict(sep="|"),
    "marked.csv": dict(encoding="utf-8-sig"), "wide.tsv": dict(sep="\t", encoding="utf-16"), "windows.csv.xz": dict(lineterminator="\r\n")}


@pytest.mark.parametrize("name", FILES)
def test_text_files(name, expected, tmp_path):
    if name.endswith(".zst"): pytest.importorskip("zstandard")
    paths = [tmp_path / f"{table} {name}" for table in ("news", "log")]
    for path, frame in zip(paths, (NEWS, LOG)): frame.to_csv(path, index=False, **FILES[name])
    data = read(*paths)
    assert data.key == expected.key and list(data.news.title) == list(expected.news.title)


def numbers(frame, column): return frame.assign(**{column: [int(cell) for cell in frame[column]]})


@pytest.mark.parametrize("kind", ["parquet", "feather", "jsonl", "xlsx", "folder"])
def test_other_files(kind, expected, tmp_path):
    if kind == "xlsx": pytest.importorskip("openpyxl")
    elif kind != "jsonl": pytest.importorskip("pyarrow")
    paths = [tmp_path / f"{name}.{kind}" for name in ("news", "log")]
    for path, frame in zip(paths, (numbers(NEWS, "id"), LOG)):
        if kind == "jsonl": frame.to_json(path, orient="records", lines=True)
        elif kind == "xlsx": frame.astype(str).to_excel(path, index=False)
        elif kind == "folder": spread(path, frame)
        else: getattr(frame, f"to_{kind}")(path)
    data = read(*paths)
    assert data.news.ids.tolist() == expected.news.ids.tolist() and len(data.train) == len(expected.train)


def test_gaps_do_not_make_fractions_of_ids(tmp_path):
    pytest.importorskip("pyarrow")
    table = pytest.importorskip("pyarrow").table(dict(id=[BIG, None, 7], tags=[[BIG, None], None, []], read=[.5, None, 1]))
    importlib.import_module("pyarrow.parquet").write_table(table, tmp_path / "a.parquet")
    for source in (table, tmp_path / "a.parquet"):
        frame, _ = read_frame(source, "news")
        assert as_texts(frame.id) == [str(BIG), "", "7"] and frame.tags.tolist() == [[BIG, None], None, []]
    (tmp_path / "a.jsonl").write_text(f'{{"id": {BIG}}}\n{{"id": null}}\n{{"title": "x"}}\n')
    assert as_texts(read_frame(tmp_path / "a.jsonl", "news")[0].id) == [str(BIG), "", ""]


def quote(field, sep):
    "A field as a careful writer writes it."
    return '"' + field.replace('"', '""') + '"' if set(field) & {sep, '"', "\n", "\r"} else field


PIECES = ['"', '""', "a", " ", "N2", "x y", "yes", "'"]


@pytest.mark.parametrize("seed", range(40))
def test_no_row_is_lost_to_a_quotation_mark(seed, tmp_path):
    "Rows with quotes anywhere: as many articles as lines, with their letters, or a sentence that names a line."
    rng = random.Random(seed)
    rows = [(f"N{i}", "".join(rng.choices(PIECES, k=rng.randrange(1, 5))).strip() or "a", rng.choice(["sports", ""])) for i in range(1, 9)]
    for sep, written in itertools.product("\t,", (False, True)):
        path = tmp_path / ("a.tsv" if sep == "\t" else "a.csv")
        lines = [sep.join(quote(f, sep) if written else f for f in row) for row in [("id", "title", "category"), *rows]]
        path.write_text("\n".join(lines) + "\n")
        try: frame, _ = read_frame(path, "news")
        except InputError as e:
            assert not written and sep == "," and f"{path}, line " in str(e)
            continue
        assert frame.id.tolist() == [row[0] for row in rows]
        if written: assert frame.title.tolist() == [row[1] for row in rows]
        else: assert [t.replace('"', "") for t in frame.title] == [row[1].replace('"', "") for row in rows]


def test_lists_stay_lists(tmp_path):
    frame, _ = read_frame(arrow(pd.DataFrame(dict(entities=[["New York", "River, Thames"], []]))), "news")
    assert id_lists(frame.entities)[0] == [(), ("New York", "River, Thames")]


WRONG = {
    "version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 9\n": "git lfs pull",
    "<!DOCTYPE html>\n<html>": "a web page", "id,title,id\n1,2,3\n": "'id' twice", "id,title\n1,a,b\n": "line 2, got 3 fields under a header of 2",
    "id,title\n1,a\n2\n": "line 3, got 1 field under a header of 2", 'id,title\n1,"a\n2,b\n': "line 2, got a quotation mark", "": "an empty file"}


@pytest.mark.parametrize("text", WRONG)
def test_what_is_wrong_is_named(text, tmp_path):
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(InputError) as said: read_frame(tmp_path / "a.csv", "news")
    assert WRONG[text] in str(said.value) and str(tmp_path / "a.csv") in str(said.value) and "\n" not in str(said.value)


def test_home_and_odd_names(tmp_path, monkeypatch, capsys, expected):
    monkeypatch.setenv("HOME", str(tmp_path)); monkeypatch.setenv("USERPROFILE", str(tmp_path))
    NEWS.to_csv(tmp_path / "news.csv", index=False); LOG.to_csv(tmp_path / "log, all.csv", index=False)
    kept = [custom("~/news.csv", "~/log, all.csv", min_count=1, cache="~/kept").key for _ in range(2)]
    assert kept == [expected.key] * 2 and len([*(tmp_path / "kept").iterdir()]) == 1 and not os.path.exists("~")
    toy(articles=60, topics=3, subtopics=2, users=20, impressions=60, valid=20, test=20).write_mind("~/lr=0.1,north")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "2024").symlink_to(tmp_path / "lr=0.1,north")
    scores = tmp_path / "scores.tsv"
    from newsrex_nb.data import mind
    from newsrex_nb.evaluate.baselines import ClicksSoFar
    from newsrex_nb.evaluate.predictions import write_scores
    data = mind(path="2024", min_count=1, cache=False)
    write_scores("~/scores.tsv", data.news, data.test, ClicksSoFar(data).scores(data.test))
    assert scores.exists()
    for path in ("lr=0.1,north", "2024", "~/lr=0.1,north", str(tmp_path / "lr=0.1,north")):
        assert main(["evaluate", "predictions=~/scores.tsv", "data=mind", f"data.path={path}", "data.cache=false", "data.min_count=1"]) in (0, None)
        assert f"MIND, test: {len(data.test)} impressions" in capsys.readouterr().out
