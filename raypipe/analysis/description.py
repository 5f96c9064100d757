"""What each cluster is about, in words: terms of its videos' captions, or of a vocabulary that suits its pictures."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from raypipe.errors import UsageError

Keywords = dict[int, list[tuple[str, float]]]
"""The terms of each cluster with their scores, the highest first."""

MAX_TERMS = 50_000  # With more terms the rarest are left out, so that a table of clusters and terms stays small.

# Words that build sentences and tell nothing of what happens. scikit-learn's own list also has words such as "fill",
# "move", "top" and "bottom", which are what captions of actions are about.
_FUNCTION_WORDS = (
    "an and are as at be been being by for from had has have he her his if in into is it its no not of off on onto or "
    "out she so some that the their them then there these they this those through to up was were when where which "
    "while who will with"
).split()


def describe_captions(
    captions: Sequence[str | None], labels: np.ndarray, n_keywords: int = 5, min_score: float = 0.0
) -> Keywords:
    """Find the words, and pairs of words, that a cluster's captions have and the other clusters' have not.

    A term's weight in a cluster is that of class-based TF-IDF, ``tf · log(1 + A / f)``: tf is the term's share of the
    cluster's terms, f how often all clusters have it, and A the average number of terms of a cluster (Grootendorst,
    BERTopic, arXiv:2203.05794, eq. 3). That alone never comes to nothing for a term which all clusters share. So it is
    multiplied by the contrast: the share of the cluster's captions that have the term, less the share among the
    captions of the other clusters. Terms without any contrast are left out.

    Parameters
    ----------
    captions
        The caption of each video, or None or an empty text if it has none. An underscore counts as a space.
    labels
        (n,) the cluster of each video; those below 0 are noise, and are left out: they have nothing in common, and
        their words are no contrast either.
    n_keywords
        At most so many terms a cluster.
    min_score
        Terms whose score is not above it are left out.

    Returns
    -------
    The terms of every cluster that has a video; none for a cluster without captions. Of terms with one score the
    shorter ones come first. A single cluster has no others to be held against: its contrast is 1.

    Raises
    ------
    UsageError
        If no video of a cluster has a caption with a word in it.
    """
    from scipy.sparse import csr_matrix
    from sklearn.feature_extraction.text import CountVectorizer

    labels = np.asarray(labels)
    numbers = np.unique(labels[labels >= 0])
    texts = [(caption or "").replace("_", " ") for caption in captions]
    kept = np.flatnonzero([label >= 0 and bool(text.strip()) for label, text in zip(labels, texts, strict=True)])
    vectorizer = CountVectorizer(ngram_range=(1, 2), stop_words=_FUNCTION_WORDS, max_features=MAX_TERMS)
    try:
        counts = csr_matrix(vectorizer.fit_transform([texts[i] for i in kept]))
    except ValueError as error:  # There is no word, or no text at all.
        raise UsageError(
            "no clustered video has a caption with a word in it: give the manifest a caption column, or set "
            "describe.method to tags or none"
        ) from error
    terms = vectorizer.get_feature_names_out()
    place = np.searchsorted(numbers, labels[kept])
    belongs = csr_matrix((np.ones(len(kept)), (place, np.arange(len(kept)))), (len(numbers), len(kept)))
    in_cluster = (belongs @ counts).toarray()
    total = in_cluster.sum(axis=1, keepdims=True)
    weights = in_cluster / np.maximum(total, 1) * np.log1p(total[total > 0].mean() / in_cluster.sum(axis=0))
    have = (belongs @ (counts > 0)).toarray()
    scores = weights * _contrast(have, np.asarray(belongs.sum(axis=1)))
    return {int(n): _top(terms, row, n_keywords, min_score) for n, row in zip(numbers, scores, strict=True)}


def describe_vectors(
    vectors: np.ndarray,
    numbers: Sequence[int],
    terms: Sequence[str],
    term_vectors: np.ndarray,
    n_keywords: int = 5,
    min_score: float = 0.0,
) -> Keywords:
    """Find the terms that a cluster's pictures are nearer to than the other clusters' are.

    The cosine similarity of a term's vector and the cluster's is taken less the cluster's mean over all terms, as some
    pictures are nearer to every text than others. The score is that, less its mean over the other clusters: a term that
    suits all alike describes none. A single cluster has no others to be held against.

    Parameters
    ----------
    vectors
        (k, dim) the mean embedding of each cluster, in the space that the encoder shares with texts (as CLIP's does).
    numbers
        The clusters' numbers.
    terms, term_vectors
        The vocabulary, and its (n_terms, dim) vectors.
    n_keywords, min_score
        As in `describe_captions`.
    """
    similar = _unit_rows(vectors) @ _unit_rows(term_vectors).T
    similar -= similar.mean(axis=1, keepdims=True)
    k = len(similar)
    others = (similar.sum(axis=0) - similar) / max(k - 1, 1)
    scores = similar - others
    return {int(n): _top(terms, row, n_keywords, min_score) for n, row in zip(numbers, scores, strict=True)}


def drop_common(keywords: Keywords) -> Keywords:
    """Leave out the terms that every one of several clusters has, but for those without any: they describe none."""
    found = [{term for term, _ in terms} for terms in keywords.values() if terms]
    common = set.intersection(*found) if len(found) > 1 else set()
    return {number: [each for each in terms if each[0] not in common] for number, terms in keywords.items()}


def _contrast(have: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Return how much larger the share of the captions with a term is in a cluster than outside it.

    ``have`` is (k, n_terms), how many captions of each cluster have each term, and ``sizes`` (k, 1) how many captions
    the cluster has.
    """
    inside = have / np.maximum(sizes, 1)
    outside = (have.sum(axis=0) - have) / np.maximum(sizes.sum() - sizes, 1)
    return inside - outside


def _top(terms: Sequence[str], scores: np.ndarray, n: int, min_score: float) -> list[tuple[str, float]]:
    """Return the n terms with the highest scores above ``min_score`` (and 0), of equal ones those of fewer words."""
    scores = np.round(scores, 9)  # Rounding sets apart terms that always stand together, and no contrast from 0.
    above = np.flatnonzero(scores > max(min_score, 0.0))
    order = sorted(above.tolist(), key=lambda i: (-scores[i], terms[i].count(" "), terms[i]))
    return [(str(terms[i]), float(scores[i])) for i in order[:n]]


def _unit_rows(vectors: np.ndarray) -> np.ndarray:
    vectors = np.asarray(vectors, dtype=np.float64)
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(norms > 0, norms, 1.0)
