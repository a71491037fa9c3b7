"""Teachers: their locations, the projects' keys for them, and the cache of their answers."""
