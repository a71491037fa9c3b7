"""Terminal output, exit codes and formatting, shared by all commands."""
