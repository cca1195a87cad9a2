"""Weights that were saved under JAX give the same scores under torch, by the plain path, in a process of its own."""
import importlib.util
import json
import os
import subprocess
import sys

import numpy as np
import pytest

from newsrex_nb import hub, models
from newsrex_nb.models.base import NewsRecommender
from newsrex_nb.engine.scoring import direct_scores
from probes import shaken, tiny, world

PAPERS = [c.__name__ for c in vars(models).values() if isinstance(c, type) and issubclass(c, NewsRecommender)]
pytestmark = pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch is not installed")

OTHER = """
import json, sys
import numpy as np
from pathlib import Path
folder = Path(sys.argv[1])
sys.path.insert(0, sys.argv[2])
import keras
assert keras.config.backend() == "torch"
from newsrex_nb import hub
from newsrex_nb.core import InputError
from newsrex_nb.evaluate import evaluate
from newsrex_nb.engine.scoring import direct_scores, scores
from probes import world
data, said = world(), {}
for name in json.loads(sys.argv[3]):
    model, _ = hub.load(folder / name)
    np.save(folder / f"{name}.npy", direct_scores(model, data, data.test, batch_size=8))
    if name == "NRMS":
        said["scores"] = float(np.abs(scores(model, data) - np.load(folder / f"{name}.npy")).max())
        said["auc"] = evaluate(model, data)["auc"]
        try: from newsrex_nb.train import fit; fit(model, data)
        except InputError as e: said["fit"] = str(e)
print(json.dumps(said))
"""


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    "Scores of every model here, and what the other process has made of the saved weights."
    folder, data, here = tmp_path_factory.mktemp("torch"), world(), {}
    for name in PAPERS:
        model = shaken(tiny(getattr(models, name), data))
        here[name] = direct_scores(model, data, data.test, batch_size=8)
        hub.save(folder / name, model, data.features)
    env = {**os.environ, "KERAS_BACKEND": "torch", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", OTHER, folder, os.path.dirname(__file__), json.dumps(PAPERS)]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr[-3000:]
    return here, {name: np.load(folder / f"{name}.npy") for name in PAPERS}, json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", PAPERS)
def test_scores(both, name):
    here, there, _ = both
    difference = np.abs(here[name] - there[name]).max() / np.abs(here[name]).max()
    print(f"{name}: {difference:.1e} of the largest score")
    assert np.isfinite(there[name]).all() and difference <= 1e-5


def test_what_torch_can_do(both):
    "scores and evaluate take the plain path; training says which backend it needs."
    said = both[2]
    assert said["scores"] == 0 and 0 <= said["auc"] <= 1 and "JAX backend" in said["fit"]
