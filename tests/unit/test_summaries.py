"""KeyBERT on summarised captions, with the real packages where they are installed, and models made here."""

from types import SimpleNamespace

import pytest
from language_models import write_embedder, write_summarizer

from raypipe.analysis.summaries import describe_summaries
from raypipe.errors import RaypipeError, UsageError
from raypipe.packages import is_installed

needs_text = pytest.mark.skipif(
    not (is_installed("keybert") and is_installed("transformers")), reason="the text extra is not installed"
)
CAPTIONS = {
    0: ["The robot arm picks up the red cup", "the robot pours hot coffee into the cup"],
    1: ["the robot stacks blue blocks on the table", "blue blocks on the table"],
    2: [],
}
TEXTS = {number: " ".join(captions) for number, captions in CAPTIONS.items() if captions}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    summaries = {TEXTS[0]: "the robot arm pours hot coffee", TEXTS[1]: "the robot arm stacks blue blocks"}
    return {"model": write_embedder(folder / "bert"), "summarizer": write_summarizer(folder / "bart", summaries)}


def summarise_and_extract(texts, model, summarizer, n, threshold):
    """Do what a notebook does: generate a summary, and let KeyBERT extract its keywords."""
    from keybert import KeyBERT
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    extractor, tokenizer = KeyBERT(model), AutoTokenizer.from_pretrained(summarizer)
    network = AutoModelForSeq2SeqLM.from_pretrained(summarizer)
    found = {}
    for number, text in texts.items():
        tokens = tokenizer(text, return_tensors="pt")["input_ids"]
        summary = tokenizer.decode(network.generate(tokens, num_beams=4, max_new_tokens=142)[0], True)
        pairs = extractor.extract_keywords(summary, keyphrase_ngram_range=(1, 2), stop_words="english", top_n=n)
        found[number] = [word for word, score in pairs if score >= threshold]
    return found


@needs_text
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("n, threshold", [(5, 0.0), (3, 0.5)])
def test_keywords_are_those_of_the_packages_own_lines(models, n, threshold):
    found = describe_summaries(CAPTIONS, n, threshold, **models)
    expected = summarise_and_extract(TEXTS, **models, n=n, threshold=threshold)
    common = set(expected[0]) & set(expected[1])
    expected = {number: [word for word in words if word not in common] for number, words in expected.items()}
    assert all(expected.values()) or threshold
    assert {number: [word for word, _ in found[number]] for number in TEXTS} == expected
    assert not {"kitchen", "table", "picks"} & {word for words in expected.values() for word in words}  # a summary
    assert found[2] == []
    assert all(score >= threshold for pairs in found.values() for _, score in pairs)


@needs_text
@pytest.mark.filterwarnings("ignore")
def test_without_a_summarizer_the_captions_own_words_are_taken_and_common_ones_dropped(models):
    found = describe_summaries({n: CAPTIONS[n] for n in (0, 1)}, 20, model=models["model"], summarizer=None)
    words = {number: {word for word, _ in pairs} for number, pairs in found.items()}
    assert "coffee" in words[0] and "blocks" in words[1]
    assert not words[0] & words[1] and "robot" not in words[0]


@needs_text
@pytest.mark.filterwarnings("ignore")
def test_a_model_that_is_not_there_is_one_line(tmp_path):
    with pytest.raises(RaypipeError, match=r"the language model .*/none cannot be loaded") as raised:
        describe_summaries(CAPTIONS, model=str(tmp_path / "none"), summarizer=None)
    assert "\n" not in str(raised.value)


def test_a_hub_that_is_away_is_not_asked_again_and_again(monkeypatch):
    """sentence-transformers and transformers would try each of their files for 23 seconds."""
    from huggingface_hub import constants

    def make(model):
        raise OSError("not in the cache" if constants.HF_HUB_OFFLINE else "tried six times")

    bars = SimpleNamespace(is_progress_bar_enabled=lambda: False, disable_progress_bar=lambda: None)
    transformers = SimpleNamespace(utils=SimpleNamespace(logging=bars))
    packages = {"keybert": SimpleNamespace(KeyBERT=make), "transformers": transformers}
    monkeypatch.setattr("raypipe.analysis.summaries.require", packages.get)
    monkeypatch.setattr("raypipe.encoders.weights.find_absence", lambda url: "it is away")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with pytest.raises(RaypipeError, match=r"cannot be loaded \(OSError: not in the cache\)"):
        describe_summaries(CAPTIONS)
    assert not constants.HF_HUB_OFFLINE


def test_captions_are_needed():
    with pytest.raises(UsageError, match="no clustered video has a caption"):
        describe_summaries({0: [], 1: [" "]})
