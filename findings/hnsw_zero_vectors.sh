#!/usr/bin/env bash
# faiss 1.15.1 and usearch 2.26.6: 25 zero vectors among 5,000 hide two thirds of the others in an HNSW index by L2.
#
# Setting: 5,000 clips, five of each of 1,000 scenes, with embeddings of length 1: the cosine of two clips of a scene is
# 0.7, and that of others about 0, as after centring. 25 clips could not be read, and their rows are still zero. An HNSW
# index is made, by faiss with its default metric or by usearch with "l2sq", and asked for the five nearest of each.
#
# Expected: for vectors of length 1 the order by L2 is that by the cosine. The 25 are neighbours of each other, and no
# query is as close to them as to its own scene, so that each finds itself, at distance 0, and its scene, as before.
#
# What happens: of the other vectors about 35 % find themselves by faiss, and 30 % by usearch; clips of other scenes and
# the zeros stand in their place. There is no warning. The search is not too short, for it is the same with an ef of 2000,
# nor the graph too coarse, for with efConstruction=400 it is no better. Five zeros hide 38 % by faiss.
# - Zero is at distance 1 from all, and unlike clips are 1.4 apart. A vector keeps a link only to what is nearer to it
#   than to the links that it has, so a zero takes the place of the links between scenes, often of all; and 25 zeros with
#   32 links each lead to few scenes. The others cannot be reached, which can be counted in faiss's graph.
# - By the inner product or the cosine, where zero is as far away as what is unlike, all are found; so they are by L2
#   without the 25, or with one, and in a flat index. Where all cosines are above 0.45, as those of CLIP often are, zeros
#   do nothing, since they are then farther away than what is unlike.
# - hnswlib 0.8.0 finds 36 % of these, and the queries of pynndescent 0.7.0 by "euclidean" 44 %.
#
# What raypipe does: a clip that failed has no row, and raypipe searches in no such graph.
# Beside it: leave such rows out, or ask for the inner product.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
unset PYTHONPATH
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    faiss-cpu==1.15.1 usearch==2.26.6 numpy==2.4.6

cd "$work"
code=0
"$work/venv/bin/python" - 2>"$work/stderr" <<'PYTHON' || code=$?
import importlib.metadata
import sys

import faiss
import numpy as np
from usearch.index import Index

K = 5


def check(what, seen, recorded):
    print(f"{what}: {seen}")
    if seen != recorded:
        print(f"CHANGED: {what}: recorded {recorded}, seen {seen}")
        sys.exit(2)


def unit(vectors):
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


def by_faiss(vectors, queries, metric, ef=100, ef_construction=200):
    index = faiss.IndexHNSWFlat(vectors.shape[1], 16, faiss.METRIC_L2 if metric == "l2" else faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction, index.hnsw.efSearch = ef_construction, ef
    index.add(vectors)
    return index.search(queries, K)[1]


def reachable(vectors):
    """Return the share of the vectors to which links lead from where a search begins."""
    index = faiss.IndexHNSWFlat(vectors.shape[1], 16)
    index.hnsw.efConstruction = 200
    index.add(vectors)
    links, at = (faiss.vector_to_array(values).astype(int) for values in (index.hnsw.neighbors, index.hnsw.offsets))
    ahead = [index.hnsw.entry_point]
    seen = set(ahead)
    while ahead:
        vector = ahead.pop()
        new = set(links[at[vector] : at[vector + 1]].tolist()) - seen - {-1}
        seen |= new
        ahead += new
    return len(seen) / len(vectors)


def by_usearch(vectors, queries, metric, ef=100, ef_construction=200):
    sizes = {"connectivity": 16, "expansion_add": ef_construction, "expansion_search": ef}
    index = Index(ndim=vectors.shape[1], metric="l2sq" if metric == "l2" else "ip", dtype="f32", **sizes)
    index.add(np.arange(len(vectors)), vectors, threads=1)
    return index.search(queries, K, threads=1).keys


print("faiss", faiss.__version__, "usearch", importlib.metadata.version("usearch"))
faiss.omp_set_num_threads(1)
random = np.random.default_rng(0)
n, n_scenes, dim = 5000, 1000, 128
scenes = unit(random.normal(size=(n_scenes, dim)))
own = unit(random.normal(size=(n, dim)))
whole = unit(np.sqrt(0.7) * scenes[np.arange(n) % n_scenes] + np.sqrt(0.3) * own)
with_zeros = whole.copy()
failed = random.choice(n, 25, replace=False)
with_zeros[failed] = 0
asked = np.setdiff1d(np.arange(n), failed)[:1500]


def found(rows):
    """Return the share of the vectors that are among their own five nearest."""
    return float((rows == asked[:, None]).any(axis=1).mean())


flat = faiss.IndexFlatL2(dim)
flat.add(with_zeros)
rows = flat.search(whole[asked], K)[1]
check("flat index, with zeros: each finds itself", found(rows), 1.0)
of_scene = (rows % n_scenes == asked[:, None] % n_scenes).mean()
check("  and its scene, but for clips that failed", bool(of_scene > 0.98), True)
check("faiss, without zeros: all can be reached", reachable(whole), 1.0)
share = reachable(with_zeros)
print(f"  with 25 zeros: {share:.2f}")
check("faiss, with zeros: less than 60 % can be reached", share < 0.6, True)
for name, search in {"faiss": by_faiss, "usearch": by_usearch}.items():
    share = found(search(whole, whole[asked], "l2"))
    check(f"{name}, L2, without zeros: more than 99 % find themselves", share > 0.99, True)
    for options in ({}, {"ef": 2000}, {"ef_construction": 400}):
        share = found(search(with_zeros, whole[asked], "l2", **options))
        print(f"  with 25 zeros {options or ''}: {share:.2f}")
        check(f"{name}, L2, with zeros: less than 60 % do", share < 0.6, True)
    share = found(search(with_zeros, whole[asked], "ip"))
    check(f"{name}, inner product, with zeros: more than 99 % do", share > 0.99, True)
print("as recorded")
PYTHON
if [ "$code" != 0 ] && [ "$code" != 2 ]; then # not a changed behaviour, but an error
    tail -n 20 "$work/stderr"
fi
exit "$code"
