"Trainings that ask for the same programs compile them once: other learning rates, other seeds and a second training."
import jax
import pytest

from newsrex_nb.data import toy
from newsrex_nb.models import NRMS
from newsrex_nb.train import fit

TINY = dict(num_heads=2, head_dim=4, word_dim=8, query_dim=4, title_length=6, history_length=1)


@pytest.fixture(scope="module")
def data(): return toy(articles=16, topics=2, subtopics=1, users=30, impressions=300, valid=60, test=0, empty=0.0)  # every batch names every article


@pytest.fixture
def heard():
    "What the compiler is asked for, while a test runs."
    found, listening = [], [True]
    def note(name, seconds, **more):
        if listening and name.endswith("backend_compile_duration"): found.append(name)
    jax.monitoring.register_event_duration_secs_listener(note) # not every version can take a listener back
    yield found
    listening.clear()


def trained(data, seed, **more):
    model = NRMS(data.sizes, **TINY, seed=seed)
    return fit(model, data, epochs=1, seed=seed, chunk=2, verbose=0, **more), model


def test_equal_programs_are_compiled_once(data, heard):
    first, model = trained(data, 1)
    assert heard
    heard.clear()
    faster, other = trained(data, 1, learning_rate=1e-2)
    seed, _ = trained(data, 2)
    again, _ = trained(data, 1, refit=True)
    assert not heard and again.refitted == 1
    assert first.history["loss"] == again.history["loss"] != seed.history["loss"]  # each with its own weights, batches and rate
    assert any((a != b).any() for a, b in zip(model.get_weights(), other.get_weights()))


def test_seeds_that_are_told_of_each_other_compile_once(heard):
    "Batches of a larger world have shapes of their own; a list of seeds gives them one, and what a seed learns depends on that list alone."
    data = toy(articles=160, topics=3, subtopics=2, users=30, impressions=150, valid=0, test=0)
    arguments = dict(shape_seeds=(1, 2, 3), validation=None)
    one, model = trained(data, 1, **arguments)
    heard.clear()
    other, _ = trained(data, 2, **arguments)
    assert not heard and one.history["loss"] != other.history["loss"]
    again, same = trained(data, 1, **arguments)
    assert all((a == b).all() for a, b in zip(model.get_weights(), same.get_weights()))
    alone, _ = trained(data, 1, validation=None)
    assert alone.history["loss"][0] == pytest.approx(one.history["loss"][0], abs=1e-4)
