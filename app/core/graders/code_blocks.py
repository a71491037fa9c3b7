"""Extracts JSON that a model wrapped in a Markdown code block."""


def unfenced(text: str) -> str:
    """Return the content of a ``` code block, if the whole text is one."""
    text = text.strip()
    if not (text.startswith("```") and text.endswith("```") and "\n" in text):
        return text
    return text[text.index("\n") + 1 : -3]
