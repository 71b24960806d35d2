"""The catalog: what the metadata server knows, in one SQL database. Statements only; knows no network."""
