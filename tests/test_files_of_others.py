"""Files as other people and programs leave them: ids of any form from the log to the comparison, folders behind links, tests that are whole."""
import warnings
import zipfile

import numpy as np
import pandas as pd
import pytest

from newsrex_nb.cli import main
from newsrex_nb.core import InputError
from newsrex_nb.data import custom, mind, toy
from newsrex_nb.data.cache import from_arrays, to_arrays
from newsrex_nb.data.schema import take
from newsrex_nb.evaluate import evaluate, predict
from newsrex_nb.evaluate.predictions import FileScores, check_predictions
from newsrex_nb.experiments.compare_runs import read_run_scores
from newsrex_nb.experiments.runner import save_scores

FORMS = {"texts": "req-{}-a", "zeros in front": "{:07}", "long numbers": "1234567890123456{:05}", "with a line": "270_{}",
         "no ids": "0", "some twice": "session-{0!s:.1}"}


@pytest.fixture(scope="module")
def mind_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mind")
    toy(articles=128, impressions=60, valid=20, test=40, users=12).write_mind(folder, unlabelled=True)
    return folder


def copied(source, target, ids=None, **changes):
    "A folder of MIND's format whose behaviors.tsv are changed: other impression ids, or lines by split."
    for path in sorted(p for p in source.rglob("*") if p.is_file()):
        new = target / path.relative_to(source)
        new.parent.mkdir(parents=True, exist_ok=True)
        text = path.read_text(encoding="utf-8")
        if path.name == "behaviors.tsv":
            lines = [line.split("\t") for line in text.splitlines()]
            if ids: lines = [[ids.format(i), *line[1:]] for i, line in enumerate(lines, 1)]
            lines = ["\t".join(line) for line in lines]
            text = "\n".join(changes.get(path.parent.name, lambda lines: lines)(lines)) + "\n"
        new.write_text(text, encoding="utf-8")
    return target


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_impression_ids(mind_folder, tmp_path, form):
    "Kept as written; measured, cached, written, read and compared as the same log with numbers for ids."
    data = mind(path=copied(mind_folder, tmp_path / "log", form), cache=False)
    plain = mind(path=mind_folder, cache=False)
    ids = data.test.ids.astype(str).tolist()
    assert ids == [form.format(i) for i in range(1, len(ids) + 1)]
    again = from_arrays(dict(to_arrays(data)))
    assert again.test.ids.tolist() == data.test.ids.tolist()
    flat = np.random.default_rng(0).permutation(len(plain.test.candidates)).astype(np.float32)
    save_scores(tmp_path / "s.safetensors", data.test, flat)
    assert (read_run_scores(tmp_path / "s.safetensors", data.test) == flat).all()
    path = tmp_path / "p.zip"
    predict(flat, data, path)
    assert check_predictions(path, data.test, data) == len(ids)
    measured = evaluate(flat, plain)
    assert evaluate(FileScores(path, data), data) == measured
    if len({*ids}) < len(ids):
        with zipfile.ZipFile(path) as z: lines = z.read("prediction.txt").decode().splitlines()
        (tmp_path / "short.txt").write_text("\n".join(lines[1:]) + "\n")
        with pytest.raises(InputError): FileScores(tmp_path / "short.txt", data).scores(data.test)
    else:
        predict(flat, data, tmp_path / "p.tsv")
        assert evaluate(FileScores(tmp_path / "p.tsv", data), data) == measured


def test_rows_that_repeated_ids_do_not_tell_apart(tmp_path):
    data = toy(articles=128, impressions=60, valid=20, test=20, users=12)
    log = take(data.test, [0, 0, 1])
    log.ids = np.zeros(3, int)
    flat = np.arange(len(log.candidates), dtype=float)
    with pytest.warns(UserWarning, match="only their order says which is which"): predict(flat, data, tmp_path / "p.tsv", log)
    with pytest.raises(InputError, match="whose impression ids repeat"): FileScores(tmp_path / "p.tsv", data).scores(log)
    predict(flat, data, tmp_path / "p.txt", log)
    assert np.argsort(FileScores(tmp_path / "p.txt", data).scores(log)[:log.offsets[1]]).tolist() == list(range(log.offsets[1]))


def without_history(lines): return ["\t".join([*(f := line.split("\t"))[:3], "" if i % 3 == 0 else f[3] or "N1", f[4]]) for i, line in enumerate(lines)]


def test_a_test_is_whole(mind_folder, tmp_path):
    "Dropped impressions are missing from training and validation only, whichever split is the test."
    folder = copied(mind_folder, tmp_path / "log", train=without_history, dev=without_history, test=without_history)
    lines = {split: len((folder / split / "behaviors.tsv").read_text().splitlines()) for split in ("train", "dev", "test")}
    kept = mind(path=folder, cache=False)
    dropped = mind(path=folder, cache=False, empty_history="drop")
    assert len(kept.test) == len(dropped.test) == lines["dev"]
    assert len(dropped.train) + len(dropped.valid) < len(kept.train) + len(kept.valid) == lines["train"]
    leaderboard = mind(path=folder, cache=False, empty_history="drop", validation="dev")
    assert len(leaderboard.test) == lines["test"] and len(leaderboard.valid) < lines["dev"]
    news = pd.DataFrame(dict(id=[f"N{i}" for i in range(9)], title="a b"))
    rows = [dict(user=f"U{i % 4}", time=f"2024-01-0{1 + i // 10} 0{i % 10}:00", history="N0" if i % 2 else "",
                 candidates="N1 N2 N3", clicks="N1") for i in range(60)]
    own = custom(news, pd.DataFrame(rows), empty_history="drop")
    assert len(own.test) == 6 and not own.test.histories.lengths[own.test.history].all()
    assert own.train.histories.lengths[own.train.history].all()


def test_lines_without_a_prediction(mind_folder, tmp_path, capsys):
    "A log with a line that cannot be read has a file of predictions that is not whole, and both commands say so."
    def spoiled(lines): return [lines[0], "five columns?", *lines[2:]]
    folder = copied(mind_folder, tmp_path / "log", dev=spoiled)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data = mind(path=folder, cache=False, malformed="skip")
    flat = np.arange(len(data.test.candidates), dtype=float)
    with pytest.warns(UserWarning, match=r"not whole: 1 line of dev/behaviors.tsv \(2\) could not be read"): predict(flat, data, tmp_path / "p.zip")
    with pytest.raises(InputError, match="prediction for every line of the log"): check_predictions(tmp_path / "p.zip", data.test, data)
    blind = folder / "dev/behaviors.tsv"
    text = blind.read_text()
    blind.write_text(text.replace("-0", "").replace("-1", ""))
    command = ["evaluate", f"predictions={tmp_path / 'p.zip'}", "data=mind", f"data.path={folder}", "data.malformed=skip", "data.cache=false"]
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        assert main(command) == 2
    said = capsys.readouterr()
    assert "takes it" not in said.out and "none for 1 line of dev/behaviors.tsv (2)" in said.err


def test_folders_behind_links(mind_folder, tmp_path):
    "A link to a folder is that folder; without train/, dev/ is not trained on."
    (tmp_path / "log").mkdir()
    for name, split in (("train", "train"), ("validation", "dev")):
        try: (tmp_path / "log" / name).symlink_to(mind_folder / split, target_is_directory=True)
        except OSError: pytest.skip("links need a right here")
    linked, plain = mind(path=tmp_path / "log", cache=False), mind(path=mind_folder, cache=False)
    assert len(linked.train) == len(plain.train) and (linked.test.candidates == plain.test.candidates).all()
    (tmp_path / "log" / "train").unlink()
    with pytest.raises(InputError, match="train beside validation .*validation alone"): mind(path=tmp_path / "log", cache=False)
    (tmp_path / "log" / "train").symlink_to(tmp_path / "unmounted")
    with pytest.raises(InputError, match="a link to nothing"): mind(path=tmp_path / "log", cache=False)
    (tmp_path / "log" / "train").unlink()
    (tmp_path / "log" / "train").symlink_to(tmp_path / "log")
    with pytest.raises(InputError, match="on its own way"): mind(path=tmp_path / "log", cache=False)
