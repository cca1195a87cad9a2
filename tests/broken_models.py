"""A sound model of the smallest kind, and what becomes of it with one mistake: each breaks the promise that its docstring names."""
import keras
import numpy as np
from keras import ops

from newsrex_nb.contract.example import Means as Sound, mean_of
from newsrex_nb.layers.text import WordEmbedding
from newsrex_nb.models.base import NewsRecommender


class Means(Sound):
    "The sound model, with room for parts of its own."
    def __init__(self, sizes, **kwargs):
        super().__init__(sizes, **kwargs)
        self.parts()
    def parts(self): pass
    def dense(self, **how):
        layer = keras.layers.Dense(4, **{"kernel_initializer": keras.initializers.GlorotUniform(seed=next(self.seeds)), **how})
        layer.build((None, 4))
        return layer


class MeanOverPadding(Means):
    "more words"
    def encode_news(self, news, training=False): return ops.mean(self.words(news["title"]), axis=1)


class CountsClicks(Means):
    "more clicks"
    def encode_user(self, clicked, mask, context, training=False): return ops.mean(clicked, axis=1)


class Neighbours(Means):
    "more neighbours"
    graph = "probe_neighbours"
    def score(self, state, candidates, context, training=False):
        return super().score(state, candidates + ops.mean(context["neighbours"], axis=2), context)


class SoftmaxOfTheList(Means):
    "more candidates"
    def score(self, state, candidates, context, training=False): return ops.softmax(super().score(state, candidates, context), axis=-1)


class SeesPlaces(Means):
    "order of candidates"
    def score(self, state, candidates, context, training=False):
        return super().score(state, candidates, context) + ops.arange(candidates.shape[1], dtype=state.dtype)


class LessTheMean(Means):
    "company"
    def encode_user(self, clicked, mask, context, training=False):
        user = super().encode_user(clicked, mask, context)
        return user - ops.mean(user, axis=0)


class PlaceInTheBatch(Means):
    "company"
    def score(self, state, candidates, context, training=False):
        return super().score(state, candidates, context) * (1 + ops.arange(candidates.shape[0], dtype=state.dtype)[:, None])


class AsksForCandidates(Means):
    "state without candidates"
    def encode_user(self, clicked, mask, context, training=False):
        seen = ops.mean(self.words(context["candidates"]["title"]), axis=(1, 2))
        return super().encode_user(clicked, mask, context) + seen


class RemembersCandidates(Means):
    "state without candidates"
    def encode_news(self, news, training=False):
        self.latest = super().encode_news(news, training)
        return self.latest
    def encode_user(self, clicked, mask, context, training=False):
        return super().encode_user(clicked, mask, context) + ops.mean(self.latest)


class BorrowsAState(Means):
    "keys"
    def encode_user(self, clicked, mask, context, training=False):
        return super().encode_user(clicked, mask, context) + ops.cast(context["user"] % 5, clicked.dtype)[:, None]


class KeepsRoom(Means):
    "news shape"
    def encode_news(self, news, training=False):
        articles, width = news["title"].shape
        return dict(mean=super().encode_news(news, training), room=ops.zeros((articles, self.reads["title"] + 1 - width)))
    def encode_user(self, clicked, mask, context, training=False): return mean_of(clicked["mean"], mask)
    def score(self, state, candidates, context, training=False): return super().score(state, candidates["mean"], context)


class OneMoreThanClicks(Means):
    "state shape"
    def encode_user(self, clicked, mask, context, training=False):
        return ops.pad(clicked * ops.cast(mask, clicked.dtype)[..., None], [(0, 0), (1, 0), (0, 0)])
    def score(self, state, candidates, context, training=False): return ops.einsum("bhd,bcd->bc", state, candidates)


class HalfOfTheClicks(Means):
    "state shape"
    def encode_user(self, clicked, mask, context, training=False):
        clicks = clicked * ops.cast(mask, clicked.dtype)[..., None]
        even = ops.pad(clicks, [(0, 0), (0, clicks.shape[1] % 2), (0, 0)])
        return even[:, ::2] + even[:, 1::2]
    def score(self, state, candidates, context, training=False): return ops.einsum("bhd,bcd->bc", state, candidates)


class DropsAlways(Means):
    "dropout off"
    def encode_news(self, news, training=False): return super().encode_news(news, training=True)


class Overflows(Means):
    "half precision"
    def encode_user(self, clicked, mask, context, training=False):
        far = (1 - ops.cast(mask, clicked.dtype)) * ops.cast(-1e9, clicked.dtype)
        return ops.einsum("bh,bhd->bd", ops.softmax(far, axis=1), clicked)


class DividesByClicks(Means):
    "empty history"
    def encode_user(self, clicked, mask, context, training=False):
        keep = ops.cast(mask, clicked.dtype)[..., None]
        return ops.sum(keep * clicked, axis=1) / ops.sum(keep, axis=1)


class Cosine(Means):
    "empty article"
    def score(self, state, candidates, context, training=False):
        return super().score(state, candidates, context) / ops.norm(candidates, axis=-1)


class RootOfNothing(Means):
    "empty article"
    def score(self, state, candidates, context, training=False):  # finite scores, gradients that are not
        return super().score(state, candidates, context) + ops.sqrt(ops.sum(ops.square(candidates), axis=-1))


class NumbersUsers(Means):
    "unseen user"
    state_key = ("history", "user")
    def encode_user(self, clicked, mask, context, training=False):
        return super().encode_user(clicked, mask, context) / ops.cast(context["user"], clicked.dtype)[:, None]


class MeanOfRows(Means):
    "auxiliary by count"
    def auxiliary(self, encoded, count, state, logits): return dict(size=ops.mean(ops.square(ops.cast(encoded, "float32"))))


class CountsSlots(Means):
    "fast = plain"
    def score(self, state, candidates, context, training=False):
        return super().score(state, candidates, context) * (1.5 if training and ops.shape(self.latest)[0] == 32 else 1)
    def encode_news(self, news, training=False):  # the rows of a plain batch are as many as its slots
        self.latest = super().encode_news(news, training)
        return self.latest


class Idle(Means):
    "gradient everywhere"
    def parts(self): self.look = self.dense()


class CountsRows(Means):
    "cached = direct"
    def encode_news(self, news, training=False):
        x = super().encode_news(news, training)
        return x * (1 if training or ops.shape(x)[0] != 32 else 2)


class HangsOnDigits(Means):
    "float16 near float32"
    def score(self, state, candidates, context, training=False): return ops.sin(3e4 * super().score(state, candidates, context))


class MakesALayerLate(Means):
    "all weights at once"
    def parts(self): self.look = keras.layers.Dense(4, kernel_initializer=keras.initializers.GlorotUniform(seed=next(self.seeds)))
    def encode_user(self, clicked, mask, context, training=False): return self.look(super().encode_user(clicked, mask, context))


class HidesALayer(Means):
    "weights by name"
    def parts(self): self._look = self.dense()
    def encode_user(self, clicked, mask, context, training=False): return self._look(super().encode_user(clicked, mask, context))


class Scale:
    def __init__(self): self.factors = [keras.Variable(2.0), keras.Variable(3.0)]


class HidesWeightsInAnObject(Means):
    "weights by name"
    def parts(self): self.scale = Scale()
    def score(self, state, candidates, context, training=False):
        return super().score(state, candidates, context) * ops.cast(self.scale.factors[0] + self.scale.factors[1], state.dtype)


class GlobalSeed(Means):
    "seeds"
    def parts(self): self.look = self.dense(kernel_initializer="glorot_uniform")
    def encode_user(self, clicked, mask, context, training=False): return self.look(super().encode_user(clicked, mask, context))


class ForgetsAnArgument(Means):
    "configuration"
    def get_config(self): return {**super().get_config(), "title_length": 13}


class LivesInItsProcess(Means):
    "saving"
    def parts(self): self.number = 1 + hash("the order of a set of words") % 97
    def score(self, state, candidates, context, training=False): return super().score(state, candidates, context) / self.number


BROKEN = [c for c in list(vars().values()) if isinstance(c, type) and issubclass(c, Means) and c is not Means]
