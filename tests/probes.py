"""Four probes, models of some ten lines that use every part of the contract, with what they register; and models made tiny."""
import dataclasses
import inspect
import json

import keras
import numpy as np
import pytest
from keras import ops
from safetensors.numpy import load_file, save_file

from newsrex_nb.contract.watched import copied, shaken
from newsrex_nb.contract.worlds import contract_world
from newsrex_nb.core import generator
from newsrex_nb.data.features import COLUMNS, PLANNERS, column, planner, table
from newsrex_nb.data.graphs import Planner
from newsrex_nb.layers.attention import masked_softmax
from newsrex_nb.layers.text import WordEmbedding
from newsrex_nb.models.base import NewsRecommender


@column("probe_ctr", hours=True)
def probe_ctr(features):
    "(N, hours) a made-up share of clicks."
    data = features.dataset
    hours = 1 + max(int(data.hour(s.time).max()) for s in data.splits.values())
    return generator(0, "ctr").random((len(features), hours), np.float32) * (np.arange(len(features)) > 0)[:, None]


@table("probe_word_heat")
def probe_word_heat(features):
    "(hours, words + 1) a made-up heat of words."
    return generator(0, "heat").random((features["probe_ctr"].shape[1], features.sizes["words"] + 1), np.float32)


@column("probe_neighbours")
def probe_neighbours(features):
    "(N, 3) up to three neighbours, right-padded; every fifth article has none."
    rows, n = np.arange(len(features))[:, None], len(features)
    near = 1 + (rows * [3, 7, 11] + 5) % (n - 1)
    return np.where((rows > 0) & (rows % 5 > 0) & (np.arange(3) < 1 + rows % 3), near, 0).astype(np.int32)


class Walk(Planner):
    "Subgraphs: the clicked articles and one more for each, linked by a fixed rule."
    places = 24

    def __init__(self, rows): self.after = np.where(np.arange(rows) > 0, 1 + np.arange(rows) * 5 % (rows - 1), 0).astype(np.int32)

    def plan(self, numbers, clicked, places=None):
        nodes, mapping = np.zeros((len(clicked), self.places), np.int32), np.zeros(clicked.shape, np.int32)
        for i, rows in enumerate(clicked):
            found = list(dict.fromkeys([*rows[rows > 0].tolist(), *self.after[rows[rows > 0]].tolist()]))
            nodes[i, :len(found)] = found
            mapping[i] = [found.index(r) if r else 0 for r in rows]
        linked = (self.after[nodes][:, :, None] == nodes[:, None, :]) & (nodes > 0)[:, :, None] & (nodes > 0)[:, None, :]
        return nodes, linked, mapping

    def reach(self, numbers, clicked): return np.unique(np.concatenate([clicked.ravel(), self.after[clicked.ravel()]]))


@planner("probe_walk")
def probe_walk(features): return Walk(len(features))


class Padded(Planner):
    "A planner whose subgraphs have two more empty places."
    def __init__(self, inner): self.inner, self.reach = inner, inner.reach
    def plan(self, numbers, clicked, places=None):
        nodes, adjacency, mapping = self.inner.plan(numbers, clicked)
        return np.pad(nodes, ((0, 0), (0, 2))), np.pad(adjacency, ((0, 0), (0, 2), (0, 2))), mapping


class Probe(NewsRecommender):
    "Word vectors, a query over words and clicks; `parts` adds what a probe needs."
    def __init__(self, sizes, dim=6, title_length=40, history_length=8, dropout=0.0, seed=0, **kwargs):
        super().__init__(locals())
        self.dim, self.reads = dim, {"title": title_length}
        self.words = WordEmbedding(self.sizes.words, dim, seed=next(self.seeds))
        self.query, self.drop = self.dense(dim, 1), keras.layers.Dropout(dropout, seed=next(self.seeds))
        self.parts(self.sizes)

    def parts(self, sizes): pass

    def start(self): return keras.initializers.GlorotUniform(seed=next(self.seeds))

    def dense(self, inputs, outputs):
        layer = keras.layers.Dense(outputs, kernel_initializer=self.start())
        layer.build((None, inputs))
        return layer

    def ids(self, number, dim):
        layer = keras.layers.Embedding(number + 1, dim, embeddings_initializer=self.start())
        layer.build((None,))
        return layer

    def pool(self, x, mask): return ops.einsum("...n,...nd->...d", masked_softmax(self.query(x)[..., 0], mask), x)

    def encode_news(self, news, training=False):
        return self.pool(self.drop(self.words(news["title"]), training=training), news["title"] > 0)

    def encode_user(self, clicked, mask, context, training=False): return self.pool(clicked, mask)


class PersonalWords(Probe):
    "Token states, padded to the full width and pooled for each user."
    state_key = ("history", "user")
    def parts(self, sizes): self.user = self.ids(sizes.users, self.dim)
    def encode_news(self, news, training=False):
        ids, x = news["title"], self.drop(self.words(news["title"]), training=training)
        rest = self.reads["title"] - ids.shape[1]
        return dict(words=ops.pad(x, ((0, 0), (0, rest), (0, 0))), real=ops.pad(ops.cast(ids > 0, "int32"), ((0, 0), (0, rest))))
    def personal(self, news, q): # (B, n, L, D), (B, D)
        return ops.einsum("bnl,bnld->bnd", masked_softmax(ops.einsum("bnld,bd->bnl", news["words"], q), news["real"] > 0), news["words"])
    def encode_user(self, clicked, mask, context, training=False):
        q = ops.tanh(self.user(context["user"]))
        return dict(user=self.pool(self.personal(clicked, q), mask), q=q)
    def score(self, state, candidates, context, training=False):
        return ops.einsum("bd,bcd->bc", state["user"], self.personal(candidates, state["q"]))


class HourlyCandidates(Probe):
    "Candidates keyed by (row, hour), with a table; clicks and candidates with an hourly column."
    hourly, tables, state_key, candidate_key = ("probe_ctr",), ("probe_word_heat",), ("history", "hour"), ("row", "hour")
    def parts(self, sizes): self.reads["probe_ctr"], self.heat = None, self.dense(1, self.dim)
    def encode_candidate(self, news, encoded, context, training=False):
        hot = ops.take_along_axis(ops.take(context["tables"]["probe_word_heat"], context["hour"], axis=0), news["title"], axis=1)
        return dict(news=encoded, heat=self.pool(self.heat(hot[..., None]), news["title"] > 0))
    def encode_user(self, clicked, mask, context, training=False):
        return self.pool(clicked * (1 + ops.cast(context["clicked"]["probe_ctr"], clicked.dtype)[..., None]), mask)
    def score(self, state, candidates, context, training=False):
        late = ops.cast(context["hour"] % 24, state.dtype)[:, None] / 24
        heat = self.query(candidates["heat"])[..., 0] * ops.cast(context["candidates"]["probe_ctr"], state.dtype) * late
        return ops.einsum("bd,bcd->bc", state, candidates["news"]) + heat


class Neighbourly(Probe):
    "An article graph: each candidate looks at its neighbours."
    graph = "probe_neighbours"
    def parts(self, sizes): self.change = self.dense(self.dim, self.dim)
    def encode_candidate(self, news, encoded, context, training=False): return self.change(encoded)
    def score(self, state, candidates, context, training=False):
        near, mask = context["neighbours"], context["neighbour_mask"]
        weights = masked_softmax(ops.einsum("bcd,bcgd->bcg", candidates, near), mask)
        return ops.einsum("bd,bcd->bc", state, candidates + ops.einsum("bcg,bcgd->bcd", weights, near))


class Walker(Probe):
    "A user subgraph, and auxiliary losses over articles and over users."
    graph = "probe_walk"
    def parts(self, sizes):
        self.reads["category"] = None
        self.head, self.step = self.dense(self.dim, sizes.categories + 1), self.dense(self.dim, self.dim)
    def encode_news(self, news, training=False):
        x = super().encode_news(news, training)
        return dict(x=x, logits=self.head(x), category=news["category"])
    def encode_candidate(self, news, encoded, context, training=False): return encoded["x"]
    def encode_user(self, clicked, mask, context, training=False):
        x = context["neighbours"]["x"] * ops.cast(context["neighbour_mask"], clicked["x"].dtype)[..., None]
        x = ops.tanh(x + self.step(ops.matmul(ops.cast(context["adjacency"], x.dtype), x)))
        return self.pool(clicked["x"] + ops.take_along_axis(x, context["mapping"][..., None], axis=1), mask)
    def auxiliary(self, encoded, count, state, logits):
        logits = ops.cast(encoded["logits"], "float32")
        loss = keras.losses.sparse_categorical_crossentropy(encoded["category"], logits, from_logits=True)
        mean = ops.sum(count * loss) / ops.maximum(ops.sum(count), 1)
        return dict(category=0.3 * mean, size=0.1 * ops.mean(ops.square(ops.cast(state, "float32"))))


PROBES = [PersonalWords, HourlyCandidates, Neighbourly, Walker]

OF_EACH_KIND = {"NRMS", "LSTUR"}  # plain, with a user's own vector; two of the probes have graphs


def few(papers):
    "All probes, and papers of which two stand for the rest, which is tested once a week."
    slow = lambda cls: pytest.param(cls, marks=pytest.mark.slow)
    return [cls if cls in PROBES or cls.__name__ in OF_EACH_KIND else slow(cls) for cls in papers]


SMALL = dict(num_heads=2, head_dim=4, query_dim=6, word_dim=8, filters=8, title_length=40, abstract_length=60, history_length=8,
             dropout=0.0)
OWN = dict( # arguments of a model that differ from these, by class name
    CROWN=dict(feed_dim=8, intent_dim=6, category_dim=4, graph_heads=2), DIGAT=dict(layers=2),
    GLORY=dict(entity_dim=4, entity_heads=2),
    CAUM=dict(entity_heads=2, entity_head_dim=4, entity_dim=8, category_dim=6, news_dim=8, hidden=(8, 6)),
    **{name: dict(co_heads=2, co_dim=3, entity_dim=6, category_dim=4, age_dim=5, title_entities=20) for name in ("PPRec", "TCCM")})


world = contract_world  # a name that reads well in tests


def tiny(cls, data, words=0, **changes): # words: a larger vocabulary than that of `data`
    "A model of a few hundred weights: the constructor's arguments that have a small value here."
    given = {**SMALL, **OWN.get(cls.__name__, {}), **changes}
    known, sizes = inspect.signature(cls.__init__).parameters, dataclasses.replace(data.sizes, words=max(words, data.sizes.words))
    return cls(sizes, **{k: v for k, v in given.items() if k in known})


def wider(model):
    "A world with more padding in texts, and in the graph of `model` where it has one."
    data = contract_world(extra=9)
    kept, graph = data.features.kept, model.graph
    if graph in PLANNERS: kept["planner", graph] = Padded(data.features.planner(graph))
    elif graph in COLUMNS: kept["column", graph] = np.pad(data.features[graph], ((0, 0), (0, 2)))
    return data


def as_format_1(folder, **changes):
    "A saved folder as earlier versions wrote it, without fingerprints, perhaps with changes in its config.json."
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config.pop("files", None)
    (folder / "config.json").write_text(json.dumps(config | changes), encoding="utf-8")
    save_file(load_file(folder / "model.safetensors"), folder / "model.safetensors")
    return folder
