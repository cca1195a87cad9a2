"""Processes killed at every moment of a run, a disk without room, checkpoints of other runs."""
import json
import os
import shutil
import subprocess
import sys

import keras
import numpy as np
import pytest

from newsrex_nb.experiments import runs
from newsrex_nb.train import loop
from newsrex_nb.train.checkpoint import discard
from newsrex_nb.experiments.configuration import configure
from newsrex_nb.core import InputError
from newsrex_nb.data import toy
from newsrex_nb.models import NRMS
from newsrex_nb.train import fit

WORLD = dict(articles=140, users=30, impressions=100, valid=30, test=0)
SHAPE = dict(num_heads=2, head_dim=4, word_dim=8, query_dim=6, title_length=6, history_length=6, dropout=0.2, seed=1)
RUN = dict(epochs=3, batch_size=16, chunk=3, learning_rate=1e-2, refit=True, verbose=0)  # 3 chunks an epoch

# Each process is a fork of one that has imported the package, and dies by SIGKILL at the moment that it is given:
# after some chunk, half-way through a write, before the rename, after it.
SCRIPT = """
import json, os, resource, signal, sys, warnings
import numpy as np
from newsrex_nb.train import checkpoint, loop, program
from newsrex_nb.data import toy
from newsrex_nb.models import NRMS
world, shape, arguments, folder, out = json.loads(sys.argv[1])

def at(number, function):
    "Calls `function` in place of `die`'s target the `number`th time."
    count = [0]
    def counted(inner, *values):
        count[0] += 1
        return function(inner, *values) if count[0] == number else inner(*values)
    return counted

def die(*anything): os.kill(os.getpid(), signal.SIGKILL)

def chunk(number):
    chunks, dying = program.Engine.chunks, at(number, die)
    def dies(self, epoch):
        for result in chunks(self, epoch):
            dying(lambda: None)
            yield result
    program.Engine.chunks = dies

def half(number):
    def write(inner, path, content):
        path.parent.mkdir(exist_ok=True)
        path.with_name(path.name + ".part").write_bytes(content[:len(content) // 2])
        die()
    dying, real = at(number, write), checkpoint.replace
    checkpoint.replace = lambda *values: dying(real, *values)

def rename(number, after):
    dying, real = at(number, lambda inner, *values: (after and inner(*values), die())), os.replace
    checkpoint.os.replace = lambda *values: dying(real, *values)

def written(number): rename(number, False)
def renamed(number): rename(number, True)

def full(number):
    "The disk takes no file beyond two kilobytes, at one epoch."
    def write(inner, path, content):
        before = path.read_bytes()
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2048, hard))
        try: inner(path, content)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            assert path.read_bytes() == before and sorted(os.listdir(path.parent)) == ['.lock', path.name]
    failing, real = at(number, write), checkpoint.replace
    checkpoint.replace = lambda *values: failing(real, *values)

def work(moment, number, name):
    if moment: globals()[moment](number)
    data = toy(**world)
    model = NRMS(data.sizes, **shape)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        run = loop.fit(model, data, checkpoint=f"{folder}/{name}" if name else None, **arguments)
    values = [v.value for v in (*model.variables, *model.optimizer.variables)]
    np.savez(f"{out}/{name or 'whole'}.npz", *values)
    said = [str(w.message) for w in said if "kept" in str(w.message)]
    about = dict(history=run.history, best_epoch=run.best_epoch, refitted=run.refitted, resumed=run.resumed, said=said)
    open(f"{out}/{name or 'whole'}.json", "w").write(json.dumps(about))

for line in sys.stdin:
    if (child := os.fork()) == 0:
        try: work(*json.loads(line))
        except BaseException:
            import traceback
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
KILLS = [("half", 1), ("chunk", 5), ("written", 1), ("renamed", 2), ("chunk", 2), ("half", 2), ("renamed", 2)]
PLAIN = [(None, 0, None), ("full", 2, "full"), (None, 0, "killed")]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    "(folder of checkpoints, {name of a run: (its variables, what it says)})."
    folder = tmp_path_factory.mktemp("resume")
    jobs = [*((*kill, "killed") for kill in KILLS), *PLAIN]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"),
           "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    given = json.dumps([WORLD, SHAPE, RUN, str(folder), str(folder)])
    done = subprocess.run([sys.executable, "-c", SCRIPT, given], input="".join(json.dumps(job) + "\n" for job in jobs),
                          capture_output=True, text=True, env=env)
    assert done.stdout.split() == ["-9"] * len(KILLS) + ["0"] * len(PLAIN), done.stderr
    read = lambda name: ([*np.load(folder / f"{name}.npz").values()], json.loads((folder / f"{name}.json").read_text()))
    return folder, {name: read(name) for name in ("whole", "full", "killed")}


def test_killed_run_ends_with_the_same_bits(runs):
    _, found = runs
    (whole, about), (killed, again) = found["whole"], found["killed"]
    assert about["best_epoch"] == about["refitted"] == 3 and about["resumed"] is None and again["resumed"] == 6
    assert {k: v for k, v in again.items() if k != "resumed"} == {k: v for k, v in about.items() if k != "resumed"}
    assert len(whole) == len(killed) and all(a.tobytes() == b.tobytes() for a, b in zip(whole, killed))


def test_disk_without_room_costs_one_epoch(runs):
    folder, found = runs
    (whole, _), (full, about) = found["whole"], found["full"]
    assert len(about["said"]) == 1 and "Epoch 2 is not kept" in about["said"][0] and "training goes on" in about["said"][0]
    assert all(a.tobytes() == b.tobytes() for a, b in zip(whole, full))
    assert sorted(p.name for p in (folder / "full").iterdir()) == [".lock", "state.safetensors"]


@pytest.fixture(scope="module")
def data(): return toy(**WORLD)


def make(data, **changes): return NRMS(data.sizes, **{**SHAPE, **changes})


@pytest.mark.parametrize("change, sentence", [
    (dict(learning_rate=1e-3), "fit.learning_rate 0.01 and not 0.001"), (dict(seed=7), "fit.seed 42 and not 7"),
    (dict(model=dict(dropout=0.1)), "model.dropout 0.2 and not 0.1"), (dict(model=dict(seed=2)), "model.seed 1 and not 2"),
    (dict(data=dict(seed=5)), "data.key"), (dict(weights=0.5), "weights before training"),
    (dict(loss=lambda logits, target: logits[:, 0]), "fit.loss 'softmax' and not")])
def test_checkpoint_of_another_run(runs, data, change, sentence):
    folder = runs[0] / "killed"
    before = (folder / "state.safetensors").read_bytes()
    other = toy(**WORLD, **change.pop("data")) if "data" in change else data
    model, factor = make(other, **change.pop("model", {})), change.pop("weights", 1)
    for v in model.trainable_variables: v.assign(factor * v.value)
    with pytest.raises(InputError, match=sentence) as e: fit(model, other, checkpoint=folder, **{**RUN, **change})
    assert str(e.value).count("\n") == 0 and "remove this one to start anew" in str(e.value)
    assert (folder / "state.safetensors").read_bytes() == before


class Logger(keras.callbacks.Callback):
    "Opens something when training begins, as a logger of runs does, and says when it was called."
    def __init__(self): self.said = []
    def on_resume(self, epochs, history): self.said.append(("resume", epochs, len(history["loss"])))
    def on_train_begin(self, logs=None): self.said.append("begin")
    def on_epoch_end(self, epoch, logs=None): self.said.append(epoch)
    def on_train_end(self, logs=None): self.said.append(("end", sorted(logs)[0]))


def test_callbacks_of_a_first_training_that_is_over(runs, data, tmp_path):
    "They hear that it was, though only the second one goes on; its weights are those of the run that was never killed."
    folder, found = runs
    shutil.copytree(folder / "killed", tmp_path / "again")
    model, logger = make(data), Logger()
    run = fit(model, data, checkpoint=tmp_path / "again", callbacks=[logger], **RUN)
    assert logger.said == [("resume", 3, 3), "begin", ("end", "loss")] and run.resumed == 6
    whole = found["whole"][0]
    assert all(np.array_equal(v.value, w) for v, w in zip((*model.variables, *model.optimizer.variables), whole))


def opened(folder, data, model=None):
    "The checkpoint as `fit` opens it."
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "run_training", lambda training: training.checkpoint)
        return fit(model or make(data), data, checkpoint=folder, **RUN)


def test_what_is_read(runs, data, tmp_path, monkeypatch):
    kept = opened(runs[0] / "killed", data)
    saved = kept.read()
    state = saved.state
    assert saved.phase == "refit" and saved.done == 3 and saved.trained == 6 and len(state["trainable"]) == len(make(data).trainable_variables)
    assert [v.dtype.name for v in state["other"]] == ["uint32"] * len(state["other"]) and state["optimizer"][0].shape == ()
    monkeypatch.setattr("newsrex_nb.train.checkpoint.device", lambda: "another device")
    with pytest.warns(UserWarning, match="the last bits will differ"): kept.read()
    content = kept.path.read_bytes()
    for name, broken in dict(short=content[:-9], other=b"{}", empty=b"").items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "state.safetensors").write_bytes(broken)
        with pytest.raises(InputError, match="remove the file to start anew"): opened(tmp_path / name, data).read()
    assert opened(tmp_path / "nothing", data).read() is None and not (tmp_path / "nothing").exists()


def test_a_model_that_was_interrupted_counts_as_the_one_it_was(runs, data, tmp_path):
    folder, model = tmp_path / "again", make(data)
    opened(folder, data, model)
    shutil.copytree(runs[0] / "killed", folder)
    for v in model.trainable_variables: v.assign(v.value + 1)
    assert opened(folder, data, model).read().done == 3
    discard(folder)
    assert not folder.exists()
    discard(folder)
