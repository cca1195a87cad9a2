"""Ten steps of training beside the authors' codes: what those made of random weights and batches of ours, in tests/ten_steps; each file
names its source and how it was run. Ours train by the plain path and by the shared one of `fit`. There is no dropout and no padding,
and both sides have Adam with epsilon where Keras adds it."""
import json
from pathlib import Path

import jax
import keras
import numpy as np
import pytest
from safetensors import safe_open

from newsrex_nb import models
from newsrex_nb.losses import softmax_loss
from newsrex_nb.models.weights import weight_names
from newsrex_nb.train.steps import make_chunk, make_step, plain_logits, shared_logits

FILES = {path.stem: path for path in sorted((Path(__file__).parent / "ten_steps").glob("*.safetensors"))}
QUICK = {(name, path) for name in ("lstur", "miner", "nrms") for path in (plain_logits, shared_logits)} # the others once a week


def read(path):
    "What a file says of itself, and its arrays {part: {name: array}}; numbers of rows are stored as bytes."
    with safe_open(path, "numpy") as file:
        parts = {}
        for name in file.keys():
            part, _, rest = name.rpartition("/")
            values = file.get_tensor(name)
            parts.setdefault(part, {})[rest] = values.astype(np.int32) if values.dtype == np.uint8 and rest != "adjacency" else values
        return file.metadata(), parts


def shared(model, tables, rows):
    "The same batches as `fit` plans them, in one group: all articles are encoded once a step, and places are rows."
    steps, articles = len(rows["clicked"]), len(tables["title"])
    slots = np.concatenate([rows[part].reshape(steps, -1) for part in ("clicked", "candidates")], axis=1)
    every = np.tile(np.arange(articles, dtype=np.int32), (steps, 1))
    plan = rows | dict(rows=(every,), key=every, key_hour=0 * every, clicked=(rows["clicked"],))
    plan["count"] = (np.stack([np.bincount(row, minlength=articles) for row in slots]),)
    if "nodes" in rows:
        return plan | dict(neighbours=(rows["nodes"],), adjacency=(rows["adjacency"],), mapping=(rows["mapping"],))
    return plan | (dict(neighbours=tables[model.graph][rows["candidates"]]) if model.graph else {})


def trained(model, optimizer, tables, rows, path=plain_logits):
    "Logits and loss of each step, by one compiled program; the model ends with the weights behind the last."
    seen, steps = {}, len(rows["clicked"])
    batches, run = (rows, plain_logits) if path is plain_logits else (shared(model, tables, rows), shared_logits([{}]))

    def logits_of(model, tables, batch):
        logits, auxiliary = run(model, tables, batch)
        jax.debug.callback(lambda number, values: seen.__setitem__(int(number), np.array(values)), batch["number"], logits)
        return logits, auxiliary

    zeros = np.zeros(rows["clicked"].shape[:2], np.int32)
    plan = dict(number=np.arange(steps), user=zeros, hour=zeros, target=zeros, weight=zeros + np.float32(1)) | batches
    optimizer.build(model.trainable_variables)
    groups = dict(trainable=model.trainable_variables, other=model.non_trainable_variables, optimizer=optimizer.variables)
    state = {name: [np.asarray(v.value) for v in variables] for name, variables in groups.items()}
    chunk = make_chunk(make_step(model, optimizer, softmax_loss, logits_of))
    state, losses = jax.block_until_ready(chunk(state, tables, plan, steps))
    for variable, value in zip(model.trainable_variables, state["trainable"]):
        variable.assign(value)
    jax.effects_barrier()
    return seen, np.asarray(losses)


@pytest.mark.parametrize("name, path", [
    pytest.param(name, path, id=f"{name}-{path.__name__.partition('_')[0]}", marks=() if (name, path) in QUICK else pytest.mark.slow)
    for path in (plain_logits, shared_logits) for name in FILES])
def test_ten_steps(name, path):
    "Scores of the first batch to 1e-5 of the largest, losses of all steps to 1e-4, weights to 2e-5, after ways of up to 0.1."
    about, parts = read(FILES[name])
    model = getattr(models, about["model"])(**json.loads(about["config"]))
    weights = weight_names(model)
    assert sorted(weights) == sorted(parts["before"]) and about["source"]
    for key, variable in weights.items():
        variable.assign(parts["before"][key])
    logits, losses = trained(model, keras.optimizers.Adam(**json.loads(about["optimizer"])), parts["tables"], parts["rows"], path)
    scores = parts[""]["scores"]
    np.testing.assert_allclose(logits[0], scores, atol=1e-5 * np.abs(scores).max(), rtol=0)
    np.testing.assert_allclose(losses, parts[""]["losses"], rtol=1e-4)
    for key, before in parts["before"].items(): # one without a value after has not moved
        np.testing.assert_allclose(np.asarray(weights[key].value), parts["after"].get(key, before), atol=2e-5, rtol=0, err_msg=key)
    assert max(np.abs(after - parts["before"][key]).max() for key, after in parts["after"].items()) > 0.03
