"""What is true for every model: those of newsrex_nb.models, and four probes that use every part of the contract."""
import functools
import inspect
import json
import re

import jax
import keras
import numpy as np
import pytest

from newsrex_nb import models
from newsrex_nb.contract import check_model
from newsrex_nb.contract.report import PROMISES
from newsrex_nb.contract.subject import Subject
from newsrex_nb.contract.watched import copied, shaken
from newsrex_nb.contract.weights import in_another_process, write_question
from newsrex_nb.core import InputError
from newsrex_nb.engine.device import host_tables
from newsrex_nb.engine.scoring import direct_scores, scores
from newsrex_nb.layers.attention import AdditiveUser
from newsrex_nb.layers.text import CNNTitle
from newsrex_nb.models.base import NewsRecommender
from newsrex_nb.models.weights import weight_names
from newsrex_nb.train import fit, set_precision
from newsrex_nb.train.batches import plan
from newsrex_nb.train.steps import shared_logits
from probes import OF_EACH_KIND, PROBES, few, tiny, wider, world

PAPERS = [c for c in vars(models).values() if isinstance(c, type) and issubclass(c, NewsRecommender)]
# what a model needs is in a probe for every part; a paper's graph takes as long to compile as all of them
few_models = pytest.mark.parametrize("cls", few([*PAPERS, *PROBES]), ids=lambda c: c.__name__)
SOME = [models.NRMS, models.LSTUR, *PROBES] # what is saved of each kind
TRAINED = {"NRMS", "PersonalWords", "Walker"} # plain, with a user's own vector, with a graph and losses of its own
FEW = dict(rows=32, users=8, width=4) # small calls, so that there are several
SHAPE = dict(batch_size=8, negatives=3, seed=0, chunk=4) # the last chunk of an epoch is short


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


def makes(cls, data, **arguments):
    "A function of sizes that makes the tiny model; the promises about dropout need some."
    return lambda sizes, **changes: tiny(cls, data, **{"dropout": .2, **arguments, **changes})


HALF = ["float16 near float32", "half precision", "cached in half precision"]
of_the_rest = pytest.mark.parametrize("cls", [cls for cls in PAPERS if cls.__name__ not in OF_EACH_KIND], ids=lambda c: c.__name__)


@few_models
def test_contract(cls):
    "Every promise; what is saved goes into another process with that of all others, and half precision of most papers is looked at below."
    data = case(cls)[0]
    elsewhere = ["saving", *(HALF if cls in PAPERS and cls.__name__ not in OF_EACH_KIND else [])]
    report = check_model(makes(cls, data), data, only=[name for name in PROMISES if name not in elsewhere])
    assert len(report.findings) == len(PROMISES) - len(elsewhere)
    silent = {f.promise.name for f in report.findings if f.measured is None}
    assert silent <= {"more neighbours", "state shape", "auxiliary by count"} and ("more neighbours" in silent) == (case(cls)[1].graph is None)


@pytest.mark.slow
@of_the_rest
def test_contract_in_half_precision(cls):
    data = case(cls)[0]
    assert len(check_model(makes(cls, data), data, only=HALF).findings) >= len(HALF)


def variants_of(cls):
    "The legal values of `wiring`, the paper's first, as the sentence about an illegal one lists them."
    if "wiring" not in inspect.signature(cls.__init__).parameters: return []
    try: tiny(cls, world(), wiring="none of them")
    except InputError as e: return re.findall(r"'(\w+)'", str(e).partition(", got")[0])


TOLD = {(models.GLORY, "official"): ["more words"]}  # missing entities take part
VARIANTS = [(cls, name) for cls in PAPERS for name in variants_of(cls)[1:]]


@pytest.mark.slow
@pytest.mark.parametrize("cls, wiring", VARIANTS, ids=lambda a: getattr(a, "__name__", a))
def test_contract_of_variants(cls, wiring):
    "What a variant can break by itself: the rest is the code of the model above."
    data = case(cls)[0]
    asked = ["more words", "more clicks", "more neighbours", "more candidates", "order of candidates", "company", "state without candidates",
             "keys", "news shape", "state shape", "dropout off", "weights by name", "seeds", "configuration"]
    broken = check_model(makes(cls, data, wiring=wiring), data, only=asked, raises=False).broken
    assert broken == TOLD.get((cls, wiring), []), "what official code does otherwise is told on the model's page"


@pytest.mark.parametrize("group", [SOME, pytest.param([cls for cls in [*PAPERS, *PROBES] if cls not in SOME], marks=pytest.mark.slow)], ids=["some", "the rest"])
def test_saved_models_in_another_process(group, tmp_path):
    "The promise `saving` for several models, in one process: the same bits."
    subjects = {cls.__name__: Subject(makes(cls, case(cls)[0]), case(cls)[0]) for cls in group}
    for name, subject in subjects.items():
        (tmp_path / name).mkdir()
        write_question(subject, tmp_path / name)
    in_another_process(*(tmp_path / name for name in subjects))
    for name, subject in subjects.items():
        found = np.load(tmp_path / name / "answer.npy")
        assert np.isfinite(found).all() and found.tobytes() == subject.reference()[0][:len(found)].tobytes(), name


@few_models
def test_cached_in_little_memory_and_wider(cls):
    "Caches that hold a block at a time, of longer texts, histories and graphs."
    data, model, direct = case(cls)
    longer, wide = copied(model, tiny(cls, data, history_length=model.history_length + 3)), wider(model)
    same(scores(longer, wide, budget=1, **FEW), direct)


@few_models
def test_shared_path_in_half_precision(cls):
    "Losses and gradients of training batches in float16 are finite: empty histories, articles without words and unfilled places are among them."
    data = case(cls)[0]
    subject = Subject(makes(cls, data), data)
    batches, tables = subject.batches(), host_tables(subject.model, data.features)
    plans, steps = plan(batches, 0, batches.chunks - 1)
    assert 0 < steps < batches.chunk, "the last chunk is short"
    for step in range(steps):
        batch = jax.tree.map(lambda a: a[step], plans)
        found = subject.gradients(batch, tables, shared_logits(batches.widths), subject.half())
        assert np.isfinite(found.numbers()).all(), [name for name, g in found.weights.items() if not np.isfinite(g).all()]


def test_programs_belong_to_a_precision():
    "A model that has scored in float32 scores in float16 when its precision is set."
    data, model, direct = case(models.NRMS)
    half = copied(model, tiny(models.NRMS, data))
    same(scores(half, data, **FEW), direct)
    set_precision(half, "mixed_float16")
    found = scores(half, data, **FEW)
    assert (found != direct).any(), "the programs of float32 are still in use"
    same(found, direct_scores(half, data, data.test, batch_size=8), 2e-2)
    same(found, direct, 5e-2)


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


@pytest.mark.parametrize("cls", [cls if cls.__name__ in TRAINED else pytest.param(cls, marks=pytest.mark.slow) for cls in [*PAPERS, *PROBES]], ids=lambda c: c.__name__)
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
