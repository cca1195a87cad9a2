"""Ranking metrics, and tables of results."""
from .ranking import per_impression, ranking_metrics, ranks
