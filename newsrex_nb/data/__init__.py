import newsrex_nb.data.popularity # registers its columns and tables
from .mind_files import mind
from .schema import Behaviours, Dataset, News
from .toy_world import toy
