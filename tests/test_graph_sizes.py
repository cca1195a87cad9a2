"""Users' graphs in as many places as they need: the same scores, losses and gradients as in as many as there may be."""
import functools

import jax
import keras
import numpy as np
import pytest

from newsrex_nb import models
from newsrex_nb.train.batches import Batches, plan
from newsrex_nb.data.graphs import ClickPlanner
from newsrex_nb.engine.device import device_tables
from newsrex_nb.losses import loss_function
from newsrex_nb.models.weights import weight_names
from newsrex_nb.engine.scoring import scores
from newsrex_nb.train.steps import batch_loss, shared_logits
from probes import shaken, tiny, world


@functools.cache
def case():
    "A world in which the largest graphs fill all places, and one lost a node; its counts per test history; a model."
    data = world()
    edges, test = data.features.table("click_edges"), data.test
    free = ClickPlanner(edges, neighbours=2).count(test.histories.last(np.unique(test.history), 8)).max()
    planner = data.features.kept["planner", "click_graph"] = ClickPlanner(edges, places=int(free) - 1, neighbours=2)
    counts = planner.count(test.histories.last(np.unique(test.history), 8))
    assert planner.cut and counts.min() == 0 and counts.max() == planner.places
    return data, planner, counts, shaken(tiny(models.GLORY, data))


def asked(planner, monkeypatch):
    "The numbers of places that subgraphs are asked for in."
    seen, make = [], planner.plan
    def noted(numbers, clicked, places=None):
        seen.append(places)
        assert planner.count(clicked).max() <= (places or planner.places)
        return make(numbers, clicked, places)
    monkeypatch.setattr(planner, "plan", noted)
    return seen


def test_scores(monkeypatch):
    data, planner, _, model = case()
    cut, seen = planner.cut, asked(planner, monkeypatch)
    found = scores(model, data, users=1, rows=32, width=4)
    assert len({*seen} - {None}) > 1 and planner.cut == cut, "nobody's graph was smaller, or one was cut again"
    monkeypatch.setattr(planner, "widths", [planner.places])
    expected = scores(model, data, users=1, rows=32, width=4)
    assert np.abs(found - expected).max() <= 1e-6 * np.abs(expected).max()


def losses(model, data, buckets):
    "(numbers of places, loss and gradients of the first step)"
    batches = Batches(model, data, data.train, batch_size=16, negatives=3, seed=0, epochs=2, chunk=2, buckets=buckets)
    variables, tables = {k: v for k, v in weight_names(model).items() if v.trainable}, device_tables(model, data.features)

    @jax.jit
    @jax.value_and_grad
    def run(values, batch):
        with keras.StatelessScope(state_mapping=[(variables[k], v) for k, v in values.items()]):
            return batch_loss(model, loss_function("softmax"), *shared_logits(batches.widths)(model, tables, batch), batch)
    first = jax.tree.map(lambda a: a[0], plan(batches, 0, 0)[0])
    assert [a.shape[:2] for a in first["adjacency"]] == [(n, m) for (n, _), m in zip(batches.shapes.blocks, batches.shapes.nodes)]
    return batches.shapes.nodes, jax.tree.map(np.asarray, run({k: v.value for k, v in variables.items()}, first))


@pytest.mark.slow
def test_losses_and_gradients():
    data, _, _, model = case()
    (one, (loss, gradient)), (several, (other, same)) = (losses(model, data, buckets) for buckets in (1, 3))
    assert len(one) == 1 and len(several) > 1 and several[-1] == one[0] and abs(loss - other) <= 1e-6 * abs(loss)
    largest = max(np.abs(g).max() for g in gradient.values())
    for name, g in gradient.items(): assert np.abs(same[name] - g).max() <= 1e-5 * np.abs(g).max() + 1e-6 * largest, name


@pytest.mark.parametrize("shuffle", [True, False])
def test_every_epoch_fits(shuffle):
    "Every node of every epoch has a place, and all plans have one shape."
    data, planner, _, model = case()
    batches = Batches(model, data, data.train, batch_size=16, negatives=3, seed=0, epochs=3, chunk=2, shuffle=shuffle)
    shapes = lambda *where: jax.tree.map(np.shape, plan(batches, *where)[0])
    behaviors = batches.sampling.source.behaviors
    assert len(batches.shapes.nodes) > 1 if shuffle else len(batches.shapes.nodes) == 1
    for epoch in range(3):
        for chunk in range(batches.chunks):
            made, steps = plan(batches, epoch, chunk)
            assert shapes(epoch, chunk) == shapes(0, 0)
            numbers = batches.sampling.epoch(epoch).order[chunk * batches.chunk:][:steps]
            history = np.where(numbers < 0, 0, behaviors.history[batches.samples.impression[numbers]])
            expected = planner.count(behaviors.histories.last(history.ravel(), 8)).reshape(history.shape)
            rows = np.concatenate(made["rows"], axis=1)[:steps]
            nodes = [np.take_along_axis(rows, n[:steps].reshape(steps, -1), 1).reshape(n[:steps].shape) for n in made["neighbours"]]
            found = np.concatenate([(n > 0).sum(axis=2) for n in nodes], axis=1)
            assert (found == np.where(numbers < 0, 0, expected)).all()
