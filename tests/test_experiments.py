"""Runs and their folders across modules: lists in the shell, aborted sweeps, classes of other packages, committed results, a preset reproduced."""
import json
import os
import re
import subprocess
import sys

import jax
import numpy as np
import pytest

from newsrex_nb import hub
from newsrex_nb.experiments import sweeps
from newsrex_nb.cli import main
from newsrex_nb.experiments.configuration import configure, key_table
from newsrex_nb.core import InputError
from newsrex_nb.experiments.run_keys import already_run, key_of, lines_by_key, run_key
from newsrex_nb.experiments.runs import find_runs, reopen
from newsrex_nb.metrics import ranking_metrics
from newsrex_nb.metrics.results import read_results
from newsrex_nb.experiments.sweeps import sweep
from test_packages import ROOT

TINY = ["model.num_heads=2", "model.head_dim=4", "data.vectors=8", "model.query_dim=4", "model.title_length=4",
        "model.history_length=4", "recipe.epochs=1", "recipe.batch_size=64", "recipe.verbose=0",
        "data.articles=150", "data.users=40", "data.impressions=120", "data.valid=40", "data.test=40"]
RATES = "recipe.learning_rate=0.001,0.01"
OUTSIDE = """
from newsrex_nb.layers.attention import AdditiveUser
from newsrex_nb.layers.text import CNNTitle
from newsrex_nb.models import NRMS

class MyModel(NRMS):
    def __init__(self, sizes, boldness=2, # heads
                 word_dim=300, news_encoder=None, user_encoder=None, word_vectors=None, seed=0, **kwargs):
        arguments = {k: v for k, v in locals().items() if k not in ("self", "__class__", "kwargs", "boldness")}
        super().__init__(**arguments, num_heads=boldness, head_dim=4, query_dim=4, title_length=4, history_length=4, **kwargs)
        self.configuration = {k: v for k, v in self.configuration.items() if k in arguments} | {"boldness": boldness}

class MyEncoder(CNNTitle): pass

def my_log(path, articles=150, users=40, impressions=120, valid=40, test=40, vectors=8):
    from newsrex_nb.data import toy
    return toy(articles=articles, users=users, impressions=impressions, valid=valid, test=test, vectors=vectors)
"""


@pytest.fixture(scope="module", autouse=True)
def kept_programs(tmp_path_factory):
    "What one run has compiled serves the next."
    before = jax.config.jax_compilation_cache_dir, jax.config.jax_persistent_cache_min_compile_time_secs
    jax.config.update("jax_compilation_cache_dir", str(tmp_path_factory.mktemp("programs")))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    yield
    jax.config.update("jax_compilation_cache_dir", before[0])
    jax.config.update("jax_persistent_cache_min_compile_time_secs", before[1])


@pytest.fixture(scope="module")
def aborted(tmp_path_factory):
    "A sweep of four runs in the shell that was stopped before its third: (folder, why it stopped)."
    cwd = tmp_path_factory.mktemp("sweep")
    real, done = sweeps.run, []
    def run(config, *rest):
        if len(done) == 2: raise KeyboardInterrupt
        done.append(config)
        return real(config, *rest)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(cwd)
        patch.setattr(sweeps, "run", run)
        status = main(["train", *TINY, RATES, "seed=1,2"])
    return cwd, status


def test_an_aborted_sweep_goes_on(aborted, monkeypatch, capsys):
    cwd, status = aborted
    assert status == 130 and len(find_runs(cwd / "runs")) == 2
    before = {folder: (folder / "experiment.json").read_bytes() for folder, _ in find_runs(cwd / "runs").values()}
    monkeypatch.chdir(cwd)
    assert main(["train", *TINY, RATES, "seed=1,2"]) == 0
    said = capsys.readouterr().out
    assert said.count("already in runs") == 2 and said.count("preset toy") == 2
    assert all((cwd / folder / "experiment.json").read_bytes() == content for folder, content in before.items())
    assert len(find_runs("runs")) == 4 and all(finished for _, finished in find_runs("runs").values())
    table = re.findall(r"^recipe.learning_rate=(\S+) +([\d.]+) ± [\d.]+ +([\d.]+)", said, re.M)
    found = sweep(*TINY, "recipe.learning_rate=[0.001,0.01]", "seed=[1,2]", say=lambda line: None)
    assert found.outcome is None, "nothing is left to run"
    means = found.frame.groupby("recipe.learning_rate").mean(numeric_only=True)
    expected = [(f"{rate}", f"{row['validation']:.4f}", f"{row['test_auc']:.4f}")
                for rate, row in means.sort_values("validation", ascending=False).iterrows()]
    assert table == expected
    assert "Ranked on validation" in said


def test_the_ranking_never_looks_at_the_test(aborted):
    cwd, _ = aborted
    trials = [sweeps.Trial(dict(configure(), seed=s), dict(x=x), results=dict(model=dict.fromkeys(sweeps.METRICS, test)),
                           validation=dict.fromkeys(sweeps.METRICS, valid)) for x, s, valid, test in ((1, 1, .5, .9), (2, 1, .6, .1))]
    trials.append(sweeps.Trial(configure(), dict(x=3), results=dict(model=dict.fromkeys(sweeps.METRICS, 1.))))
    assert [point["x"] for point, _ in sweeps.Sweep(trials).ranking] == [2, 1, 3]


def test_what_a_run_leaves(aborted):
    from safetensors.numpy import load_file
    folder = next(iter(find_runs(aborted[0] / "runs").values()))[0]
    about, found = json.loads((folder / "experiment.json").read_text()), load_file(folder / "scores.safetensors")
    assert about["config"]["recipe"]["negatives"] == 4 and about["config"]["seed"] in (1, 2) and about["finished"]
    assert {"keras", "jax", "newsrex_nb"} <= set(about["versions"]) and about["device"]["kind"] and about["data"]["key"]
    assert about["data"]["splits"]["valid"]["impressions"] == 40 and about["reads"]["columns"] == {"title": 4}
    measured = json.loads((folder / "test_results.json").read_text())["model"]
    again = ranking_metrics(found["scores"], found["labels"], found["offsets"])
    assert {m: again[m] for m in measured} == measured
    model, data, known = reopen(folder)
    assert known and (found["ids"] == data.test.ids).all() and (found["user"] == data.test.user).all()
    from newsrex_nb.engine.scoring import scores
    assert (scores(model, data) == found["scores"]).all()
    history = json.loads((folder / "history.json").read_text())
    assert history["validation"]["auc"] == history["val_auc"][history["best_epoch"] - 1]
    assert "epoch 1: loss" in (folder / "log.txt").read_text() and (folder / "curve.png").exists()


def test_data_are_opened_by_name(aborted, tmp_path):
    "What a run's file says about a function to call is not believed."
    import shutil
    folder = next(iter(find_runs(aborted[0] / "runs").values()))[0]
    copy = shutil.copytree(folder, tmp_path / "copy")
    about = json.loads((copy / "experiment.json").read_text())
    about["config"]["data"]["_target_"] = "os.abort"
    (copy / "experiment.json").write_text(json.dumps(about))
    assert reopen(copy)[1].name == "toy-small"
    about["config"]["parts"]["data"] = "os.abort"
    (copy / "experiment.json").write_text(json.dumps(about))
    with pytest.raises(InputError, match="modules that you trust in .*copy, got 'os.abort'"): reopen(copy)


@pytest.mark.slow
def test_classes_of_another_package(tmp_path):
    "A model, an encoder and a function of data that lie beside the runs: trained by one process, opened by another."
    (tmp_path / "my_package.py").write_text(OUTSIDE)
    (tmp_path / "logs").mkdir()
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    def newsrex(*calls):
        command = [sys.executable, "-c", "import json, sys; sys.path = [p for p in sys.path if p]; from newsrex_nb.cli import main; "
                   "sys.exit(max(main(words) for words in json.loads(sys.argv[1])))", json.dumps(calls)] # as the installed command: without the folder
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=env)
    own = [text for text in TINY if not text.startswith("model.")]
    encoder = ["model.news_encoder=my_package:MyEncoder", "model.news_encoder.filters=6", "model.user_encoder=AdditiveUser"]
    source = ["data=my_package.my_log", "data.path=./logs"]
    done = newsrex(["train", "model=my_package.MyModel", "model.boldness=3", *encoder, *source, *own, "folder=mine"])
    assert done.returncode == 0, done.stderr
    assert "newsrex train model=my_package.MyModel data=my_package.my_log --help" in done.stdout
    about = json.loads((tmp_path / "mine/experiment.json").read_text())["config"]
    assert about["data"]["path"] == str(tmp_path / "logs") and about["typed"] == {"path": "./logs"}
    config = json.loads((tmp_path / "mine/config.json").read_text())
    assert config["class"] == "my_package:MyModel" and config["config"]["boldness"] == 3
    assert config["config"]["news_encoder"]["config"]["filters"] == 6
    saved = json.loads((tmp_path / "mine/test_results.json").read_text())["model"]["auc"]
    again = newsrex(["evaluate", "mine", "trust=my_package"], ["train", "model=my_package.MyModel", "model.coldness=3", *own])
    assert re.search(rf"^MyModel +{saved:.4f} ", again.stdout, re.M)
    assert again.returncode == 2 and "perhaps boldness is meant" in again.stderr and again.stderr.count("\n") == 1


@pytest.mark.parametrize("path", sorted({*(ROOT / "results").glob("*.jsonl")} - {ROOT / "results/promises.jsonl"}), ids=lambda p: p.stem)
def test_committed_results_are_recognised(path):
    "A line's key follows from its configuration, also after arguments have been added; the command that made a line finds it."
    lines, asked, kinds = lines_by_key(path), None, set()
    for line in read_results(path):
        assert line["run"] == key_of(line) == run_key(line["config"]), "a default has changed: write key_of(line) into the lines"
        given = [t for t in line["config"]["given"] if not t.startswith(("results=", "seed="))]
        names = frozenset(t.partition("=")[0] for t in given)
        kind = names, line["config"]["parts"]["model"] # one command of each form and model: understanding one takes a quarter of a second
        if kind in kinds: continue
        kinds.add(kind)
        asked = configure(*given, f"seed={line['config']['seed']}")
        assert lines[run_key(asked)]["run"] == line["run"]
    assert not asked or already_run(path, asked) == lines[run_key(asked)]


def test_reproduce_in_the_shell(aborted, monkeypatch, capsys):
    monkeypatch.chdir(aborted[0])
    words = ["reproduce", "card/nrms", "data=toy", *TINY, "model.word_dim=8", "seed=1,2"]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "This is not the published experiment:\n  The data are toy: the published numbers belong to MIND-small." in said
    assert re.search(r"^AUC +[\d.]+ ± [\d.]+ +0.6561 ± 0.0007 +[+-][\d.]+ +[+-][\d.]+ to [+-][\d.]+$", said, re.M)
    path = re.search(r"^Report (.+)$", said, re.M)[1]
    report = json.loads(open(path).read())
    assert path != "results/reproduced/card-nrms.json" and len(report["departures"]) == 1 and len(report["seeds"]) == 2
    for key in ("protocol", "versions", "device", "data", "seeds", "assumed", "source"): assert report[key]
    values = [seed["test"]["auc"] for seed in report["seeds"].values()]
    assert report["compared"]["auc"]["difference"] == pytest.approx(np.mean(values) - .6561)
    content = open(path).read()
    assert main(words) == 0 and capsys.readouterr().out.count("already in") == 2 and open(path).read() == content
    assert main(["reproduce"]) == 0 and "| `card/nrms` |  | 0.6561 ± 0.0007 | *not yet run on MIND-small* | – |" in capsys.readouterr().out
    assert main(["reproduce", "card/nrsm"]) == 2 and "card/nrms" in capsys.readouterr().err


@pytest.mark.slow
def test_a_probe_of_two_seeds_is_not_repeated(tmp_path, monkeypatch, capsys):
    "Seeds share the parts of a configuration; the width that the first model adopts is not the second one's wish."
    monkeypatch.chdir(tmp_path)
    words = ["probe", "model=nrms", "model.num_heads=2", "model.head_dim=4", "data.articles=150", "data.users=40",
             "data.impressions=100", "data.valid=40", "data.test=40", "recipe.epochs=1", "seed=1,2", "results=probe.jsonl"]
    assert main(words) == 0 and capsys.readouterr().out.count("nrms-toy, seed") == 2
    lines = read_results("probe.jsonl")
    assert [line["run"] for line in lines] == [key_of(line) for line in lines] and len({line["run"] for line in lines}) == 2
    assert [line["config"]["asked"]["word_dim"] for line in lines] == [300, 300]
    assert main(words) == 0 and "seed" not in capsys.readouterr().out.split("| ")[0]
    assert len(read_results("probe.jsonl")) == 2


def test_one_runner_for_all(aborted, tmp_path, monkeypatch, capsys):
    "What `train` has written into a file of results, a runner with the same configuration does not make again."
    from newsrex_nb.experiments.runner import Runner
    monkeypatch.chdir(tmp_path)
    assert main(["train", *TINY, "seed=1", "results=runs.jsonl"]) == 0
    config = configure(*TINY, "seed=1")
    (line,) = Runner("runs.jsonl").run([config], lambda lacking: pytest.fail("trained again"))
    assert line == read_results("runs.jsonl")[0] == already_run("runs.jsonl", config)


def test_help_stays_readable():
    for words in ([], ["preset=card/tccm"], ["model=nrms", "model.news_encoder=CNNTitle"]):
        lines = key_table(*words).split("\n")
        assert len(lines) < 110 and max(map(len, lines)) < 150
    assert any(line.startswith("    model.news_encoder.filters=400") for line in lines)
