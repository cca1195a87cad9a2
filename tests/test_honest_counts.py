"""A log with one wrong year, one with clicks on articles that nobody knows: what is said, what is measured, what it costs."""
import tracemalloc

import numpy as np
import pandas as pd

from newsrex_nb.data import custom
from newsrex_nb.engine.device import host_tables
from newsrex_nb.evaluate.baselines import baselines
from newsrex_nb.models import PPRec
from newsrex_nb.train.recipe import Recipe
from newsrex_nb.train.training import Training

SIZE = dict(num_heads=2, head_dim=4, word_dim=8, query_dim=4)


def log_with(times, unknown=False):
    "A hundred impressions of twenty articles; the data set of `custom`."
    rng = np.random.default_rng(0)
    articles = [f"N{i}" for i in range(20)]
    lists = [list(rng.permutation(articles)[:4]) for _ in times]
    names = {name: f"other {name}" if unknown and int(name[1:]) % 2 else name for name in articles}
    rows = [dict(user=f"U{i % 7}", time=time, candidates=[names[a] for a in shown], clicks=[names[shown[0]]],
                 history=[names[a] for a in shown[2:]]) for i, (time, shown) in enumerate(zip(times, lists))]
    news = [dict(id=name, title=f"{name} storm", category="a") for name in articles]
    return custom(pd.DataFrame(news), pd.DataFrame(rows), min_count=1), lists


def stamps(wrong=None):
    times = [f"2019-11-{9 + i // 15:02d} {i % 24:02d}:30:00" for i in range(100)]
    return times[:99] + [wrong or times[99]]


def test_one_wrong_year_costs_no_memory_and_is_said(capsys):
    data, _ = log_with(stamps("2090-01-01 10:30:00"))
    tracemalloc.start()
    model = PPRec(data.sizes, **SIZE)
    arrays = host_tables(model, data.features)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert sum(a.nbytes for a in arrays.values()) < 1 << 20 and peak < 64 << 20
    sentence = next(s for s in data.report()["findings"] if "2090-01-01 10:30" in s)
    assert "impression 100 " in sentence
    given = dict(epochs=1, batch_size=16, negatives=2, seed=1, optimizer="adam", learning_rate=1e-3, warmup=0, clip_norm=None,
                 lazy=False, loss="softmax", label_smoothing=0.0, order="random", shuffle=True, validation=None, monitor="mean", patience=None,
                 min_improvement=0.0, restore_best=True, refit=False, callbacks=(), checkpoint=None, precision=None,
                 deterministic=False, chunk=4, memory=1 << 30, sharing=True)
    Training(model, data, Recipe(**given, shape_seeds=(), verbose=0)).tell_data()
    assert not capsys.readouterr().out
    Training(model, data, Recipe(**given, shape_seeds=(), verbose=1)).tell_data()
    assert sentence in capsys.readouterr().out


def test_unknown_articles_are_in_no_history():
    data, lists = log_with(stamps(), unknown=True)
    counts = data.report()["splits"]
    assert {row["clicks in their own history"] for row in counts.values()} == {"0.0 %"}  # histories hold what was not clicked
    shares = {name: row["candidates in their own history"] for name, row in data.report()["splits"].items()}
    for name, log in data.splits.items():
        shown = [lists[int(number) - 1] for number in log.ids]
        found = [place >= 2 and int(a[1:]) % 2 == 0 for one in shown for place, a in enumerate(one)]
        assert shares[name] == f"{100 * np.mean(found):.1f} %"


def test_every_data_set_has_a_window():
    data, _ = log_with(stamps())
    random, popularity, now, match = baselines(data)
    assert (random, popularity, match) == ("random", "popularity", "category match")
    assert now.startswith("popular in the last ") and now.endswith(" h")
