"""The metadata server: keeps the catalog of files and hands out plans."""
