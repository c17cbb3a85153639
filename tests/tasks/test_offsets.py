"""Which tokens hold which characters, whatever a tokenizer makes of a text."""

import pytest
from small_tasks import tokens_of
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from yanmo.tasks.offsets import placed
from yanmo.tokenizer import Tokens

TEXTS = (
    "The  quick\tcafe\u0301 was\n founded in 1863. ",
    "他于１９９８年在ＡＢＣ公司，㎏与½、（上海）。",
    " 北京\u3000大学\x00的\u200b龘 İstanbul ß👨\u200d👩 x",
)
FAMILIES = ("bert", "roberta", "xlnet", "t5", "gpt2", "llama")


def folding() -> Tokens:
    """Words, after everything a normaliser may do to the number of characters: NFKC, lower case, no accents."""
    words = {"[UNK]": 0, "kg": 1, "k": 2, "g": 3, "1": 4, "/": 5, "2": 6}
    tokenizer = Tokenizer(models.WordLevel(words, "[UNK]"))
    steps = [normalizers.NFKC(), normalizers.Lowercase(), normalizers.NFD(), normalizers.StripAccents()]
    tokenizer.normalizer = normalizers.Sequence(steps)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return Tokens.from_json(tokenizer.to_str().encode())


@pytest.mark.parametrize("family", [*FAMILIES, "folding"])
def test_every_part_of_a_text_is_held_by_the_fewest_tokens_that_cover_it(family):
    tokens = folding() if family == "folding" else tokens_of(family)
    for text, found in zip(TEXTS, placed(tokens, TEXTS), strict=True):
        assert found.tokens == tokens.encode([text])[0]
        spans = [(int(begin), int(end)) for begin, end in found.offsets]
        assert all(text[begin:end] == text[begin:end].strip() for begin, end in spans)
        there = {place for begin, end in spans for place in range(begin, end)}     # characters that a token holds
        for begin in range(len(text)):
            for end in range(begin + 1, len(text) + 1):
                wanted = there & set(range(begin, end))
                held = found.holding(begin, end)
                if held is None:
                    assert not wanted
                    continue
                first, last = held
                covered = [set(range(*spans[place])) for place in range(first, last)]
                assert wanted <= set().union(*covered)
                assert covered[0] & wanted
                assert covered[-1] & wanted
                assert not any(wanted & set(range(*span)) for span in spans[:first] + spans[last:])
                assert found.exact(begin, end) == ((spans[first][0], spans[last - 1][1]) == (begin, end))


def test_chinese_wordpieces_hold_one_character_each_in_full_and_half_width():
    (found,) = placed(tokens_of("bert"), ["他于１９９８年，生"])
    assert found.holding(6, 7) is not None
    assert found.exact(6, 7)
    (folded,) = placed(folding(), ["㎏ 和"])                          # one character that becomes two letters
    assert folded.offsets.tolist() == [[0, 1], [2, 3]]
