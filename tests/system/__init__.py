"""Real twistd processes, real files, real clients."""
