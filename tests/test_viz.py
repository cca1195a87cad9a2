"""What a model looked at, for every model; and pictures that move in a notebook, through a real kernel."""
import nbclient
import nbformat
import numpy as np
import pytest

import newsrex_nb.models as models
from newsrex_nb.evaluate.explain import attention, interests, without_each_click, word_weights
from newsrex_nb.models.base import NewsRecommender
from probes import few, shaken, tiny, world

EVERY = [cls for cls in vars(models).values() if isinstance(cls, type) and issubclass(cls, NewsRecommender)]


@pytest.fixture(scope="module")
def request_of_a_user():
    data = world()
    log = data.test
    one = int(np.argmax(log.histories.lengths[log.history]))
    return data, log.histories[log.history[one]], log.candidates[log.offsets[one]:log.offsets[one] + 3]


@pytest.mark.parametrize("cls", few(EVERY), ids=lambda cls: cls.__name__)
def test_every_model_can_be_looked_into(cls, request_of_a_user):
    data, history, candidates = request_of_a_user
    model = shaken(tiny(cls, data))
    found = attention(model, data, history, candidates)
    arrays = [w for of in found.values() for w in of]
    assert {"clicked", "candidates", "user", "score"} <= set(found) and arrays
    assert all(np.isfinite(w).all() and w.min() >= 0 and w.max() <= 1 + 1e-5 for w in arrays)
    if cls is models.CROWN: # several intents of a title, and no pooling over its words
        with pytest.raises(ValueError, match="attention weights of shape"): word_weights(model, data, candidates)
        return
    words = word_weights(model, data, candidates)
    assert [len(w) for w, _ in words] == [np.count_nonzero(row) for row in data.features["title"][candidates, :model.reads["title"]]]
    assert all(abs(weights.sum() - (len(read) > 0)) < 1e-4 for read, weights in words)


def test_interests_are_those_that_score(request_of_a_user):
    "MINER's logits from its weights over clicks, by hand."
    data, history, candidates = request_of_a_user
    model = shaken(tiny(models.MINER, data, aggregator="mean"))
    weights = interests(model, data, history, candidates)
    rows = data.features["title"][:, :model.reads["title"]]
    clicked, shown = (np.asarray(model.encode_news({"title": rows[r]})) for r in (history[-model.history_length:], candidates))
    np.testing.assert_allclose(np.einsum("ckh,hd,cd->c", weights, clicked, shown) / weights.shape[1],
                               without_each_click(model, data, history, candidates)[0], rtol=1e-4, atol=1e-6)


LIVE = """
import newsrex_nb
from newsrex_nb.data import toy
from newsrex_nb.viz.live import Canvas, watch_evaluation
data, canvas = toy(articles=200, users=30, impressions=60, valid=20, test=60), Canvas()
""", """
clock = watch_evaluation(data.oracle, data, pieces=4, canvas=canvas)
""", """
print(canvas.drawn)
"""


@pytest.mark.slow
def test_a_notebook_sees_one_picture_that_changes(tmp_path, monkeypatch):
    monkeypatch.setenv("PYDEVD_DISABLE_FILE_VALIDATION", "1")
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in LIVE])
    updates = []

    class Client(nbclient.NotebookClient):
        def process_message(self, message, cell, index):
            if message["msg_type"] == "update_display_data": updates.append(message["content"]["data"]["image/png"])
            return super().process_message(message, cell, index)
    Client(notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}).execute()
    (shown,) = notebook.cells[1].outputs
    assert notebook.cells[2].outputs[0].text == "4\n" and len(updates) == 3 and len(set(updates)) == 3
    assert shown.output_type == "display_data" and shown.data["image/png"] == updates[-1]
