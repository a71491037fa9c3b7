"""Text similarity. The longest common subsequence of two long answers can take minutes."""

from functools import cache
from typing import Any

from nltk.tokenize import wordpunct_tokenize
from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu
from nltk.translate.gleu_score import sentence_gleu
from nltk.translate.meteor_score import single_meteor_score
from rapidfuzz import fuzz
from rouge_score.rouge_scorer import RougeScorer


def check(metric: str, text: str, reference: str) -> dict[str, Any]:
    """Return the similarity of the text to the reference, from 0 to 1."""
    if metric == "fuzzy_match":
        return {"value": fuzz.ratio(text, reference) / 100}
    if metric.startswith("rouge_"):
        kind = "rouge" + metric.removeprefix("rouge_").upper()
        return {"value": float(_rouge(kind).score(reference, text)[kind].fmeasure)}
    expected, words = wordpunct_tokenize(reference.lower()), wordpunct_tokenize(text.lower())
    if not expected or not words:
        return {"value": float(expected == words)}
    return {"value": min(1.0, float(_of_words(metric, expected, words)))}


def _of_words(metric: str, expected: list[str], words: list[str]) -> float:
    match metric:
        case "bleu":
            # Count only n-grams that both texts are long enough to contain.
            longest = min(4, len(words), len(expected))
            weights = [1 / longest] * longest
            smoothing = SmoothingFunction().method1
            return float(sentence_bleu([expected], words, weights=weights, smoothing_function=smoothing))
        case "gleu":
            return float(sentence_gleu([expected], words))
        case "meteor":
            return float(single_meteor_score(expected, words, wordnet=_NoSynonyms()))
    raise ValueError(f"unknown metric {metric!r}")


@cache
def _rouge(kind: str) -> RougeScorer:
    return RougeScorer([kind], use_stemmer=True)


class _NoSynonyms:
    """METEOR matches words and stems only: WordNet needs extra files, on which a reward must not depend."""

    def synsets(self, _word: str) -> list[Any]:
        return []


for _metric in ("bleu", "meteor", "rouge_l"):
    check(_metric, "a warm text", "a warm reference")
