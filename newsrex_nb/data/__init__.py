from .graphs import similar_news
from .mind_files import mind
from .schema import Behaviours, Dataset, News
from .toy_world import toy
