"""A trained model as a folder, on this machine or on the Hugging Face hub."""
from .classes import find_class
from .contents import FORMAT, read_json, write_json, write_text
from .folder import load, save, versions
from .handles import SHIPPED, fetch, is_fetched, upload
