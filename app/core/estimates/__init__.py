"""What a job will take: counted work times constants fitted to finished jobs. docs/estimates.md has the model."""
