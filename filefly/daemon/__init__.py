"""What both daemons share: a connection's requests one after another, and the life of a service."""
