"""Keywords by KeyBERT, of captions that a local language model has summarised: the ``text`` extra."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from raypipe.analysis.description import Keywords, drop_common
from raypipe.encoders.weights import asking_hub
from raypipe.errors import RaypipeError, UsageError, one_line
from raypipe.packages import require

MAX_NEW_TOKENS = 142  # What transformers' summarization pipeline took with its default model, distilbart-cnn.
N_BEAMS = 4


def describe_summaries(
    captions: Mapping[int, Sequence[str]],
    n_keywords: int = 5,
    min_score: float = 0.0,
    *,
    model: str = "all-MiniLM-L6-v2",
    summarizer: str | None = "sshleifer/distilbart-cnn-12-6",
) -> Keywords:
    """Summarise the captions of each cluster, and extract the summary's keywords with KeyBERT.

    KeyBERT ranks the words and pairs of words of a text by the cosine similarity of their embedding and the text's
    (Grootendorst, KeyBERT, 2020). Words that every cluster has are left out.

    Parameters
    ----------
    captions
        The captions of each cluster, in the order in which they are joined; the model reads as much of the beginning as
        it can.
    n_keywords
        KeyBERT's ``top_n``.
    min_score
        Keywords whose similarity is below it are left out.
    model
        The sentence-transformers model that embeds words and texts: a folder, or the hub's name.
    summarizer
        The sequence-to-sequence model of transformers that summarises: a folder, or the hub's name. With None the
        joined captions are taken as they are.

    Raises
    ------
    UsageError
        If no cluster has a caption.
    RaypipeError
        If the ``text`` extra is not installed, or a model cannot be loaded.
    """
    texts = {number: " ".join(each.strip() for each in many if each.strip()) for number, many in captions.items()}
    if not any(texts.values()):
        raise UsageError("no clustered video has a caption: give the manifest a caption column, or set describe.method")
    asks = any(name is not None and not Path(name).is_dir() for name in (model, summarizer))
    with _quiet(), asking_hub(asks):
        extractor = _load(model, lambda: require("keybert").KeyBERT(model=model))
        summarise = _load(summarizer, lambda: _Summarizer(summarizer)) if summarizer else str
        found: Keywords = {}
        for number, text in texts.items():
            pairs: list[Any] = []
            if text:
                options = {"keyphrase_ngram_range": (1, 2), "stop_words": "english", "top_n": n_keywords}
                pairs = extractor.extract_keywords(summarise(text), **options)
            found[number] = [(str(term), float(score)) for term, score in pairs if score >= min_score]
    return drop_common(found)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep these packages from drawing bars, and from warning of their own dependencies and of unset parameters."""
    bars = require("transformers").utils.logging
    is_on = bars.is_progress_bar_enabled()
    bars.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        if is_on:
            bars.enable_progress_bar()


class _Summarizer:
    """A sequence-to-sequence model; transformers 5 has no pipeline for summaries any more."""

    def __init__(self, name: str) -> None:
        transformers = require("transformers")
        self._tokenizer = transformers.AutoTokenizer.from_pretrained(name)
        self._model = transformers.AutoModelForSeq2SeqLM.from_pretrained(name).eval()
        # T5 was trained on several tasks, which a prefix of the text tells apart.
        self._prefix = "summarize: " if self._model.config.model_type == "t5" else ""

    def __call__(self, text: str) -> str:
        """Return the summary of a text, of which the model reads as much as it can."""
        import torch

        longest = min(self._tokenizer.model_max_length, getattr(self._model.config, "max_position_embeddings", 1024))
        tokens = self._tokenizer(self._prefix + text, return_tensors="pt", truncation=True, max_length=longest)
        with torch.inference_mode():
            made = self._model.generate(
                input_ids=tokens["input_ids"],
                attention_mask=tokens["attention_mask"],
                max_new_tokens=MAX_NEW_TOKENS,
                num_beams=N_BEAMS,
                do_sample=False,
            )
        return self._tokenizer.decode(made[0], skip_special_tokens=True)


def _load(name: str | None, make: Any) -> Any:
    try:
        return make()
    except RaypipeError:
        raise
    except Exception as error:  # The hub's client, torch and transformers may raise anything.
        raise RaypipeError(
            f"the language model {name} cannot be loaded ({one_line(error)}): name a folder that holds one with "
            "describe.model and describe.summarizer, or set describe.method=captions"
        ) from error
