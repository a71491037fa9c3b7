"""The embedded stack behind `grouptune up`: Postgres, Valkey and the processes of the service. Linux only."""
