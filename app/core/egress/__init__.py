"""Outgoing HTTP to addresses that clients name. Start with `client`."""
