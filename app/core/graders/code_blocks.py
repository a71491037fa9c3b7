"""Models like to put their JSON into a code fence."""


def unfenced(text: str) -> str:
    """What stands between ``` and ```, if that is the whole text."""
    text = text.strip()
    if not (text.startswith("```") and text.endswith("```") and "\n" in text):
        return text
    return text[text.index("\n") + 1 : -3]
