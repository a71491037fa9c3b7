"""The `endpoint` grader: requests rewards from a reward server, several answers per request."""

from collections.abc import Sequence
from typing import Any

from app.core.graders.types import GraderFailure, Sample, Tools
from app.core.spec.graders import EndpointGrader


def endpoint(grader: EndpointGrader, sample: Sample, item: dict[str, Any], tools: Tools) -> float:
    """Return the server's reward for one answer."""
    [result] = endpoint_many(grader, [(sample, item)], tools)
    if isinstance(result, GraderFailure):
        raise result
    return result


def endpoint_many(
    grader: EndpointGrader, pairs: Sequence[tuple[Sample, dict[str, Any]]], tools: Tools
) -> list[float | GraderFailure]:
    """Return a reward or an error per answer. Raises GraderFailure when the whole request fails."""
    body = {
        "type": "grouptune.grade",
        "grader": grader.name,
        "samples": [{"sample": sample.for_code(), "item": item} for sample, item in pairs],
    }
    answer = tools.post(grader.url, body, grader.timeout_seconds)
    results = answer.get("results") if isinstance(answer, dict) else None
    if not isinstance(results, list) or len(results) != len(pairs):
        expected = f'{{"results": [{{"reward": <number>}}, ...]}} with {len(pairs)} results'
        raise GraderFailure(f"the server at {grader.url} must return {expected}")
    return [_reward(result) for result in results]


def _reward(result: Any) -> float | GraderFailure:
    reward = result.get("reward") if isinstance(result, dict) else None
    if isinstance(reward, int | float) and not isinstance(reward, bool):
        return float(reward)
    error = result.get("error") if isinstance(result, dict) else result
    return GraderFailure(f"the server returned no reward: {error!s:.200}")
