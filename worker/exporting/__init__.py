"""`python -m worker.exporting SPEC DIRECTORY`: makes one export of a model, and checks it against the model."""
