from app.core.plurals import plural


def test_noun_agrees_with_its_count() -> None:
    shown = [plural(count, "inference request") for count in (0, 1, 2, 2000)]
    assert shown == ["0 inference requests", "1 inference request", "2 inference requests", "2,000 inference requests"]
    assert plural(2, "process") == "2 processes"
