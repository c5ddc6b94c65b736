"""Verifiable instructions by id, as IFEval names them. Each is a function of the text and its arguments."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from . import counts, shape, whole

Check = Callable[..., bool]

CHECKS: Mapping[str, Check] = MappingProxyType(
    {
        "change_case:capital_word_frequency": counts.capital_words,
        "change_case:english_capital": whole.english_capital,
        "change_case:english_lowercase": whole.english_lowercase,
        "combination:repeat_prompt": whole.repeat_prompt,
        "combination:two_responses": whole.two_responses,
        "detectable_content:number_placeholders": counts.placeholders,
        "detectable_content:postscript": shape.postscript,
        "detectable_format:constrained_response": whole.constrained_response,
        "detectable_format:json_format": whole.json_format,
        "detectable_format:multiple_sections": shape.sections,
        "detectable_format:number_bullet_lists": shape.bullets,
        "detectable_format:number_highlighted_sections": counts.highlights,
        "detectable_format:title": shape.title,
        "keywords:existence": counts.keywords,
        "keywords:forbidden_words": counts.forbidden_words,
        "keywords:frequency": counts.keyword_frequency,
        "keywords:letter_frequency": counts.letter_frequency,
        "language:response_language": whole.response_language,
        "length_constraints:nth_paragraph_first_word": shape.nth_paragraph_first_word,
        "length_constraints:number_paragraphs": shape.paragraphs,
        "length_constraints:number_sentences": counts.sentences,
        "length_constraints:number_words": counts.words,
        "punctuation:no_comma": whole.no_comma,
        "startend:end_checker": whole.end_phrase,
        "startend:quotation": whole.quotation,
    }
)
