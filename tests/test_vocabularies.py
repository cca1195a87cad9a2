"""A model and data that were read with other words or have other users: the same numbers by the right names, or a sentence."""
import dataclasses
import functools
import json
import re
import warnings

import numpy as np
import pandas as pd
import pytest

from probes import as_format_1

from newsrex_nb import hub
from newsrex_nb.cli import main
from newsrex_nb.core import InputError
from newsrex_nb.data import custom
from newsrex_nb.engine.scoring import direct_scores, scores
from newsrex_nb.engine.vocabularies import learned_by, model_users, reread
from newsrex_nb.evaluate import evaluate
from newsrex_nb.experiments.runs import reopen
from newsrex_nb.hub import publish
from newsrex_nb.models import LSTUR
from newsrex_nb.recommend import Recommender
from newsrex_nb.train import fit

SMALL = dict(views=("title", "category"), category_dim=4, filters=8, word_dim=8, query_dim=4, title_length=6, history_length=5)
USERS = [f"U{n}" for n in range(1, 9)]


def frames(words="abcdefgh", users=USERS, categories="xyz"):
    "Tables of twelve articles and their clicks: ids are numbers, and titles say which words there are."
    rng = np.random.default_rng(len(words))
    news = pd.DataFrame(dict(id=range(9001, 9013), title=[" ".join(w * 3 for w in rng.permutation([*words])[:4]) for _ in range(12)],
                             category=[categories[n % 3] for n in range(12)]))
    shown = [rng.permutation(news.id)[:4].tolist() for _ in range(40)]
    rows = dict(user=[users[n % len(users)] for n in range(40)], time=pd.date_range("2024-03-01", periods=40, freq="3h"),
                candidates=shown, clicks=[ids[:1] for ids in shown])
    return news, pd.DataFrame(rows)


def log(name, *about, **more):
    "Its data set."
    return custom(*frames(*about, **more), name=name, min_count=1)


@functools.cache
def trained():
    "(data, an LSTUR trained on it)"
    data = log("mine")
    model = LSTUR(data.sizes, **SMALL, seed=0)
    fit(model, data, epochs=1, batch_size=8, verbose=0)
    [table] = [v for v in model.trainable_variables if v.shape[0] == data.trained_users + 1]
    table.assign(np.random.default_rng(0).normal(size=table.shape) * (np.arange(table.shape[0]) > 0)[:, None]) # users that can be told apart
    return data, model


def test_other_words_are_refused_everywhere(tmp_path):
    "More words, as many others, fewer: whatever scores, trains, recommends or saves says the same sentence, and goes on with the data read anew."
    mine, model = trained()
    for other in (log("others", "stuvwxyz"), log("more", "abcdefghstuvwxyz"), log("fewer", "abcdef")):
        ask = {"scores": lambda: scores(model, other), "direct": lambda: direct_scores(model, other, other.test),
               "evaluate": lambda: evaluate(model, other), "fit": lambda: fit(model, other, epochs=1, batch_size=8, verbose=0),
               "recommender": lambda: Recommender(model, other), "save": lambda: hub.save(tmp_path / "run", model, other.features)}
        for name, call in ask.items():
            with pytest.raises(InputError, match=rf"vocabulary of 'mine'.*{other.name}.*words.*reread") as refusal: call()
            assert str(refusal.value).count("\n") == 0, name
        unknown = len({*other.features.vocabulary["words"]} - {*mine.features.vocabulary["words"]})
        with warnings.catch_warnings(record=True) as notices:
            warnings.simplefilter("always")
            again = reread(model, other)
        assert [re.search(r"not learned ([\d,]+) of the", str(notice.message))[1] for notice in notices] == [str(unknown)] * (unknown > 0)
        assert again.features.vocabulary is mine.features.vocabulary
        assert np.isfinite(scores(model, again)).all() and Recommender(model, again).recommend([9001], k=2)
    assert not (tmp_path / "run").exists()


def test_only_what_a_model_reads_counts():
    "LSTUR's categories matter to it, subcategories of nobody do not; a copied data set and features that are shared are the same."
    mine, model = trained()
    with pytest.raises(InputError, match="3 categories instead of 3"): evaluate(model, log("renamed", categories="uvw"))
    found = scores(model, mine)
    for same in (log("the same again"), dataclasses.replace(mine, name="copy"), dataclasses.replace(mine, features=mine.features.encode(mine.news))):
        assert (scores(model, same) == found).all()
    mine.features.attach(mine)


def test_an_untrained_model_has_rows_or_not():
    "Sizes are all that is known of it."
    data = log("more", "abcdefghstuvwxyz")
    small = LSTUR(dict(words=5, categories=3, users=8), **SMALL)
    with pytest.raises(InputError, match="at most 5 words.*'more'.*15"): fit(small, data, epochs=1, verbose=0)
    assert learned_by(small) is None
    assert np.isfinite(scores(LSTUR(dict(words=99, categories=9, subcategories=9, users=99), **SMALL), data)).all()


def test_users_keep_their_rows(tmp_path):
    "Another order of the same users gives every user the own vector; other users are nobody's, which is said, also after loading."
    mine, model = trained()
    turned = dataclasses.replace(mine, **{s: dataclasses.replace(getattr(mine, s), user=getattr(mine, s).user % 8 + 1) for s in mine.splits},
                                 users=np.append("", np.roll(mine.users[1:], 1)), features=mine.features.encode(mine.news))
    assert (turned.users[turned.test.user] == mine.users[mine.test.user]).all()
    assert (turned.test.user != mine.test.user).all()
    renamed = dataclasses.replace(turned, users=np.char.add("x", turned.users), features=mine.features.encode(mine.news))
    nobody = dataclasses.replace(mine.test, user=np.zeros_like(mine.test.user))
    unseen = scores(model, mine, nobody)
    saved, _ = hub.load(hub.save(tmp_path, model, mine.features))
    assert "U1" not in (tmp_path / "config.json").read_text()
    for lstur in (model, saved):
        found = scores(lstur, mine)
        assert np.abs(found - unseen).max() > 1e-4
        np.testing.assert_allclose(scores(model, turned), found, atol=1e-5)
        with pytest.warns(UserWarning, match=r"no vectors for \d+ of \d+ users"): got = scores(lstur, renamed)
        np.testing.assert_allclose(got, unseen, atol=1e-5)
    stranger, _ = hub.load(tmp_path)
    with pytest.warns(UserWarning, match="no vectors"): got = scores(stranger, turned)  # no ids are saved: another order is another log
    np.testing.assert_allclose(got, unseen, atol=1e-5)


def test_older_folders_load(tmp_path):
    "Without a fingerprint of users, their number has to do; the vocabulary was always there."
    mine, model = trained()
    hub.save(tmp_path, model, mine.features)
    config = json.loads((as_format_1(tmp_path) / "config.json").read_text())
    hub.write_json(tmp_path / "config.json", {k: v for k, v in config.items() if k not in ("users", "card")})
    old, _ = hub.load(tmp_path)
    assert (scores(old, mine) == scores(model, mine)).all()
    with pytest.raises(InputError, match="vocabulary of 'mine'"): scores(old, log("others", "stuvwxyz"))
    publish.save_pretrained(tmp_path, model, mine, keep_users=True, keep_articles=True)
    loaded = Recommender.from_pretrained(tmp_path)
    known = Recommender(model, mine)
    np.testing.assert_allclose(loaded.score([9001], [9002, 9003], user="U3"), known.score(["9001"], ["9002", "9003"], user="U3"), atol=1e-5)


def test_requests_by_numbers():
    "Articles and users are the log's ids in every type, and never rows; a text is no list."
    data = log("numbered", users=[*range(6, 14)])
    rec = Recommender(LSTUR(data.sizes, **SMALL), data)
    texts = rec.score(["9001", "9004"], ["9002", "9003"], user="6")
    for kind in (np.int32, np.int64, object, str):
        history, shown = np.array([9001, 9004]).astype(kind), pd.Series([9002, 9003]).astype(kind)
        assert (rec.score(history, shown, user=np.int32(6)) == texts).all()
        assert (rec.score([history], tuple(shown), user=[6])[0] == texts).all()
    for history in ("9001 9004", "9001", 9001, np.array([1, 2], np.int32), [1.5], {"id": "9001"}):
        with pytest.raises(InputError): rec.recommend(history)
    with pytest.raises(InputError, match="not rows"): rec.score([9001], np.array([1, 2], np.int32))
    with pytest.raises(InputError, match="the text"): rec.recommend([9001], among="9002")
    seen = rec.recommend(None, k=12, user=6)
    assert seen == rec.recommend(None, k=12, user="6") and len(seen) < 12


def test_one_moment_is_one_second():
    "at=, observe(time=, until=) and add(published=) read a zone as the log does, and numbers of every unit."
    data = log("clock")
    rec = Recommender(LSTUR(data.sizes, **SMALL), data, clock=None)
    stamp = pd.Timestamp("2024-03-06 09:00", tz="Europe/Berlin")
    spellings = [stamp, stamp.to_pydatetime(), stamp.isoformat(), "2024-03-06 08:00", stamp.timestamp(), stamp.value, int(stamp.timestamp() * 1000)]
    assert {rec.time(at) for at in spellings} == {int(stamp.timestamp())}
    assert rec.add([dict(id=n, title="aaa", published=at) for n, at in enumerate(spellings)]) == len(spellings)
    assert {*rec.data.news.published[-len(spellings):]} == {int(stamp.timestamp())}
    before = rec.data
    for mistake in ("soon", 45_000, True):
        with pytest.raises(InputError, match="until"): rec.observe([dict(time=stamp, article=9001, user="new")], until=mistake)
        with pytest.raises(InputError): rec.add([dict(id="B", title="b")], at=mistake)
    assert rec.data is before and "new" not in rec.number
    rec.observe([dict(time=at, article=9001, user="new") for at in spellings], until=stamp + pd.Timedelta(hours=1))
    assert {*rec.data.observed.time} == {int(stamp.timestamp())} and rec.data.newest == int(stamp.timestamp()) + 3600


def test_a_failed_training_leaves_numbers():
    "After a loss that is no number the model has the weights of its best epoch, or those from before."
    data, _ = trained()
    model = LSTUR(data.sizes, **SMALL, seed=0)
    before = [np.array(v) for v in model.trainable_variables]
    with pytest.raises(FloatingPointError): fit(model, data, epochs=3, batch_size=8, learning_rate=1e30, verbose=0)
    for value, v in zip(before, model.trainable_variables): assert (np.array(v) == value).all()


def test_a_readme_of_ones_own_stays(tmp_path):
    "A card gives way to the next; what people wrote does not, nor what they changed in a card."
    data, model = trained()
    rec, path = Recommender(model, data), tmp_path / "README.md"
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        rec.save_pretrained(tmp_path)
        rec.save_pretrained(tmp_path, keep_articles=True)
    card = path.read_text()
    assert "12 articles" in card
    for text in (card + "\nOur notes.\n", "# Ours\n"):
        path.write_text(text)
        with pytest.warns(UserWarning, match="stays"): rec.save_pretrained(tmp_path)
        assert path.read_text() == text


@pytest.mark.filterwarnings("always:::newsrex_nb")
def test_the_shell_says_what_a_run_does_not_know(tmp_path, monkeypatch, capsys):
    "A run on other logs: names that it has not learned and users without a vector are counted; equal ids in the same order keep theirs, but in a toy world."
    monkeypatch.chdir(tmp_path)
    news, rows = frames()
    worlds = dict(mine=(news, rows), corrected=(news.assign(category="x"), rows), words=(news.assign(title=news.title.str.replace("a", "q")), rows),
                  users=(news, rows.assign(user="x" + rows.user)))
    for name, tables in worlds.items():
        for table, frame in zip(("news", "rows"), tables): frame.to_json(f"{name}-{table}.jsonl", orient="records", lines=True, date_format="iso")
    given = [f"model.{key}={[*value] if isinstance(value, tuple) else value}".replace(" ", "").replace("'", "") for key, value in SMALL.items()]
    place = lambda name: [f"data.news={name}-news.jsonl", f"data.behaviors={name}-rows.jsonl"]
    assert main(["train", "model=lstur", "data=custom", *place("mine"), "data.min_count=1", "recipe.epochs=1", "recipe.verbose=0", "folder=run", *given]) == 0

    def users_of(*overrides):
        "What is said, whether the users are known, and their numbers."
        with warnings.catch_warnings(record=True) as notices:
            warnings.simplefilter("always")
            model, data, known = reopen("run", *overrides)
            numbers = model_users(model, data, [1, 2]).tolist()
        return [str(n.message) for n in notices if n.category is UserWarning], known, numbers

    assert users_of() == ([], True, [1, 2])
    assert users_of(*place("corrected")) == ([], True, [1, 2])
    assert users_of(*place("words")) == (["LSTUR, trained on 'custom', has not learned 1 of the 8 words of 'custom': each counts as unknown."], True, [1, 2])
    for overrides in (place("users"), ["data=toy", "data.articles=128", "data.users=8", "data.impressions=40"]):
        said, *unknown = users_of(*overrides)
        assert re.search(r"no vectors for \d of \d users of the training split", said[-1]) and unknown == [False, [0, 0]]
    config = json.loads((as_format_1(tmp_path / "run") / "config.json").read_text())
    hub.write_json(tmp_path / "run" / "config.json", {k: v for k, v in config.items() if k not in ("users", "card")})
    assert users_of() == ([], True, [1, 2])
    assert "no vectors for 8 of 8" in users_of(*place("corrected"))[0][0]  # without a fingerprint other data have other users
    capsys.readouterr()
    assert main(["evaluate", "run", *place("users")]) == 0
    assert "no vectors for 8 of 8 users" in capsys.readouterr().err
