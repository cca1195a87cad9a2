"""Pictures of data, results, attention and training."""
from .pictures import click_map, seed_figure, treemap
