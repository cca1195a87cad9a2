"""What is true for every model: those of newsrex_nb.models, and four probes that use every part of the contract."""
import functools
import json

import jax
import jax.experimental.compilation_cache.compilation_cache
import keras
import numpy as np
import pytest

from newsrex_nb import models
from newsrex_nb.train.batches import Batches, plan, slots_of
from newsrex_nb.engine.device import device_tables
from newsrex_nb.engine.scoring import direct_scores, scores
from newsrex_nb.layers.attention import AdditiveUser
from newsrex_nb.layers.text import CNNTitle
from newsrex_nb.losses import loss_function
from newsrex_nb.models.base import NewsRecommender
from newsrex_nb.models.weights import weight_names
from newsrex_nb.train.steps import batch_loss, plain_logits, shared_logits
from newsrex_nb.train import fit, set_precision
from probes import PROBES, copied, more_candidates, shaken, tiny, wider, world

PAPERS = [c for c in vars(models).values() if isinstance(c, type) and issubclass(c, NewsRecommender)]
every_model = pytest.mark.parametrize("cls", [*PAPERS, *PROBES], ids=lambda c: c.__name__)
FEW = dict(rows=32, users=8, width=4) # small calls, so that there are several
SHAPE = dict(batch_size=8, negatives=3, seed=0, chunk=4) # the last chunk of an epoch is short


@pytest.fixture(scope="module", autouse=True)
def quick_compilation(tmp_path_factory):
    "Nothing is compiled twice."
    wanted = dict(jax_compilation_cache_dir=str(tmp_path_factory.mktemp("programs")),
                  jax_persistent_cache_min_compile_time_secs=0.0, jax_persistent_cache_min_entry_size_bytes=-1)
    before = {name: getattr(jax.config, name) for name in wanted}
    for name, value in wanted.items(): jax.config.update(name, value)
    yield
    for name, value in before.items(): jax.config.update(name, value)
    jax.experimental.compilation_cache.compilation_cache.reset_cache()


def same(a, b, tolerance=1e-5):
    "Equal, relative to the largest score."
    assert np.isfinite(a).all() and np.isfinite(b).all()
    assert np.abs(a - b).max() <= tolerance * np.abs(b).max(), f"differ by {np.abs(a - b).max() / np.abs(b).max():.1e} of the largest"


@functools.cache
def case(cls):
    "One model and its plain scores, shared by the tests that change neither."
    data = world()
    model = shaken(tiny(cls, data))
    return data, model, direct_scores(model, data, data.test, batch_size=8)


def gradients(model, data, way):
    "Loss, and the gradient of every trainable weight by name, at the steps of a short last chunk."
    batches = Batches(model, data, data.train, epochs=1, **SHAPE)
    rows, steps = plan(batches, 0, batches.chunks - 1)
    logits_of = shared_logits(batches.widths)
    if way == "plain":
        s, logits_of = slots_of(batches, 0, batches.chunks - 1), plain_logits
        rows = {k: getattr(s, k) for k in ("clicked", "candidates", "user", "hour", "target", "weight")}
        if s.subgraph: rows |= {k: a.reshape(*s.user.shape, *a.shape[1:]) for k, a in zip(("nodes", "adjacency", "mapping"), s.subgraph)}
    variables, tables = {k: v for k, v in weight_names(model).items() if v.trainable}, device_tables(model, data.features)

    @jax.jit
    @jax.value_and_grad
    def run(values, batch):
        with keras.StatelessScope(state_mapping=[(variables[k], v) for k, v in values.items()]):
            return batch_loss(model, loss_function("softmax"), *logits_of(model, tables, batch), batch)
    values = {k: v.value for k, v in variables.items()}
    assert 0 < steps < batches.chunk
    return [jax.tree.map(np.asarray, run(values, jax.tree.map(lambda a: a[i], rows))) for i in range(steps)]


@every_model
def test_fast_equals_plain(cls):
    "Losses and gradients, on batches with empty histories, articles without words and unfilled places."
    data, model, _ = case(cls)
    for (loss, fast), (expected, plain) in zip(gradients(model, data, "shared"), gradients(model, data, "plain")):
        assert abs(loss - expected) <= 1e-5 * abs(expected)
        largest = max(np.abs(g).max() for g in plain.values())
        for name, g in plain.items():
            assert np.abs(fast[name] - g).max() <= 1e-5 * np.abs(g).max() + 1e-6 * largest, name


@every_model
def test_cached_equals_direct(cls):
    data, model, direct = case(cls)
    same(scores(model, data, **FEW), direct)
    same(scores(model, data, budget=1, **FEW), direct)


@every_model
def test_padding_and_company_change_nothing(cls):
    "Alone or in a batch, in another order, among more candidates; with longer texts, histories and graphs."
    data, model, direct = case(cls)
    same(direct_scores(model, data, data.test, batch_size=1), direct)
    test, place = more_candidates(data.test)
    same(direct_scores(model, data, test, batch_size=8)[place], direct)
    longer, wide = copied(model, tiny(cls, data, history_length=model.history_length + 3)), wider(model)
    same(direct_scores(longer, wide, wide.test, batch_size=8), direct)
    same(scores(longer, wide, **FEW), direct)


@every_model
def test_half_precision(cls):
    "Cached equals direct, also after scores in float32, and the gradients are finite."
    data, model, direct = case(cls)
    half = copied(model, tiny(cls, data))
    same(scores(half, data, **FEW), direct)
    set_precision(half, "mixed_float16")
    found = scores(half, data, **FEW)
    assert (found != direct).any(), "the programs of float32 are still in use"
    same(found, direct_scores(half, data, data.test, batch_size=8), 2e-2)
    same(found, direct, 5e-2)
    for loss, found in gradients(half, data, "shared"):
        assert np.isfinite(loss) and all(np.isfinite(g).all() for g in found.values())


@every_model
def test_configuration_makes_the_same_model(cls):
    data, model, direct = case(cls)
    again, first = type(model).from_config(json.loads(json.dumps(model.get_config()))), tiny(cls, data)
    assert list(weight_names(again)) == list(weight_names(model)) and len(weight_names(model)) == len(model.weights)
    for (name, a), b in zip(weight_names(again).items(), weight_names(first).values()):
        assert (np.array(a.value) == np.array(b.value)).all(), f"{name} does not depend on the seed alone"
    assert (direct_scores(copied(model, again), data, data.test, batch_size=8) == direct).all()


def test_exchanged_encoders_are_configuration_too():
    data = world()
    encoders = dict(news_encoder=CNNTitle(8, query_dim=6, word_dim=8, title_length=40), user_encoder=AdditiveUser(6))
    first, second = (tiny(models.NRMS, data, **encoders) for _ in range(2)) # one description serves several models
    again = models.NRMS.from_config(json.loads(json.dumps(first.get_config())))
    for other in (second, again):
        assert list(weight_names(other)) == list(weight_names(first))
        assert all((np.array(a.value) == np.array(b.value)).all() for a, b in zip(first.weights, other.weights))


class Watch(keras.callbacks.Callback):
    "Keeps the weights of every chunk, or interrupts."
    def __init__(self, stop=None): super().__init__(); self.stop, self.kept = stop, []
    def on_train_batch_end(self, batch, logs=None):
        self.kept.append([np.array(v.value) for v in self.model.trainable_variables])
        if len(self.kept) == self.stop: raise KeyboardInterrupt


@every_model
def test_fit(cls):
    "Three epochs are one program; a second run has the same bits, also in the moment in which it is interrupted."
    data = case(cls)[0]
    start = lambda: tiny(cls, data, words=6000, dropout=.2) # so large a table is updated by rows
    run = lambda model, **more: fit(model, data, epochs=3, validation=None, learning_rate=1e-2, verbose=0, **more, **SHAPE)
    whole, cut, model, untrained = Watch(), Watch(stop=5), start(), start()
    done = run(start(), callbacks=[whole])
    batches, shapes = done.batches, lambda *where: jax.tree.map(lambda a: (a.shape, a.dtype), plan(done.batches, *where)[0])
    assert batches.steps % batches.chunk and len(whole.kept) == 3 * batches.chunks
    assert all(shapes(e, c) == shapes(0, 0) for e in range(3) for c in range(batches.chunks))
    with pytest.raises(KeyboardInterrupt): run(model, callbacks=[cut])
    for v, expected in zip(model.trainable_variables, whole.kept[4]):
        assert np.isfinite(v.value).all() and (np.array(v.value) == expected).all(), v.path
    assert any((np.array(v.value) != np.array(u.value)).any() for v, u in zip(model.weights, untrained.weights))
    plain = run(untrained, clip_norm=1e9, memory=0) # with clipping all rows of a table are updated in every step; columns are streamed
    np.testing.assert_allclose(plain.history["loss"], done.history["loss"], rtol=1e-4)
