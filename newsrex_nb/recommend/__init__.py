"""Articles for one user."""
from .reasons import Reason
from .recommender import Recommender
