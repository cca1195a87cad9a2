"""Against independent computations: NRMS in slow NumPy, a worked example of its masks, statistics of sampling, two processes."""
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from newsrex_nb import hub
from newsrex_nb.core import InputError, generator
from newsrex_nb.train.batches import Batches
from newsrex_nb.data.features import Features
from newsrex_nb.data.samples import Samples, draw_negatives
from newsrex_nb.data.schema import Behaviors, Dataset, make_histories, news_table
from newsrex_nb.engine.scoring import direct_scores, scores
from newsrex_nb.losses import softmax_loss
from newsrex_nb.models import CROWN, NRMS
from newsrex_nb.models.weights import weight_names
from probes import as_format_1, shaken, tiny, world


def softmax(x): return np.exp(x - x.max(-1, keepdims=True)) / np.exp(x - x.max(-1, keepdims=True)).sum(-1, keepdims=True)


def read(x, weights, part, heads):
    "Self-attention over the rows of `x`, none of which is padding, then additive attention; 0 where there are none."
    w = lambda name: weights.get(f"{part}.{name}", 0.0)
    if not len(x): return np.zeros(w("pool.kernel").shape[0])
    q, k, v = (np.split(x @ w(f"attention.{n}_kernel") + w(f"attention.{n}_bias"), heads, axis=-1) for n in ("query", "key", "value"))
    x = np.concatenate([softmax(q[h] @ k[h].T / np.sqrt(k[h].shape[-1])) @ v[h] for h in range(heads)], axis=-1)
    if f"{part}.attention.output_kernel" in weights: x = x @ w("attention.output_kernel") + w("attention.output_bias")
    return softmax(np.tanh(x @ w("pool.kernel") + w("pool.bias")) @ w("pool.query")[:, 0]) @ x


@pytest.mark.parametrize("wiring", ["paper", "official", "newsrex", "newsreclib"])
def test_nrms_equals_slow_numpy(wiring):
    "One text and one user at a time, in float64, without a single padded place."
    data = world()
    model = shaken(tiny(NRMS, data, wiring=wiring, history_length=3)) # shorter than many histories
    weights = {name: np.asarray(v.value, np.float64) for name, v in weight_names(model).items()}
    words, test = weights["news_encoder.words.embeddings"], data.test
    news = [read(words[ids[ids > 0]], weights, "news_encoder.text", 2) for ids in data.features["title"]]
    expected = []
    for i, number in enumerate(test.history):
        user = read(np.array([news[r] for r in test.histories[number][-3:]]), weights, "user_encoder", 2)
        expected += [user @ news[r] for r in test.candidates[test.offsets[i]:test.offsets[i + 1]]]
    np.testing.assert_allclose(scores(model, data), expected, atol=1e-5 * np.abs(expected).max(), rtol=0)


def test_masks_of_the_worked_example():
    "Uniform attention over real words and clicks only: without masks the scores are 0.2222 and 0.4444."
    news = news_table([dict(id="A", title="one two"), dict(id="B", title="both"), dict(id="C", title="one one one one")])
    histories, numbers = make_histories([[1, 2], [1, 2, 1, 2]])
    log = Behaviors(["1", "2"], [0, 0], [0, 0], numbers, [1, 2, 2, 1], [0, 2, 4], [1, 0, 0, 1], histories)
    features = Features(news, vocabulary=dict(words=["one", "two", "both"], categories=[], subcategories=[], entities=[]))
    data = Dataset("example", news, np.array([""]), log, None, log, features)
    model = NRMS(data.sizes, num_heads=1, head_dim=2, word_dim=2, query_dim=2, title_length=3, history_length=4)
    for name, v in weight_names(model).items():
        v.assign(np.eye(2) if name.endswith("value_kernel") else np.zeros(v.shape))
    weight_names(model)["news_encoder.words.embeddings"].assign([[9, 9], [9, 9], [1, 0], [0, 1], [2, 2]]) # padding: what must not be seen
    for found in (scores(model, data), direct_scores(model, data, log)): np.testing.assert_allclose(found, [1.25, 5, 5, 1.25], rtol=1e-6)
    np.testing.assert_allclose(softmax_loss(found.reshape(2, 2), np.array([0, 1])), [3.773245] * 2, rtol=1e-5)


def test_a_rebuilt_defect_is_no_mode(tmp_path):
    "CROWN's mode \"official\" stands in the museum; a call or a folder that names it is told so."
    data = world()
    model = tiny(CROWN, data, mode="masked")
    folder = hub.save(tmp_path / "run", model, data.features)
    assert hub.load(folder)[0].mode == "masked"
    about = json.loads((folder / "config.json").read_text())["config"]
    as_format_1(folder, config={**about, "mode": "official"})
    for use in (lambda: hub.load(folder), lambda: tiny(CROWN, data, mode="official")):
        with pytest.raises(InputError, match="rebuilt a defect.*OfficialCROWN.*museum of defects"): use()


def test_every_negative_is_as_likely():
    many, n = 20_000, 7
    samples = Samples(np.zeros(many, int), np.zeros(many, int), np.arange(n), np.zeros(many, int), np.full(many, n), 0)
    drawn = draw_negatives(samples, 4, generator(3, "negatives"))
    assert (np.diff(np.sort(drawn), axis=1) > 0).all()
    for counts in (np.bincount(drawn[:, k], minlength=n) for k in range(4)): # each draw by itself, too
        assert np.abs(counts - many / n).max() < 5 * np.sqrt(many / n)
    pairs = np.bincount((n * drawn[:, 0] + drawn[:, 3]), minlength=n * n).reshape(n, n)
    assert not pairs.diagonal().any() and np.abs(pairs[~np.eye(n, dtype=bool)] - many / n / (n - 1)).max() < 5 * np.sqrt(many / n / (n - 1))


def test_every_epoch_is_another_shuffle():
    data = world()
    batches = Batches(tiny(NRMS, data), data, data.train, batch_size=8, negatives=4, seed=1, epochs=60, chunk=4)
    orders, targets, companions = [], [], set()
    for number in range(60):
        e = batches.sampling.epoch(number)
        real = e.order[e.order >= 0]
        assert sorted(real) == list(range(len(batches.samples)))
        clicked = data.train.candidates[batches.samples.clicked]
        assert (e.candidates[np.arange(len(clicked)), e.target] == clicked).all()
        orders.append(tuple(real)); targets.append(e.target)
        companions |= set(e.order[(e.order == 0).any(axis=1)].ravel()) - {0, -1}
    counts = np.bincount(np.concatenate(targets), minlength=5)
    assert len(set(orders)) == 60 and np.abs(counts - counts.mean()).max() < 5 * np.sqrt(counts.mean())
    assert len(companions) > len(batches.samples) / 2 # in the same batch as sample 0 at some time


RUN = """
from newsrex_nb.core import fingerprint
from newsrex_nb.data import toy
from newsrex_nb.engine.scoring import scores
from newsrex_nb.models import NRMS
from newsrex_nb.train import fit
import numpy as np
data = toy(articles=200, users=40, impressions=60, valid=20, test=20)
model = NRMS(data.sizes, num_heads=2, head_dim=4, query_dim=6, word_dim=8, title_length=6, history_length=6) # small: it compiles fast
run = fit(model, data, epochs=2, batch_size=4, learning_rate=1e-2, verbose=0)
print(fingerprint(run.history, scores(model, data), *(np.asarray(v.value) for v in model.weights)))
"""


@pytest.mark.slow
@pytest.mark.parametrize("left_out", [(), ("XLA_FLAGS", "JAX_COMPILATION_CACHE_DIR")], ids=["quick", "as users compile"])
def test_one_seed_one_result(left_out):
    "Training in two fresh processes ends with the same bits, whatever the order of sets in them."
    env = {k: v for k, v in os.environ.items() if k not in left_out}
    start = lambda hashes: subprocess.Popen([sys.executable, "-c", RUN], cwd=Path(__file__).parents[1], text=True, stdout=subprocess.PIPE,
                                            env={**env, "PYTHONHASHSEED": hashes})
    first, second = [p.communicate()[0].strip() for p in [start("1"), start("2")]]
    assert first and first == second
