"""The sources of data: files and made-up worlds, read into the one form of `data.schema`."""
