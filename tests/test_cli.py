"""The shell in processes of its own, on a toy world of a few hundred articles."""
import json
import os
import re
import subprocess
import sys
import time
import zipfile

import pytest

TINY = ["model.num_heads=2", "model.head_dim=8", "model.word_dim=16", "recipe.epochs=1", "recipe.batch_size=64",
        "data.articles=200", "data.users=50", "data.impressions=200", "data.valid=50", "data.test=60"]


def newsrex(*words, cwd):
    return subprocess.run([sys.executable, "-c", "import sys; from newsrex_nb.cli import main; sys.exit(main())", *map(str, words)],
                          cwd=cwd, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})


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
    assert "Next   newsrex recommend runs/nrms-toy-2 history=" in done.stdout
    for seed, name in ((3, "nrms-toy-1"), (4, "nrms-toy-2")):
        about = json.loads((cwd / "runs" / name / "experiment.json").read_text())
        assert about["config"]["seed"] == seed and about["config"]["given"] == [*TINY, "seed=[3,4]"]
        assert about["config"]["model"]["num_heads"] == 2 and about["data"]["splits"]["test"]["impressions"] == 60
        assert (cwd / "runs" / name / "curve.png").read_bytes()[:4] == b"\x89PNG"
        assert len(json.loads((cwd / "runs" / name / "history.json").read_text())["val_auc"]) == 1
    assert not [*cwd.rglob("*.part*")]


def test_evaluate_gives_the_same_numbers(trained):
    cwd, _ = trained
    done = newsrex("evaluate", "runs/nrms-toy-1", cwd=cwd)
    saved = json.loads((cwd / "runs/nrms-toy-1/test_results.json").read_text())
    for row, found in (("NRMS", saved["model"]), ("oracle", saved["baselines"]["oracle"])):
        assert numbers(done.stdout, row) == tuple(f"{found[m]:.4f}" for m in ("auc", "mrr", "ndcg@5", "ndcg@10"))


def test_predict_and_recommend(trained):
    cwd, done = trained
    call = re.search(r"newsrex (recommend .*)", done.stdout)[1].split()
    asked = newsrex(*call, "k=3", cwd=cwd)
    assert len(asked.stdout.splitlines()) == 3, asked.stderr
    assert not set(re.findall(r"^N\d+", asked.stdout, re.M)) & set(call[-1].split("=")[1].split(","))
    assert newsrex("predict", "runs/nrms-toy-1", "path=p.zip", cwd=cwd).returncode == 0
    with zipfile.ZipFile(cwd / "p.zip") as z: assert len(z.read("prediction.txt").splitlines()) == 60


@pytest.mark.parametrize("words, sentence", [
    (["train", "recipe.epoch=3"], "perhaps epochs is meant"),
    (["train", "data=mind", "data.path=nowhere"], "nowhere"),
    (["trian"], "'train'"),
    (["evaluate", "runs/nothing"], "folder of a saved model")])
def test_one_sentence(words, sentence, tmp_path):
    done = newsrex(*words, cwd=tmp_path)
    assert done.returncode == 2 and sentence in done.stderr and done.stderr.count("\n") == 1 and not done.stdout
    assert not (tmp_path / "runs").exists()


def test_help_is_fast(tmp_path):
    script = "import sys, newsrex_nb.cli as c; c.main(['--help']); sys.exit('keras' in sys.modules or 'jax' in sys.modules)"
    newsrex("--help", cwd=tmp_path)
    start = time.perf_counter()
    assert newsrex("--help", cwd=tmp_path).stdout.startswith("newsrex")
    assert time.perf_counter() - start < 3  # half a second when nothing else runs
    assert subprocess.run([sys.executable, "-c", script], capture_output=True).returncode == 0
    keys = newsrex("train", "--help", cwd=tmp_path).stdout
    assert "model.num_heads=" in keys and "recipe.patience=null" in keys and "data.impressions=" in keys
