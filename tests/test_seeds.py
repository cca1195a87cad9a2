"""Seeds that are trained in one call: each is the model that it would be by itself."""
import numpy as np
import pytest
from probes import Probe, tiny

from newsrex_nb.train import program, training
from newsrex_nb.core import InputError
from newsrex_nb.data import toy
from newsrex_nb.evaluate import evaluate
from newsrex_nb.models import CROWN, NRMS
from newsrex_nb.train.seeds import fit_seeds
from newsrex_nb.train import fit

SEEDS = [3, 4, 5]
RUN = dict(epochs=2, batch_size=16, chunk=3, learning_rate=3e-3, validation=None, verbose=0)


@pytest.fixture(scope="module")
def data(): return toy(articles=140, users=30, impressions=120, valid=30, test=30)


def make(data, seed, **changes): return tiny(NRMS, data, seed=seed, **{"title_length": 8, "dropout": 0.2, **changes})


def trained(data, seeds, shared, changes={}, **arguments):
    "(models, runs)"
    models = [make(data, seed, **changes) for seed in seeds]
    return models, fit_seeds(models, data, seeds, shared=shared, **{**RUN, **arguments})


def close(models, others):
    "Equal weights, but for sums in another order; Adam makes a full step even where a gradient is rounding alone."
    for a, b in zip(models, others):
        for v, w in zip(a.trainable_variables, b.trainable_variables): np.testing.assert_allclose(v.value, w.value, rtol=1e-3, atol=2e-5)
        for v, w in zip(a.non_trainable_variables, b.non_trainable_variables): assert (v.value == w.value).all(), "states of dropout"


def losses(runs): return np.array([run.history["loss"] for run in runs])


def test_one_program(data, monkeypatch):
    "One engine is compiled for all seeds; its table is large, so it is updated by rows. Seeds differ, and two calls give the same bits."
    engines, real = [], program.Engine.__init__
    def noted(self, *arguments, **options): real(self, *arguments, **options), engines.append(self)
    monkeypatch.setattr(program.Engine, "__init__", noted)
    (models, runs), (others, again) = (trained(data, SEEDS, True, dict(words=20000)) for _ in range(2))
    assert len(engines) == 2 and all(len(e.rows.tables) == 1 for e in engines)
    assert len(np.unique(losses(runs))) == losses(runs).size == 6 and (losses(runs) == losses(again)).all()
    for a, b in zip(models, others): assert all((v.value == w.value).all() for v, w in zip(a.variables, b.variables))


def test_each_by_itself_is_fit(data):
    "With dropout, to the bit: history, best epoch and weights."
    more = dict(validation="valid", patience=1)
    alone = make(data, SEEDS[1])
    found = fit(alone, data, **{**RUN, **more}, seed=SEEDS[1])
    models, runs = trained(data, SEEDS[:2], False, **more)
    assert runs[1].history == found.history and runs[1].best_epoch == found.best_epoch and runs[0].history != found.history
    assert all((a.value == b.value).all() for a, b in zip(models[1].variables, alone.variables))


@pytest.mark.slow
def test_refit_of_each_by_itself(data):
    "A seed by itself takes what `fit` takes; nothing is said of callbacks where there are none."
    more, alone = dict(epochs=1, validation="valid", refit=True), make(data, SEEDS[1])
    found = fit(alone, data, **{**RUN, **more}, seed=SEEDS[1])
    (model,), (run,) = trained(data, SEEDS[1:2], False, **more, callbacks=[])
    assert run.refitted == found.refitted == 1 and run.history == found.history
    assert all((a.value == b.value).all() for a, b in zip(model.variables, alone.variables))


@pytest.mark.slow
def test_as_fit(data):
    "By one program: one seed is `fit` to the bit, validation included; without dropout, so is each of several but for sums in another order."
    plain, more = dict(dropout=0.0), dict(validation="valid", patience=1)
    alone = make(data, SEEDS[1], **plain)
    found = fit(alone, data, **{**RUN, **more}, seed=SEEDS[1])
    (model,), (run,) = trained(data, SEEDS[1:2], True, plain, **more)
    assert run.history == found.history and run.best_epoch == found.best_epoch
    assert all((a.value == b.value).all() for a, b in zip(model.variables, alone.variables))
    models, runs = trained(data, SEEDS, True, plain, **more)
    np.testing.assert_allclose(runs[1].history["loss"], found.history["loss"], rtol=1e-5)
    np.testing.assert_allclose(runs[1].history["val_auc"], found.history["val_auc"], atol=0.005)
    close(models[1:2], [alone])


def test_patience_of_each_seed(data, monkeypatch):
    "A seed that has stopped keeps its weights and its history; the others go on."
    values = {3: [0.5, 0.4, 0.9], 4: [0.5, 0.6, 0.7]}
    def measured(stage, data, split, metrics):
        equal = lambda m: all((v.value == w.value).all() for v, w in zip(stage.trainable_variables, m.trainable_variables))
        same = [seed for seed, m in zip(values, models) if m is not stage and equal(m)] or [*values]
        return dict.fromkeys(metrics, values[same[0]].pop(0))
    monkeypatch.setattr(training, "evaluate", measured)
    models = [make(data, seed) for seed in values]
    one, other = fit_seeds(models, data, [*values], shared=True, **{**RUN, "epochs": 3, "validation": "valid", "patience": 1})
    assert len(one.history["loss"]) == 2 and one.best_epoch == 1 and len(other.history["loss"]) == 3 and other.best_epoch == 3


class FrozenWords(Probe):
    "A table of words that is drawn and never trained, as CROWN's of categories."
    def parts(self, sizes): self.words.trainable = False


@pytest.mark.parametrize("cls", [FrozenWords, pytest.param(CROWN, marks=pytest.mark.slow)])
def test_frozen_tables_of_each_seed(data, cls):
    "Tables that are drawn and never trained belong to their seed: on the stage of another a model is measured as by itself."
    models = [tiny(cls, data, seed=seed) for seed in SEEDS[:2]]
    frozen = [[np.array(v.value) for v in m.weights if not v.trainable] for m in models]
    assert frozen[0] and any((a != b).any() for a, b in zip(*frozen))
    runs = fit_seeds(models, data, SEEDS[:2], shared=True, **{**RUN, "epochs": 1, "validation": "valid"})
    for model, run, tables in zip(models, runs, frozen):
        alone = evaluate(model, data, "valid")
        assert {name: values[-1] for name, values in run.history.items() if name != "loss"} == {f"val_{m}": alone[m] for m in ("auc", "mrr", "ndcg@5", "ndcg@10")}
        assert all((v.value == w).all() for v, w in zip((v for v in model.weights if not v.trainable), tables))


@pytest.mark.parametrize("change, sentence", [
    (dict(refit=True, shared=True), "without refit"), (dict(sharing=False, shared=True), "without sharing"), (dict(callbacks=[None]), "without callbacks"), (dict(checkpoint="here"), "without checkpoint"),
    (dict(seeds=[1]), "3 models for 1 seeds")])
def test_what_it_does_not_take(data, change, sentence):
    models = [make(data, seed) for seed in SEEDS]
    with pytest.raises(InputError, match=sentence): fit_seeds(models, data, **{"seeds": SEEDS, **change})
    with pytest.raises(InputError, match="Expected arguments of fit, got epoch=3"): fit_seeds(models, data, SEEDS, epoch=3)
    with pytest.raises(InputError, match="a model of its own"): fit_seeds([models[0]] * 3, data, SEEDS)
