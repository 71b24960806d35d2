"""What crosses the network; knows no server."""
