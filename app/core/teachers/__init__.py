"""Teachers of group members: where they are, the projects' keys for them, and what they have answered."""
