"""The embedded stack of `grouptune up`: Postgres, Valkey, the API and the workers. Linux only."""
