"""The training loop, and what it is made of."""
from .loop import fit
from .state import set_precision
