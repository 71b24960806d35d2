"""`filefly-client`: options in, text and exit codes out."""
