"""The contract of a model, checked on anybody's model."""
