"""The data server: keeps every block as one plain file."""
