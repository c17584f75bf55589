"""One file per command of `towncast`."""
