#!/usr/bin/env bash
# webdataset 1.0.2: with epochs that are shorter than the dataset, the same third of it is read in every epoch.
#
# Setting: 1,000 clips in 40 shards, read by WebDataset(urls, shardshuffle=100).shuffle(100).with_epoch(250): an epoch is
# a quarter of the clips, as where a dataset is large, or each rank of a training takes as many steps. 20 epochs are run.
#
# Expected: shards are shuffled for each epoch, so that each reads other ones, and 20 epochs have read all but a few clips,
# 1 - 0.75²⁰ of them.
#
# What happens: 14 of the 40 shards are ever opened, and 65 % of the clips are never seen. The dataset draws a seed when it
# is made, also where none is given, and each pass begins with a generator of that seed: the shards come in the same order
# each time, from the first on. Within an epoch all looks shuffled, for `shuffle(100)` draws anew. No error, no warning.
# - By a DataLoader with two workers, which divide the shards, 18 shards are read, and by its own with_epoch,
#   `WebLoader(…).with_epoch(250)`, 22; new workers or persistent ones, repeat() and seed= change nothing about it.
# - With detshuffle=True all are read, but only without workers, or with persistent ones: workers that are started for each
#   epoch count from the first again.
# - Without with_epoch all clips are read, with the shards in one order in every epoch.
# With resampled=True, or with `wds.shuffle(100)` after SimpleShardList in a DataPipeline, each epoch has other shards.
#
# What raypipe does: it reads each shard of a source once, in order, and draws samples of videos by row numbers.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
unset PYTHONPATH WDS_SEED
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    webdataset==1.0.2 torch==2.14.1 numpy==2.4.6

cd "$work"
code=0
"$work/venv/bin/python" - 2>"$work/stderr" <<'PYTHON' || code=$?
import sys
import warnings

import torch
import webdataset as wds

N_SHARDS, N_CLIPS, EPOCH, N_EPOCHS = 40, 25, 250, 20
URLS = "{000..039}.tar"


def check(what, seen, recorded):
    print(f"{what}: {seen}")
    if seen != recorded:
        print(f"CHANGED: {what}: recorded {recorded}, seen {seen}")
        sys.exit(2)


def shuffled(**options):
    return wds.WebDataset(URLS, shardshuffle=100, **options).shuffle(100).decode()


def load(dataset, persistent=False):
    """Return a loader of two workers, each of which gives half of an epoch."""
    dataset = dataset.with_epoch(EPOCH // 2)
    return torch.utils.data.DataLoader(dataset, batch_size=None, num_workers=2, persistent_workers=persistent)


def read(frames):
    """Read the epochs; return how many shards were read from and the percentage of the clips that came."""
    clips = set()
    for _ in range(N_EPOCHS):
        epoch = [int(sample["clip.txt"]) for sample in frames]
        if len(epoch) != EPOCH:
            check("clips of an epoch", len(epoch), EPOCH)
        clips.update(epoch)
    return len({clip // N_CLIPS for clip in clips}), 100 * len(clips) / (N_SHARDS * N_CLIPS)


for shard in range(N_SHARDS):
    with wds.TarWriter(f"{shard:03d}.tar") as tar:
        for clip in range(shard * N_CLIPS, (shard + 1) * N_CLIPS):
            tar.write({"__key__": f"{clip:06d}", "clip.txt": str(clip)})

caught = warnings.catch_warnings(record=True)
seen_warnings = caught.__enter__()
warnings.simplefilter("always")
print("webdataset", wds.__version__, "torch", torch.__version__)
n_shards, percent = read(shuffled().with_epoch(EPOCH))
check("shards that are read in 20 epochs of a quarter", n_shards, 14)
check("  and less than 36 % of the clips", percent < 36, True)
print(f"   {percent:.0f} %")
check("with a seed: shards", read(shuffled(seed=7).with_epoch(EPOCH))[0], 14)
check("with repeat(): shards", read(shuffled().repeat().with_epoch(EPOCH))[0], 14)
check("two workers: shards", read(load(shuffled()))[0], 18)
check("two persistent workers: shards", read(load(shuffled(), persistent=True))[0], 18)
loader = wds.WebLoader(shuffled(), batch_size=None, num_workers=2).shuffle(100).with_epoch(EPOCH)
check("two workers, with_epoch of the loader: shards", read(loader)[0], 22)
check("detshuffle, two workers: shards", read(load(shuffled(detshuffle=True)))[0], 18)
caught.__exit__(None, None, None)
told = [str(warning.message) for warning in seen_warnings if "epoch" in str(warning.message)]
check("warnings that tell of epochs", told, [])

whole = wds.WebDataset(URLS, shardshuffle=100)
passes = [[sample["__url__"] for sample in whole] for _ in range(3)]
check("whole passes: distinct orders of the shards in three", len(set(map(tuple, passes))), 1)
check("  of which each has all shards", len(set(passes[0])), N_SHARDS)
check("  which are not in order", passes[0] != sorted(passes[0]), True)

others = {
    "detshuffle, without workers": shuffled(detshuffle=True).with_epoch(EPOCH),
    "detshuffle, persistent workers": load(shuffled(detshuffle=True), persistent=True),
    "resampled": wds.WebDataset(URLS, resampled=True, shardshuffle=False).shuffle(100).decode().with_epoch(EPOCH),
    "shuffle in a pipeline": wds.DataPipeline(
        wds.SimpleShardList(URLS), wds.shuffle(100), wds.tarfile_to_samples(), wds.shuffle(100), wds.decode()
    ).with_epoch(EPOCH),
}
for name, frames in others.items():
    check(f"{name}: more than 95 % of the clips", read(frames)[1] > 95, True)
print("as recorded")
PYTHON
if [ "$code" != 0 ] && [ "$code" != 2 ]; then # not a changed behaviour, but an error
    tail -n 20 "$work/stderr"
fi
exit "$code"
