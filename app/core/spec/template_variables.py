"""Variables of a chat template that a job may set."""

from typing import Annotated, Any, Final

from pydantic import AfterValidator, Field, JsonValue

_RESERVED_VARIABLES: Final = frozenset({"messages", "tools", "documents", "add_generation_prompt", "strftime_now"})
MAX_TEMPLATE_VARIABLES: Final = 32


def _free_names(variables: dict[str, Any]) -> dict[str, Any]:
    if reserved := sorted(_RESERVED_VARIABLES & variables.keys()):
        raise ValueError(f"must not set '{reserved[0]}': rows and the server supply it")
    return variables


TemplateVariables = Annotated[
    dict[Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,63}$")], JsonValue],
    Field(max_length=MAX_TEMPLATE_VARIABLES),
    AfterValidator(_free_names),
]
