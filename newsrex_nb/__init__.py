"""Neural news recommendation in notebooks: models, data, training and exact evaluation on Keras 3 and JAX."""
import os as _os, sys as _sys, warnings as _warnings

__version__ = "0.1.0"

# Keras chooses its backend at its first import, and only the environment variable counts as somebody's choice.
_wanted = _os.environ.get("KERAS_BACKEND", "jax")
if "keras" in _sys.modules and (_running := _sys.modules["keras"].config.backend()) != _wanted:
    _warnings.warn(f"keras was imported before newsrex_nb and runs on {_running!r}, not on {_wanted!r} (newsrex_nb trains on 'jax' "
                   f"only): import newsrex_nb first, or set the environment variable KERAS_BACKEND={_wanted} before the first "
                   "import of keras.", stacklevel=2)
else:
    _os.environ["KERAS_BACKEND"] = _wanted
