"""A trained model as a folder, on this machine or on the Hugging Face hub."""
from .folder import FORMAT, SHIPPED, fetch, find_class, load, read_json, save, upload, versions, write_json, write_text
