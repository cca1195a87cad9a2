"""The training loop, and what it is made of."""
from .loop import fit, set_precision
