"""The contract of a model, checked on anybody's model."""
from .check import check_model
