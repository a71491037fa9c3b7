"""`grouptune files`: manages training and validation files."""
