import pytest

from captioning.cli.search import chosen_search
from captioning.decoding import BeamSearch, Greedy, Sampling
from captioning.errors import ConfigError

RULES = {"max_length": 12, "no_repeat_ngram": 2, "no_double_word": True, "forbidden_words": (7,)}


def chosen(own, **wishes):
    plain = {"sample": False, "beam": None, "captions": 1}
    return chosen_search(own, **{**plain, "temperature": 0.7, "top_k": 5, "top_p": 0.9, **wishes})


def test_the_models_rules_hold_whichever_search_is_asked_for():
    for own in (BeamSearch(width=5, length_penalty=0.5, **RULES), Greedy(**RULES)):
        assert chosen(own) == own
        drawn = Sampling(temperature=0.7, top_k=5, top_p=0.9, n=3, **RULES)
        assert chosen(own, sample=True, captions=3) == drawn
        kept = 0.5 if isinstance(own, BeamSearch) else 0.0
        wider = BeamSearch(width=4, n=2, length_penalty=kept, **RULES)
        assert chosen(own, beam=4, captions=2) == wider


def test_what_is_asked_for_replaces_the_models_own():
    own = BeamSearch(width=5, length_penalty=0.5)
    assert chosen(own, length_penalty=0.9).length_penalty == 0.9
    found = chosen(Greedy(**RULES), no_repeat_ngram=0, no_double_word=True)
    assert found == Greedy(**{**RULES, "no_repeat_ngram": 0})
    assert chosen(own, sample=True, no_double_word=True).no_double_word
    assert chosen(Greedy(), length_penalty=0.7) == BeamSearch(length_penalty=0.7)


@pytest.mark.parametrize("wishes", [{"beam": 0}, {"beam": 2, "captions": 5}])
def test_a_beam_that_cannot_be_is_refused_by_its_own_name(wishes):
    with pytest.raises(ConfigError, match="beam"):
        chosen(Greedy(), **wishes)
