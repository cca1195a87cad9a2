"""A trained model goes through a folder into a fresh process: the same bits, or one sentence that says what does not fit."""
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from probes import as_format_1
from safetensors.numpy import load_file, save_file

from newsrex_nb import hub
from newsrex_nb.core import InputError
from newsrex_nb.data import toy
from newsrex_nb.data.schema import take
from newsrex_nb.engine.scoring import scores
from newsrex_nb.experiments.building import build_model
from newsrex_nb.experiments.configuration import configure
from newsrex_nb.hub.publish import save_pretrained
from newsrex_nb.layers.vectors import ArticleVectors
from newsrex_nb.models import NRMS
from newsrex_nb.recommend import Recommender
from newsrex_nb.train import fit

WORLD = dict(articles=200, users=50, impressions=200, valid=0, test=60)


@pytest.fixture(scope="module")
def data(): return toy(**WORLD)


@pytest.fixture(scope="module")
def model(data):
    model = NRMS(data.sizes, num_heads=2, head_dim=8, word_dim=16, query_dim=8, title_length=8, history_length=8, seed=3)
    fit(model, data, epochs=1, validation=None, verbose=0)
    return model


@pytest.fixture
def folder(tmp_path, model, data):
    return Recommender(model, data).save_pretrained(tmp_path / "run", dict(name="NRMS", model=dict(auc=0.5), baselines={}))


FRESH = """
import sys, numpy as np
from newsrex_nb.data import toy
from newsrex_nb.engine.scoring import scores
from newsrex_nb.recommend import Recommender
recommender, data = Recommender.from_pretrained(sys.argv[1]), toy(**{world})
np.save(sys.argv[2], scores(recommender.model, data))
news = data.news
print(recommender.add([dict(id=i, title=t, category=c) for i, t, c in zip(news.ids[1:].tolist(), news.title[1:], news.category[1:])]))
for article in recommender.recommend(news.ids[1:6].tolist(), k=5): print(article.id, article.score.hex())
# a model made with an encoder whose class nothing here has imported
vectors = Recommender.from_pretrained(sys.argv[3])
print(vectors.score([dict(vector=[1.0, 0.0])], [dict(vector=[0.5, 2.0]), dict(vector=[1.0, 1.0])]).tobytes().hex())
"""


class Scaled(NRMS):
    "A model with a weight without axes."
    def __init__(self, sizes, **arguments):
        super().__init__(sizes, **arguments)
        self.scale = self.add_weight(shape=(), name="scale", initializer="ones")


def test_a_weight_without_axes_keeps_its_shape(data, tmp_path):
    model = Scaled(data.sizes, num_heads=2, head_dim=8, word_dim=16, query_dim=8, title_length=8, history_length=8)
    model.scale.assign(3.0)
    hub.save(tmp_path, model, data.features)
    assert load_file(tmp_path / "model.safetensors")["scale"].shape == ()
    assert float(hub.load(tmp_path, trust=__name__)[0].scale.value) == 3.0


def test_fresh_process(folder, model, data, tmp_path):
    out = tmp_path / "scores.npy"
    reader = NRMS(data.sizes, num_heads=2, head_dim=4, query_dim=4, news_encoder=ArticleVectors(2, 8), seed=1)
    saved = save_pretrained(tmp_path / "vectors", reader, data)
    command = [sys.executable, "-c", FRESH.format(world=WORLD), folder, out, saved]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    here = scores(model, data)
    assert np.load(out).tobytes() == here.tobytes()
    lines = [f"{a.id} {a.score.hex()}" for a in Recommender(model, data).recommend(data.news.ids[1:6].tolist(), k=5)]
    here = Recommender.from_pretrained(saved).score([dict(vector=[1.0, 0.0])], [dict(vector=[0.5, 2.0]), dict(vector=[1.0, 1.0])])
    lines.append(here.tobytes().hex())
    assert done.stdout.split("\n")[:-1] == ["200", *lines]


def test_what_a_folder_holds(folder, data):
    names = sorted(p.name for p in folder.iterdir())
    assert names == ["README.md", "config.json", "features.json", "model.safetensors", "test_results.json"]
    config = json.loads((folder / "config.json").read_text())
    assert config["format"] == 1 and config["class"] == "NRMS" and config["config"]["num_heads"] == 2
    assert "news_encoder.words.embeddings" in load_file(folder / "model.safetensors")
    everything = b"".join(p.read_bytes() for p in folder.iterdir())
    assert not [user for user in data.users[1:].tolist() if f'"{user}"'.encode() in everything], "user ids"
    assert not [i for i in data.news.ids[1:].tolist() if i.encode() in everything], "the catalogue"
    assert b"\x80\x04\x95" not in everything, "a pickle"
    assert "research use" in (folder / "README.md").read_text()


def test_weights_that_do_not_fit(folder):
    path = as_format_1(folder) / "model.safetensors"
    arrays = load_file(path)
    arrays["a.stranger"] = arrays.pop("news_encoder.words.embeddings")
    first = sorted(arrays)[1]
    arrays[first] = arrays[first].astype(np.float16)
    save_file(arrays, path)
    lists = f"missing: news_encoder.words.embeddings; unexpected: a.stranger; misshapen: {first} is float16"
    with pytest.raises(InputError, match=lists): hub.load(folder)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(InputError, match="whole safetensors file"): hub.load(folder)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "features.json"])
def test_files_that_are_missing(folder, name):
    (folder / name).unlink()
    with pytest.raises(InputError, match=f"Expected {name}") as e: hub.load(folder)
    assert str(e.value).count("\n") == 0


def test_folders_that_cannot_be_read(folder, tmp_path):
    with pytest.raises(InputError, match="nothing"): hub.load(tmp_path / "nowhere")
    changes = {"format 1 or older": {"format": 2}, "module:Class": {"format": 1, "class": "NoSuchModel"}, "trust": {"class": "json:dumps"}}
    for sentence, change in changes.items():
        as_format_1(folder, **change)
        with pytest.raises(InputError, match=sentence): hub.load(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(InputError, match="JSON"): hub.load(folder)


OUTSIDE = """
from newsrex_nb.models import NRMS
class Mine(NRMS):
    def __init__(self, sizes, num_heads=2, head_dim=4, query_dim=4, word_dim=8, title_length=8, history_length=8, dropout=0.1,
                 wiring="paper", news_encoder=None, user_encoder=None, word_vectors=None, seed=0, **kwargs):
        super().__init__(**{k: v for k, v in locals().items() if k not in ("self", "__class__", "kwargs")}, **kwargs)
"""


EVIL = """
from pathlib import Path
Path(__file__).with_suffix(".ran").touch()
"""


@pytest.mark.parametrize("place", ["class", "news_encoder", "nested"])
def test_loading_a_folder_runs_nothing_of_it(folder, tmp_path, monkeypatch, place):
    "A module that the folder names is not imported, at whatever depth it is named."
    (tmp_path / "evil.py").write_text(EVIL)
    monkeypatch.syspath_prepend(tmp_path)
    config = json.loads((folder / "config.json").read_text())["config"]
    evil = dict(module="evil", class_name="Evil", config={}, registered_name="newsrex_nb>CNNTitle")
    inner = dict(module="newsrex_nb.layers.text", class_name="CNNTitle", config=dict(filters=evil), registered_name=None)
    changes = {"class": {"class": "evil:Evil"}, "news_encoder": dict(config=config | dict(news_encoder=evil)), "nested": dict(config=config | dict(news_encoder=inner))}
    as_format_1(folder, **changes[place])
    with pytest.raises(InputError, match="modules that you trust"): Recommender.from_pretrained(folder)
    assert not (tmp_path / "evil.ran").exists() and "evil" not in sys.modules


def test_the_files_of_two_models_are_no_model(tmp_path, model, data):
    "Each file of one folder beside those of another, and each bit, is found by a fingerprint."
    homes = [hub.save(tmp_path / str(seed), NRMS(data.sizes, **{k: v for k, v in model.configuration.items() if k not in ("sizes", "seed")}, seed=seed), data.features) for seed in (1, 2)]
    for name in ("config.json", "model.safetensors"):
        mixed = tmp_path / f"mixed {name}"
        shutil.copytree(homes[0], mixed)
        shutil.copy(homes[1] / name, mixed / name)
        with pytest.raises(InputError, match="Expected the files of one model"): hub.load(mixed)
    whole_scores = scores(hub.load(homes[0])[0], data)
    for name in ("config.json", "features.json", "model.safetensors"):
        whole = (homes[0] / name).read_bytes()
        for at in np.linspace(0, len(whole) - 1, 40).astype(int):
            (homes[0] / name).write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1:])
            try: found = scores(hub.load(homes[0])[0], data)
            except InputError: continue
            assert name == "config.json" and (found == whole_scores).all(), "what config.json says of the card"
        (homes[0] / name).write_bytes(whole)


def test_a_folder_of_something_else_stays(tmp_path, model, data, monkeypatch):
    "Saving replaces what was saved there, and no file of somebody else."
    monkeypatch.chdir(tmp_path)
    for name in ("users.json", "articles.jsonl", "notes.txt"): (tmp_path / name).write_text("mine")
    hub.save(".", model, data.features)
    assert {(tmp_path / name).read_text() for name in ("users.json", "articles.jsonl", "notes.txt")} == {"mine"}
    assert Recommender.from_pretrained(".").data.users.tolist() == [""], "files that the folder does not list"
    with pytest.raises(InputError, match="users.json of something else"): Recommender(model, data).save_pretrained(".", keep_users=True)
    (tmp_path / "other").mkdir()
    (tmp_path / "other/config.json").write_text("{}")
    with pytest.raises(InputError, match="config.json of something else"): hub.save("other", model, data.features)


def test_weights_that_are_no_numbers(folder):
    path = as_format_1(folder) / "model.safetensors"
    arrays = load_file(path)
    name = sorted(arrays)[-1]
    arrays[name].flat[-1] = np.nan
    save_file(arrays, path)
    with pytest.raises(InputError, match=f"finite weights .* NaN or infinity in {name}"): hub.load(folder)


def test_a_saving_that_is_killed(tmp_path, model, data, monkeypatch):
    "Whatever moment it is killed at, the folder is the old model, the new one or a sentence; saving again mends it."
    old, new = (NRMS(data.sizes, **{k: v for k, v in model.configuration.items() if k not in ("sizes", "seed")}, seed=seed) for seed in (1, 2))
    at = lambda model: b"".join(np.asarray(v.value).tobytes() for v in model.weights)
    known, outcomes, home = {at(old): "old", at(new): "new"}, [], tmp_path / "run"

    class Killed(BaseException): pass
    for moment in range(20):
        shutil.rmtree(home, ignore_errors=True)
        Recommender(old, data).save_pretrained(home, results=dict(model=dict(auc=.5)), keep_articles=True)
        left = [moment]
        def dying(operation):
            def step(*arguments, **options):
                if left[0] == 0: raise Killed
                left[0] -= 1
                return operation(*arguments, **options)
            return step
        with monkeypatch.context() as patch:
            for name in ("replace", "unlink"): patch.setattr(Path, name, dying(getattr(Path, name)))
            patch.setattr(shutil, "rmtree", lambda *_, **__: None)
            patch.setattr("os.replace", dying(os.replace))
            try: Recommender(new, data).save_pretrained(home)
            except Killed: pass
        try: outcomes.append(known[at(Recommender.from_pretrained(home).model)])
        except InputError: outcomes.append("refused")
        hub.save(home, new, data.features)
        assert known[at(hub.load(home)[0])] == "new" and not (home / ".unfinished").exists()
        assert sorted(p.name for p in home.iterdir()) == ["README.md", "config.json", "features.json", "model.safetensors"]
        if left[0]: break
    assert outcomes == sorted(outcomes, key=["old", "refused", "new"].index) and set(outcomes) == {"old", "refused", "new"}, outcomes


class Warm(NRMS):
    "An own model as one writes it first: an argument more, and the others handed on."
    def __init__(self, sizes, temperature=2.0, **rest):
        super().__init__(sizes, **rest)
        self.temperature = temperature


def test_arguments_of_an_own_model_are_kept(data, tmp_path):
    model = Warm(data.sizes, temperature=8.0, num_heads=2, head_dim=4, word_dim=8, seed=5)
    again, _ = hub.load(hub.save(tmp_path, model, data.features), trust=__name__)
    assert again.temperature == 8.0 and again.configuration["num_heads"] == 2 and again.configuration["seed"] == 5
    config = configure("model=test_saving:Warm", "model.num_heads=2", "model.temperature=3.0", "seed=7")
    assert build_model({**config, "seed": 7}, data, say=lambda line: None).configuration["seed"] == 7


def test_class_of_another_package(tmp_path, data, monkeypatch):
    (tmp_path / "other_package.py").write_text(OUTSIDE)
    monkeypatch.syspath_prepend(tmp_path)
    mine = hub.find_class("other_package:Mine")(data.sizes, seed=1)
    hub.save(tmp_path / "run", mine, data.features)
    with pytest.raises(InputError, match='trust=."other_package"'): hub.load(tmp_path / "run")
    again, _ = hub.load(tmp_path / "run", trust="other_package")
    some = take(data.test, slice(0, 5))
    assert type(again) is type(mine) and (scores(again, data, some) == scores(mine, data, some)).all()


def test_encoder_as_an_argument(tmp_path, data):
    from newsrex_nb.layers.text import CNNTitle
    encoder = CNNTitle(16, word_dim=12, title_length=8)
    model = NRMS(data.sizes, num_heads=2, head_dim=8, history_length=8, news_encoder=encoder, seed=1)
    again, _ = hub.load(hub.save(tmp_path / "run", model, data.features))
    some = take(data.test, slice(0, 5))
    assert again.reads == {"title": 8} and (scores(again, data, some) == scores(model, data, some)).all()


def test_new_articles(folder, data):
    "Articles with the texts of old ones score as those do, whether they are added or given with the request."
    loaded = Recommender.from_pretrained(folder)
    with pytest.raises(InputError, match="add"): loaded.recommend([])
    title = dict(zip(data.news.ids.tolist(), data.news.title))
    ids = data.news.ids[1:12].tolist()
    given = loaded.score([dict(title=title[i]) for i in ids[:3]], [dict(title=title[i]) for i in ids[3:]])
    assert loaded.add([dict(id=i, title=title[i]) for i in ids]) == 11 and loaded.add([dict(id=ids[0], title="again")]) == 0
    np.testing.assert_allclose(loaded.score(ids[:3], ids[3:]), given, rtol=1e-5, atol=1e-6)
    best = loaded.recommend(ids[:3], k=4, user="nobody", at="2019-11-15 08:00")
    assert len(best) == 4 and not {a.id for a in best} & set(ids[:3]) and best == sorted(best, key=lambda a: -a.score)
    assert [a.id for a in loaded.recommend(ids[:3], among=ids[5:7])] in (ids[5:7], ids[6:4:-1])
