"""The shell on a toy world of a few hundred articles: a process of its own trains, this one reads what it has left."""
import json
import os
import re
import subprocess
import sys
import zipfile

import pytest

from newsrex_nb.cli import main

TINY = ["model.num_heads=2", "model.head_dim=8", "data.vectors=16", "model.query_dim=8", "model.title_length=8",
        "model.history_length=8", "recipe.epochs=1", "recipe.batch_size=64",
        "data.articles=200", "data.users=50", "data.impressions=200", "data.valid=50", "data.test=60"]


def newsrex(*words, cwd):
    "Runs the shell in `cwd`."
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", "import sys; from newsrex_nb.cli import main; sys.exit(main())", *map(str, words)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, env=env)


def numbers(text, row): return re.search(rf"^{row} +([\d.]+) +([\d.]+) +([\d.]+) +([\d.]+)$", text, re.M).groups()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    cwd = tmp_path_factory.mktemp("shell")
    return cwd, newsrex("train", *TINY, "seed=3,4", cwd=cwd)


def test_train(trained):
    cwd, done = trained
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr and "hydra" not in done.stderr.lower()
    assert re.search(r"^NRMS +[\d.]+ ± [\d.]+", done.stdout, re.M) and "mean ± sd of 2 seeds" in done.stdout
    assert re.search(r"Next   newsrex recommend runs/nrms-toy-seed_[34] history=", done.stdout)  # the best on validation
    for seed, name in ((3, "nrms-toy-seed_3"), (4, "nrms-toy-seed_4")):
        about = json.loads((cwd / "runs" / name / "experiment.json").read_text())
        assert about["config"]["seed"] == seed and about["config"]["given"] == [*TINY, "seed=[3,4]"]
        assert about["config"]["model"]["num_heads"] == 2 and about["data"]["splits"]["test"]["impressions"] == 60
        assert (cwd / "runs" / name / "curve.png").read_bytes()[:4] == b"\x89PNG"
        assert len(json.loads((cwd / "runs" / name / "history.json").read_text())["val_auc"]) == 1
    assert not [*cwd.rglob("*.part*")]


def test_results_are_gathered_and_not_repeated(trained, monkeypatch, capsys):
    cwd, _ = trained
    monkeypatch.chdir(cwd)
    call = ["train", *TINY, "seed=3", "results=results/toy.jsonl", "folder=again"]
    assert main(call) == 0, capsys.readouterr().err
    capsys.readouterr()
    assert main(call) == 0 and capsys.readouterr().out == "nrms-toy, seed 3: already in results/toy.jsonl\n"
    assert len((cwd / "results/toy.jsonl").read_text().splitlines()) == 1
    assert main(["table", "results/toy.jsonl"]) == 0
    saved = json.loads((cwd / "runs/nrms-toy-seed_3/test_results.json").read_text())["model"]
    assert re.search(rf"^\| NRMS .*\| {saved['auc']:.4f} \| {saved['mrr']:.4f} \|.*\| 1 \|", capsys.readouterr().out, re.M)


def test_evaluate_gives_the_same_numbers(trained, monkeypatch, capsys):
    cwd, _ = trained
    monkeypatch.chdir(cwd)
    assert main(["evaluate", "runs/nrms-toy-seed_3"]) == 0
    said = capsys.readouterr().out
    saved = json.loads((cwd / "runs/nrms-toy-seed_3/test_results.json").read_text())
    for row, found in (("NRMS", saved["model"]), ("oracle", saved["baselines"]["oracle"])):
        assert numbers(said, row) == tuple(f"{found[m]:.4f}" for m in ("auc", "mrr", "ndcg@5", "ndcg@10"))


def test_predict_and_recommend(trained, monkeypatch, capsys):
    cwd, done = trained
    monkeypatch.chdir(cwd)
    call = re.search(r"newsrex (recommend .*)", done.stdout)[1].split()
    assert main([*call, "k=3"]) == 0
    ids = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert len(ids) == 3 and not set(ids) & set(call[-1].split("=")[1].split(","))
    assert main(["predict", "runs/nrms-toy-seed_3", "path=p.zip"]) == 0
    with zipfile.ZipFile("p.zip") as z: assert len(z.read("prediction.txt").splitlines()) == 60


def test_share(trained, monkeypatch, capsys):
    "Two runs become one folder, from which anybody measures the same numbers."
    cwd, _ = trained
    monkeypatch.chdir(cwd)
    runs = {seed: f"runs/nrms-toy-seed_{seed}" for seed in (3, 4)}
    valid = {seed: json.loads((cwd / run / "history.json").read_text()) for seed, run in runs.items()}
    best = max(valid, key=lambda seed: sum(valid[seed][f"val_{m}"][0] for m in ("auc", "mrr", "ndcg@5", "ndcg@10")))
    assert main(["share", *runs.values(), "folder=shared/nrms"]) == 0
    assert f"seed_{best}: " in (out := capsys.readouterr().out) and re.search(rf"seed_{best}: .*, best by validation \(mean\)", out)
    saved = json.loads((cwd / runs[best] / "test_results.json").read_text())["model"]
    assert main(["evaluate", "shared/nrms"]) == 0
    assert numbers(capsys.readouterr().out, "NRMS") == tuple(f"{saved[m]:.4f}" for m in ("auc", "mrr", "ndcg@5", "ndcg@10"))
    assert main(["share", "folder=shared/nrms"]) == 2 and "newsrex share runs/" in capsys.readouterr().err


@pytest.mark.parametrize("words, sentence", [
    (["train", "recipe.epoch=3"], "perhaps epochs is meant"),
    (["train", "recipe.epochs=x"], "a whole number in recipe.epochs"),
    (["train", "data=mind", "data.path=nowhere"], "nowhere"),
    (["evaluate", "runs/nothing"], "folder of a saved model")])
def test_one_sentence(words, sentence, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    said = capsys.readouterr().err
    assert sentence in said and said.count("\n") == 1 and not [*tmp_path.iterdir()]


def test_status(tmp_path):
    done = newsrex("trian", cwd=tmp_path)
    assert done.returncode == 2 and "'train'" in done.stderr and done.stderr.count("\n") == 1 and not done.stdout


def test_help_needs_no_keras(tmp_path, capsys):
    script = "import sys, newsrex_nb.cli as c; c.main(['--help']); sys.exit('keras' in sys.modules or 'jax' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith("newsrex")
    assert main(["train", "--help"]) == 0
    keys = capsys.readouterr().out
    assert "model.num_heads=" in keys and "recipe.patience=null" in keys and "data.impressions=" in keys
