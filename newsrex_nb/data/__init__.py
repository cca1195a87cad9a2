"""Data sets: the sources, and what they are made of."""
import newsrex_nb.data.bpe # registers its tokenizers
import newsrex_nb.data.popularity # registers its columns and tables
import newsrex_nb.data.report # gives every data set its report()
from .article_vectors import give_vectors
from .graphs import similar_news
from .schema import Behaviors, Dataset, News
from .sources.adressa import adressa
from .sources.custom_log import custom
from .sources.ebnerd import ebnerd
from .sources.mind_log import mind
from .sources.toy_world import toy
