"""The servers that graders may reach outside of the trainer."""

from app.core.graders.toolbox import ExternalServices
from app.core.settings import Settings


def external_services(settings: Settings) -> ExternalServices:
    """Return what graders may reach and the secrets that they use: the same as in the trainer."""
    key, secret = settings.judge_api_key, settings.grader_signing_secret
    return ExternalServices(
        judge_url=settings.judge_url,
        judge_api_key=key.get_secret_value() if key else None,
        allowed_private_hosts=settings.allowed_private_hosts,
        signing_secret=secret.get_secret_value() if secret else None,
    )
