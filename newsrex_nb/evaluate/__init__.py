"""Models measured: scores, metrics, files of predictions, baselines, intervals, reasons."""
from ..engine.scoring import direct_scores, scores
from .measure import evaluate
from .predictions import predict
