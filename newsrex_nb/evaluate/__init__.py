"""Models measured: scores, metrics, files of predictions, baselines, intervals, reasons."""
from ..engine.rankers import Ranker
from ..engine.scoring import direct_scores, scores
from .measure import evaluate, predict
from .rankers import ranker_of
from .reranked import Reranked
from .sums import Merged
