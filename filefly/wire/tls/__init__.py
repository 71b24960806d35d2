"""TLS on a TCP connection: files and contexts, both ends, and what to say when it goes wrong."""
