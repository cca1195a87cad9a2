"""Articles read as vectors that were made elsewhere: every model that takes them, folders, new articles, the shell."""
import functools
import json

import numpy as np
import pytest

from newsrex_nb.contract import check_model
from newsrex_nb import hub, models
from newsrex_nb.cli import main
from newsrex_nb.core import InputError, generator
from newsrex_nb.data import give_vectors, toy
from newsrex_nb.data.article_vectors import write_vectors
from newsrex_nb.evaluate import evaluate
from newsrex_nb.layers.vectors import ArticleVectors
from newsrex_nb.models.weights import weight_names
from newsrex_nb.recommend import Recommender
from newsrex_nb.engine.scoring import direct_scores, scores
from newsrex_nb.train import fit, set_precision
from probes import copied, shaken, tiny, world
from test_contracts import FEW, same

TAKE = "NRMS", "NRAM", "NAML", "LSTUR", "MINER", "CAUM", "GLORY", "DIGAT"
REFUSE = "NPA", "PPRec", "TCCM", "CROWN"
weekly = lambda name: pytest.param(name, marks=pytest.mark.slow)
every = pytest.mark.parametrize("name", [weekly(name) if name in ("GLORY", "DIGAT") else name for name in TAKE]) # graphs compile for long


def vectors_for(data, width=6):
    "Random vectors; every seventh article has none, and one source's vectors are long."
    matrix = generator(0, "vectors").standard_normal((len(data.news), width), np.float32) * 20
    matrix[::7] = 0
    return give_vectors(data, matrix)


@functools.cache
def case(name):
    data = vectors_for(world())
    encoder = ArticleVectors(6, 8, dropout=0.0)
    model = shaken(tiny(getattr(models, name), data, news_encoder=encoder))
    return data, model, direct_scores(model, data, data.test, batch_size=8)


def test_every_model_is_of_one_kind():
    assert {*TAKE, *REFUSE} == {n for n in vars(models) if isinstance(getattr(models, n), type) and n != "NewsRecommender"}
    for name in REFUSE:
        with pytest.raises(InputError, match="no news_encoder"): getattr(models, name)({}, news_encoder=ArticleVectors(6, 8))
    for name in ("GLORY", "DIGAT"):
        with pytest.raises(InputError, match="a news encoder with 8 outputs"):
            tiny(getattr(models, name), world(), news_encoder=ArticleVectors(6, 9))


@every
def test_cached_equals_direct(name):
    data, model, direct = case(name)
    assert "title" not in model.reads and "article_vectors" in model.reads
    assert not [n for n in weight_names(model) if "words" in n], "a table of words that nobody reads"
    same(scores(model, data, **FEW), direct)
    same(direct_scores(model, data, data.test, batch_size=1), direct)


@pytest.mark.parametrize("name", ["NRMS", "MINER", weekly("GLORY")])
def test_fast_equals_plain(name):
    "Losses and gradients, and every weight has some, those of the encoder too."
    data = case(name)[0]
    makes = lambda sizes, **changes: tiny(getattr(models, name), data, news_encoder=ArticleVectors(6, 8, dropout=0.0), **changes)
    report = check_model(makes, data, only=["fast = plain", "gradient everywhere"])
    assert all(finding.measured for finding in report.findings)


def test_half_precision_and_streamed_columns():
    data, model, direct = case("NRMS")
    same(scores(model, data, budget=1, **FEW), direct) # rows of the column travel with each call
    half = copied(model, tiny(models.NRMS, data, news_encoder=ArticleVectors(6, 8, dropout=0.0)))
    set_precision(half, "mixed_float16")
    same(scores(half, data, **FEW), direct, 5e-2)


def test_a_model_learns_from_vectors():
    "Vectors that tell the category; of random ones there is less to learn."
    data = toy(articles=300, users=200, impressions=600, valid=0, test=200)
    kind = data.features["category"]
    topics = np.eye(1 + kind.max(), dtype=np.float32)[kind]
    found = {}
    for what, matrix in dict(topics=topics, noise=generator(0, "noise").standard_normal(topics.shape, np.float32)).items():
        model = models.NAML(give_vectors(data, matrix).sizes, news_encoder=ArticleVectors(topics.shape[1], 16, dropout=0.0), query_dim=16)
        fit(model, data, epochs=4, learning_rate=1e-2, validation=None, verbose=0)
        found[what] = evaluate(model, data)["auc"]
    assert found["topics"] > .55 > found["noise"] + .02, found


def test_a_folder_and_new_articles(tmp_path):
    "A folder holds no vectors and says where they come from; new articles bring theirs."
    data, model, _ = case("NRMS")
    file = tmp_path / "my vectors.npy"
    vectors = {name: data.features.article_vectors[name] for name in data.news.ids[1:].tolist()}
    write_vectors(file, vectors)
    features = data.features.encode(data.news)
    features.recipe = {**features.recipe, "article_vectors": str(file)}
    loaded, kept = hub.load(hub.save(tmp_path / "run", model, features))
    assert kept.recipe["article_vectors"] == "my vectors.npy", "the name without the way to it"
    rec, ids = Recommender.from_pretrained(tmp_path / "run"), data.news.ids[1:12].tolist()
    with pytest.raises(InputError, match="my vectors.npy.*nothing"):
        rec.add([dict(id="X", title="no vector")]); rec.score(["X"], ["X"])
    rec = Recommender.from_pretrained(tmp_path / "run")
    assert rec.add([dict(id=i, vector=vectors[i].tolist()) for i in ids]) == 11
    found = rec.score(ids[:3], ids[3:])
    np.testing.assert_allclose(rec.score(ids[:3], [dict(vector=vectors[i]) for i in ids[3:]]), found, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(Recommender(model, data).score(ids[:3], ids[3:], at=data.start), found, rtol=1e-4, atol=1e-5)
    with pytest.raises(InputError, match=r"one width \(6\)"): rec.score(ids[:3], [dict(vector=[1.0] * 4)])


def test_shell(tmp_path, monkeypatch, capsys):
    data = toy(articles=200, users=50, impressions=200, valid=50, test=60)
    matrix = generator(0, "file").standard_normal((len(data.news), 5), np.float32)
    write_vectors(tmp_path / "v.safetensors", dict(zip(data.news.ids[1:].tolist(), matrix[1:])))
    monkeypatch.chdir(tmp_path)
    size = [f"data.{k}={v}" for k, v in dict(articles=200, users=50, impressions=200, valid=50, test=60).items()]
    call = ["train", "model=caum", "model.news_encoder=vectors", "data.recipe.article_vectors=v.safetensors", *size, "recipe.epochs=1",
            "model.num_heads=2", "model.head_dim=8", "model.news_dim=12", "model.query_dim=8", "model.history_length=8", "model.hidden=[8,6]", "folder=run"]
    assert main(call) == 0, capsys.readouterr().err
    assert "articles are read as vectors of 5 numbers, projected to 12" in capsys.readouterr().out
    assert json.loads((tmp_path / "run/features.json").read_text())["recipe"]["article_vectors"] == "v.safetensors"
    assert main(["recommend", "run", f"history={data.news.ids[3]},{data.news.ids[4]}", "k=2"]) == 0
    assert main(["train", "model.news_encoder=words", *size]) == 2
    assert "'vectors'" in capsys.readouterr().err


@pytest.fixture(scope="module")
def language_model(tmp_path_factory):
    "The folder of a sentence-transformers model with random weights and the words of the toy world."
    pytest.importorskip("sentence_transformers")
    from transformers import BertConfig, BertModel, BertTokenizerFast
    folder = tmp_path_factory.mktemp("language model")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *world().features.vocabulary["words"]]
    (folder / "vocab.txt").write_text("\n".join(words))
    shape = dict(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    BertModel(BertConfig(vocab_size=len(words), **shape)).save_pretrained(folder)
    BertTokenizerFast(vocab_file=str(folder / "vocab.txt")).save_pretrained(folder)
    return folder


def test_a_text_model_that_a_folder_names_is_not_fetched_unasked(tmp_path):
    data = world()
    model = tiny(models.NRMS, data, news_encoder=ArticleVectors(16, 8, dropout=0.0))
    features = data.features.encode(data.news)
    features.recipe = {**features.recipe, "article_vectors": "somebody/a-model"}
    hub.save(tmp_path / "run", model, features)
    rec = Recommender.from_pretrained(tmp_path / "run")
    assert rec.score([dict(vector=[1.0] * 16)], [dict(vector=[0.5] * 16)]).shape == (1,)
    for ask in (lambda: rec.score([dict(title="one")], [dict(title="two")]), lambda: rec.add([dict(id="N9", title="one")]) and rec.score(["N9"], ["N9"])):
        with pytest.raises(InputError, match="somebody/a-model', which the saved model names.*trust"): ask()
    again = Recommender(rec.model, rec.data).save_pretrained(tmp_path / "again")
    assert json.loads((again / "features.json").read_text())["recipe"]["article_vectors"] == "somebody/a-model"


def test_a_language_model(language_model, tmp_path, monkeypatch):
    "Vectors of a sentence-transformers model; an article that is added later is read by the same model."
    data = world()
    data.features.recipe |= dict(article_vectors=str(language_model), vector_fields=["title", "abstract"])
    column = data.features["article_vectors"]
    silent = np.array([not (t or a) for t, a in zip(data.news.title, data.news.abstract)])
    assert column.shape == (81, 16) and (column[silent] == 0).all() and np.abs(column[~silent]).max(axis=1).all()
    model = shaken(tiny(models.NRMS, data, news_encoder=ArticleVectors(16, 8, dropout=0.0)))
    same(scores(model, data, **FEW), direct_scores(model, data, data.test, batch_size=8))
    hub.save(tmp_path / "run", model, data.features)
    monkeypatch.chdir(language_model.parent) # the folder says "language model0": there it lies
    rec = Recommender.from_pretrained(tmp_path / "run")
    with pytest.raises(InputError, match="which the saved model names.*trust"): rec.score([dict(title="one")], [dict(title="two")])
    rec, rows = Recommender.from_pretrained(tmp_path / "run", trust=language_model.name), np.flatnonzero(~silent)[:6]
    ids = data.news.ids[rows].tolist()
    rec.add([dict(id=i, title=data.news.title[r], abstract=data.news.abstract[r]) for i, r in zip(ids, rows)])
    np.testing.assert_allclose(rec.score(ids[:2], ids[2:]), Recommender(model, data).score(ids[:2], ids[2:], at=data.start), rtol=1e-4, atol=1e-4)
