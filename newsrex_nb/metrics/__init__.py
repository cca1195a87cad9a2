"""Ranking metrics, metrics of lists, and tables of results."""
from .ranking import per_impression, ranking_metrics, ranks
