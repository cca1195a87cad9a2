"""Configurations, runs, sweeps and what is made of them."""
