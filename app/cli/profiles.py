"""`grouptune login`, `logout` and `profiles`: stored servers with their API keys, one of which is in use."""

from typing import Annotated, Final

import httpx
import typer

from app.cli.connection import ServerConnection, ask_for_key, complete_url
from app.cli.profile_store import known_profile, profiles_path, read_profiles, write_profiles
from app.cli.ui.console import note, write_json, write_line, write_table
from app.cli.ui.options import AsJson
from app.client import ApiError, Client

app = typer.Typer(help="List and choose the servers that you logged in to.", no_args_is_help=True)
DEFAULT: Final = "default"
_HINT: Final = 4

ProfileName = Annotated[str, typer.Argument(metavar="PROFILE", help="Name of the profile.")]


def login(
    url: Annotated[str, typer.Argument(help="Address of the server: https://grouptune.example.com.")],
    profile: Annotated[str, typer.Option(metavar="NAME", help="Name for this server.")] = DEFAULT,
) -> None:
    """Store a server and an API key for it, and use it from now on.

    The command prompts for the key, or reads it from standard input. Other commands use the server unless GROUPTUNE_URL
    or --state-dir names another one.
    """
    connection = ServerConnection(complete_url(url), ask_for_key())
    with Client(*connection) as client:
        try:
            client.get("/models")
        except ApiError as error:  # a key without this scope is a valid key
            if error.http_status != httpx.codes.FORBIDDEN:
                raise
    stored = read_profiles()
    stored["profiles"][profile] = connection._asdict()
    write_profiles(stored | {"current": profile})
    note(f"Logged in to {connection.base_url} as profile '{profile}'. The key is in {profiles_path()}.")


def logout(
    profile: Annotated[str | None, typer.Argument(help="Profile to remove. Default: the one in use.")] = None,
) -> None:
    """Remove a stored server and its API key. The key itself stays valid."""
    stored = read_profiles()
    name = known_profile(stored, profile or stored["current"])
    del stored["profiles"][name]
    if stored["current"] == name:
        stored["current"] = None
    write_profiles(stored)
    note(f"Profile '{name}' is removed. Revoke its key with `grouptune keys revoke` if nothing else uses it.")


@app.command("list")
def list_profiles(as_json: AsJson = False) -> None:
    """List the profiles; keys are not shown."""
    stored = read_profiles()
    rows = [
        {
            "name": name,
            "in_use": name == stored["current"],
            "url": one["base_url"],
            "key": f"...{one['api_key'][-_HINT:]}",
        }
        for name, one in sorted(stored["profiles"].items())
    ]
    if as_json:
        write_json(rows)
        return
    table = [(row["name"], "*" if row["in_use"] else "", row["url"], row["key"]) for row in rows]
    write_table(("name", "in use", "url", "key"), table, empty="No profiles. Add one with `grouptune login URL`.")


@app.command()
def use(profile: ProfileName) -> None:
    """Use another profile from now on."""
    stored = read_profiles()
    name = known_profile(stored, profile)
    write_profiles(stored | {"current": name})
    write_line(stored["profiles"][name]["base_url"])
