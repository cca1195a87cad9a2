"""Articles for one user."""
from .recommender import Recommender
