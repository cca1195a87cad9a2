"""What is given to others: no single users, nothing that nobody asked for, the best seed by validation; to the hub and back."""
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from hub_stand_in import TOKEN, Hub, Repository
from probes import as_format_1, shaken
from safetensors.numpy import load_file

from newsrex_nb import hub
from newsrex_nb.core import InputError
from newsrex_nb.data import toy
from newsrex_nb.data.schema import UNKNOWN
from newsrex_nb.evaluate import evaluate
from newsrex_nb.engine.scoring import scores
from newsrex_nb.models import LSTUR, NPA, NRMS
from newsrex_nb.recommend import Recommender
from newsrex_nb.hub.publish import from_pretrained, gather, push_to_hub, save_pretrained

FOLDERS = Path(__file__).parent / "folders"
TINY = dict(query_dim=4, word_dim=6, title_length=6, history_length=5)


@pytest.fixture(scope="module")
def data(): return toy(articles=80, topics=3, subtopics=2, topic_words=6, subtopic_words=4, days=3, users=30, impressions=200, valid=20, test=30)


@pytest.fixture(scope="module")
def personal(data): return {cls.__name__: shaken(cls(data.sizes, filters=8, seed=2, **TINY)) for cls in (LSTUR, NPA)}


@pytest.mark.parametrize("name", ["format_1", "format_1_readers"])
def test_folders_of_format_1_load_for_ever(name):
    "Written once and never again; the scores were written down beside them."
    asked = json.loads((FOLDERS / f"{name}.json").read_text())
    recommender = Recommender.from_pretrained(FOLDERS / name)
    for request in asked:
        found = recommender.score(request["history"], request["candidates"], user=request["user"])
        np.testing.assert_allclose(found, request["scores"], rtol=1e-5, atol=1e-5 * np.abs(request["scores"]).max())
        assert np.ptp(found) > 1e-3, "scores that say nothing"
    if name == "format_1_readers": assert len({str(request["scores"]) for request in asked}) == len(asked), "users that do not matter"


def contents(folder): return b"".join(p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file())


@pytest.mark.parametrize("name", ["LSTUR", "NPA"])
def test_users_are_kept_on_request_only(name, personal, data, tmp_path):
    model, row = personal[name], 5
    user, ids = str(data.users[row]), data.news.ids[1:].tolist()
    here = Recommender(model, data)
    known, unseen = (here.score(ids[:3], ids[3:30], user=u) for u in (user, None))
    assert (known != unseen).any()
    kept = here.save_pretrained(tmp_path / "kept", keep_users=True, keep_articles=True)
    shared = here.save_pretrained(tmp_path / "shared", keep_articles=True)
    mine, others = Recommender.from_pretrained(kept), Recommender.from_pretrained(shared)
    assert mine.data.users.tolist() == data.users[:model.sizes.users + 1].tolist() and others.data.users.tolist() == [""]
    assert mine.score(ids[:3], ids[3:30], user=user).tobytes() == known.tobytes()
    for recommender in (mine, others): assert recommender.score(ids[:3], ids[3:30], user="nobody").tobytes() == unseen.tobytes()
    assert others.score(ids[:3], ids[3:30], user=user).tobytes() == unseen.tobytes()
    table, = [v for n, v in load_file(kept / "model.safetensors").items() if len(v) == model.sizes.users + 1 and "users" in n]
    vectors = [vector.tobytes() for vector in table[1:]]
    assert all(v in contents(kept) for v in vectors) and not any(v in contents(shared) for v in vectors)
    assert f'"{user}"'.encode() in contents(kept) and not any(f'"{u}"'.encode() in contents(shared) for u in data.users[1:].tolist())
    assert "left out" in (shared / "README.md").read_text() and "personal data" in (kept / "README.md").read_text()
    again = mine.save_pretrained(tmp_path / "again", keep_users=True, keep_articles=True)
    for file in ("model.safetensors", "users.json", "articles.jsonl"): assert (again / file).read_bytes() == (kept / file).read_bytes()


def test_nothing_of_an_earlier_save_stays(personal, data, tmp_path):
    here = Recommender(personal["LSTUR"], data)
    results = dict(model=dict(auc=.5))
    here.save_pretrained(tmp_path, results, run=dict(history={}), keep_users=True, keep_articles=True)
    here.save_pretrained(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["README.md", "config.json", "features.json", "model.safetensors"]
    modes = {p.stat().st_mode & 0o777 for p in tmp_path.iterdir()}
    assert len(modes) == 1, "whoever may read the configuration may read the weights"


def test_a_run_has_rows_without_ids(personal, data, tmp_path):
    model = personal["LSTUR"]
    run = hub.save(tmp_path / "run", model, data.features)
    again, features = hub.load(run)
    assert scores(again, data).tobytes() == scores(model, data).tobytes(), "beside its log a run scores as the model did"
    assert "not for publication" in (run / "README.md").read_text()
    with pytest.raises(InputError, match="got one made for"): push_to_hub(run, "newsrex/LSTUR")
    with pytest.raises(InputError, match="ids of 27 users|ids of"): Recommender.from_pretrained(run).save_pretrained(tmp_path / "x", keep_users=True)


def test_catalogue(data, tmp_path):
    model = NRMS(data.sizes, num_heads=2, head_dim=3, seed=1, **TINY)
    folder = Recommender(model, data).save_pretrained(tmp_path / "run", keep_articles=True)
    _, again = from_pretrained(folder)
    assert again.name == data.name and again.news.ids.tolist() == [i for i in data.news.ids.tolist() if i != UNKNOWN]
    for column in ("title", "abstract", "category", "entities"):
        assert (again.features[column] == data.features[column][:len(again.news)]).all()
    as_format_1(folder)
    (folder / "articles.jsonl").write_text('{"id": "N1"}\nN2\n')
    with pytest.raises(InputError, match="articles.jsonl, line 2"): from_pretrained(folder)


def trained(folder, data, seed, valid, test, change={}, **recipe): # what newsrex train leaves, without the training
    model = NRMS(data.sizes, **{**dict(num_heads=2, head_dim=3, seed=seed, **TINY), **change})
    hub.save(folder, model, data.features, dict(name="NRMS", data="toy", split="test", model=dict(auc=test, impressions=9), baselines={}))
    config = dict(seed=seed, folder=str(folder), data=dict(path="/somewhere/of/mine"), recipe=dict(monitor="auc", restore_best=True, **recipe))
    config |= dict(model={"_target_": "models.NRMS"}, parts=dict(model="nrms", data="mind"), given=[])
    hub.write_json(folder / "experiment.json", dict(format=1, config=config, data=dict(key="k")))
    hub.write_json(folder / "history.json", dict(loss=[2., 1.], **valid, best_epoch=2, samples=9, seconds={}))
    return folder


@pytest.fixture(scope="module")
def seeds(data, tmp_path_factory):
    "Three seeds: 123 has the best validation, 42 the best test."
    parent = tmp_path_factory.mktemp("runs")
    found = {42: (.60, .70), 123: (.65, .60), 456: (.64, .65)}
    return {s: trained(parent / f"nrms-{s}", data, s, dict(val_auc=[.9, valid]), test) for s, (valid, test) in found.items()}


def test_the_best_seed_is_the_best_by_validation(seeds, data, tmp_path):
    folder = gather(seeds.values(), tmp_path / "shared")
    assert sorted(p.name for p in folder.iterdir() if p.is_dir()) == ["seed_123", "seed_42", "seed_456"]
    assert not [*tmp_path.glob(".*")] and len({(p / "model.safetensors").read_bytes() for p in (folder, *folder.glob("seed_*"))}) == 3
    assert (folder / "model.safetensors").read_bytes() == (folder / "seed_123/model.safetensors").read_bytes()
    summary = json.loads((folder / "training_run_summary.json").read_text())
    assert summary["best"] == "seed_123" and summary["seeds"]["seed_42"]["validation"] == .60, "of the epoch whose weights were kept"
    results = json.loads((folder / "test_results.json").read_text())
    assert results["model"]["auc"] == .60 and results["seeds"]["seed_42"]["model"]["auc"] == .70
    card = (folder / "README.md").read_text()
    for text in ("| seed 123 * | 0.6000 |", "| seed 42 | 0.7000 |", "| mean ± sd | 0.6500 ± 0.0500 |", "by the validation split (AUC: ",
                 "not by the test", "research use only"): assert text in card
    assert b"/somewhere" not in contents(folder) and str(tmp_path).encode() not in contents(folder), "folders of this machine"
    for handle, seed in ((folder, 123), (folder / "seed_42", 42), (f"{folder}/seed_456/model.safetensors", 456)):
        assert scores(hub.load(handle)[0], data).tobytes() == scores(hub.load(seeds[seed])[0], data).tobytes()
    assert json.loads((gather([*folder.glob("seed_*")], tmp_path / "again") / "test_results.json").read_text())["seeds"].keys() == results["seeds"].keys()


def test_what_cannot_be_gathered(seeds, data, tmp_path):
    more = lambda name, *args, **changes: trained(tmp_path / name, data, *args, **changes)
    last = dict(val_auc=[.6, .7])
    refused = {"another model": more("a", 7, last, .6, change=dict(head_dim=4)), "another recipe": more("b", 7, last, .6, epochs=9),
               "seed 42 again": more("c", 42, last, .6), "val_auc of every run": more("d", 7, {}, .6)}
    for sentence, run in refused.items():
        with pytest.raises(InputError, match=sentence): gather([*seeds.values(), run], tmp_path / "shared")
    (seeds[42].parent / "other").mkdir()
    (seeds[42].parent / "other/file").write_text("mine")
    with pytest.raises(InputError, match="new or empty"): gather(seeds.values(), seeds[42].parent / "other")
    with pytest.raises(InputError, match="history.json"): gather([FOLDERS / "format_1"], tmp_path / "shared")
    assert not [*tmp_path.glob("*shared*")], "a gathering that fails leaves nothing"
    best_last = trained(tmp_path / "last", data, 1, dict(val_auc=[.9, .5]), .6)
    config = json.loads((best_last / "experiment.json").read_text())
    config["config"]["recipe"]["restore_best"] = False
    (best_last / "experiment.json").write_text(json.dumps(config))
    about = json.loads((gather([best_last], tmp_path / "one") / "training_run_summary.json").read_text())
    assert about["seeds"]["seed_1"]["validation"] == .5, "the weights of the last epoch, so its validation"


def test_foreign_folders_are_refused(tmp_path):
    "NewsReX's own: weights of several seeds and what they reached, no vocabulary."
    for name in ("model.safetensors", "test_results.json", "training_run_summary.json", "README.md", "seed_42/model.safetensors"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    for handle in (tmp_path, tmp_path / "seed_42", tmp_path / "seed_42/model.safetensors"):
        with pytest.raises(InputError, match="Expected config.json and features.json .* vocabulary .* NewsReX") as e: hub.load(handle)
        assert "\n" not in str(e.value)
    with pytest.raises(InputError, match="hf://organisation/repository"): hub.load("newsrex/TCCM")
    with pytest.raises(InputError, match="newsrex://toy"): hub.load("newsrex://world")


def test_the_recommender_of_the_package():
    "It answers at once, and what its card says is what it reaches."
    recommender = Recommender.from_pretrained("newsrex://toy")
    best = recommender.recommend(recommender.data.news.ids[1:4].tolist(), k=5)
    assert len(best) == 5 and all(article.title for article in best)
    world = toy(impressions=8000)
    told = json.loads((hub.SHIPPED["newsrex://toy"] / "test_results.json").read_text())["model"]
    measured = evaluate(recommender.model, world)
    assert {m: round(v, 3) for m, v in measured.items()} == {m: round(v, 3) for m, v in told.items()}
    assert sum(p.stat().st_size for p in hub.SHIPPED["newsrex://toy"].iterdir()) < 500_000


ONLINE = """
    import json, sys, urllib.request
    import numpy as np
    from pathlib import Path
    import huggingface_hub
    from newsrex_nb import hub
    from newsrex_nb.core import InputError
    from newsrex_nb.recommend import Recommender
    from newsrex_nb.hub.publish import push_to_hub

    def refused(function, *args, **kwargs):
        try: function(*args, **kwargs)
        except InputError as e: return str(e)
        return "not refused"

    shared, personal, out = map(Path, sys.argv[1:4])
    titles = [dict(title=t) for t in json.loads(sys.argv[4])]
    score = lambda handle: [float(s).hex() for s in Recommender.from_pretrained(handle).score(titles[:3], titles[3:])]
    said = dict(version=huggingface_hub.__version__)
    said["without asking"] = refused(push_to_hub, personal, "newsrex/ours")
    said["articles"] = refused(push_to_hub, personal, "newsrex/ours", keep_users=True)
    push_to_hub(personal, "newsrex/ours", keep_users=True, keep_articles=True)
    said["user"] = Recommender.from_pretrained("hf://newsrex/ours").data.users.tolist()
    said["handle"] = push_to_hub(shared, "newsrex/ours", token="hf_of_the_owner")
    said["root"], said["seed"] = score("hf://newsrex/ours"), score("hf://newsrex/ours/seed_42/model.safetensors")
    first = json.loads(urllib.request.urlopen(f"{sys.argv[5]}/api/models/newsrex/ours").read())["sha"]
    said["published"] = Recommender.from_pretrained(shared / "seed_456").push_to_hub("newsrex/ours", private=True)
    said["new"], said["old"] = score("hf://newsrex/ours"), score(f"hf://newsrex/ours@{first}")
    for name in ("newsrex/TCCM", "newsrex/TCCM/seed_42", "newsrex/none", "newsrex/gated", "newsrex/ours@v9", "newsrex/ours/seed_7", "newsrex"):
        said[name] = refused(hub.load, f"hf://{name}")
    said["no token"] = refused(push_to_hub, shared, "newsrex/theirs", token="hf_of_somebody")
    said["no name"] = refused(push_to_hub, shared, "newsrex/ours/seed_42")
    urllib.request.urlopen(f"{sys.argv[5]}/down").read()
    said["offline"], said["old offline"] = score("hf://newsrex/ours"), score(f"hf://newsrex/ours@{first}")
    for _ in range(12): said["nowhere"] = refused(hub.load, "hf://newsrex/other") # the first ones meet connections that break
    said["push nowhere"] = refused(push_to_hub, shared, "newsrex/other")
    out.write_text(json.dumps(said))
"""


@pytest.fixture(scope="module")
def online(seeds, personal, data, tmp_path_factory):
    "(what a process heard from a stand-in of the hub, the stand-in, the folder it published); weights go by LFS, not by Xet"
    tmp = tmp_path_factory.mktemp("hub")
    shared = gather(seeds.values(), tmp / "shared")
    with_users = save_pretrained(tmp / "with_users", personal["LSTUR"], data, keep_users=True, keep_articles=True)
    with Hub() as stand_in:
        theirs = {name: b"weights" * 99 for name in ("model.safetensors", "seed_42/model.safetensors")}
        for name, gated in (("TCCM", False), ("gated", True)): stand_in.repositories[f"newsrex/{name}"] = Repository(gated)
        stand_in.repositories["newsrex/TCCM"].commit({**theirs, "README.md": b"# TCCM\n", "test_results.json": b"{}"})
        env = {k: v for k, v in os.environ.items() if not k.startswith("HF_")} | dict(
            HF_ENDPOINT=stand_in.url, HF_HOME=str(tmp / "home"), HF_TOKEN=TOKEN, HF_HUB_DISABLE_XET="1", PYTHONPATH=os.pathsep.join(sys.path), NO_PROXY="127.0.0.1")
        command = [sys.executable, "-c", textwrap.dedent(ONLINE), shared, with_users, tmp / "said.json", json.dumps(data.news.title[1:12]), stand_in.url]
        done = subprocess.run(list(map(str, command)), env=env, capture_output=True, text=True)
        assert not done.returncode, done.stderr
    return json.loads((tmp / "said.json").read_text()), stand_in, shared


def test_to_the_hub_and_back(online, seeds, data):
    said, stand_in, shared = online
    titles = [dict(title=t) for t in data.news.title[1:12]]
    expected = {seed: [float(s).hex() for s in Recommender.from_pretrained(run).score(titles[:3], titles[3:])] for seed, run in seeds.items()}
    assert said["handle"] == said["published"] == "hf://newsrex/ours"
    assert said["root"] == said["old"] == said["old offline"] == expected[123] and said["seed"] == expected[42]
    assert said["new"] == said["offline"] == expected[456] != expected[123]
    commits = [files for _, files in stand_in.repositories["newsrex/ours"].commits[1:]]
    assert {"users.json", "articles.jsonl"} <= set(commits[0]) and said["user"][1:]
    assert set(commits[1]) == {p.relative_to(shared).as_posix() for p in shared.rglob("*") if p.is_file()}, "an older push leaves no users"
    assert b'from_pretrained("hf://newsrex/ours")' in commits[1]["README.md"]
    assert b'from_pretrained("hf://newsrex/ours/seed_42")' in commits[1]["seed_42/README.md"]
    assert not any(path.startswith("seed_") for path in commits[2])


def test_what_the_hub_refuses_is_a_sentence(online):
    said, stand_in, _ = online
    expected = {"without asking": "without user ids", "articles": "without articles", "newsrex/TCCM": "config.json and features.json",
                "newsrex/TCCM/seed_42": "config.json and features.json", "newsrex/none": "a repository in", "newsrex/gated": "gated",
                "newsrex/ours@v9": "revision", "newsrex/ours/seed_7": "seed_7", "newsrex": "hf://organisation/repository",
                "no token": "HF_TOKEN", "no name": "organisation/repository", "nowhere": "a way to the hub", "push nowhere": "an answer of the hub"}
    for case, part in expected.items(): assert part in said[case] and "\n" not in said[case] and said[case].startswith("Expected"), (case, said[case])
    assert not [line for line in stand_in.log if "TCCM" in line and "safetensors" in line], "refused before the weights were on their way"
