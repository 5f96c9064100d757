"""A run that can be searched for words: as CLIP with tiny random weights would embed what some words say."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

import raypipe as rp
from raypipe.runs.directory import Run

WORDS = ["a hand opens a drawer", "two dogs run", "water boils in a pot"]


def make_worded(folder: Path, *more_sets: str) -> Run:
    """Write an embedded run of three videos of three clips, ``v0`` to ``v2``; the last of ``v1`` is of other words."""
    import open_clip
    import torch

    from raypipe.encoders.clip import ClipText
    from raypipe.runs.accounting import account, write_accounts
    from raypipe.runs.ledger import Ledger
    from raypipe.segments.planning import plan_precomputed
    from raypipe.sources.videos import Video, Videos

    name = "raypipe-test-words"
    tower = {"width": 32, "layers": 1}
    sizes = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "patch_size": 16, "head_width": 16, **tower},
        "text_cfg": {"context_length": 12, "vocab_size": 49408, "heads": 2, **tower},
    }
    (folder / f"{name}.json").write_text(json.dumps(sizes))
    open_clip.add_model_config(folder / f"{name}.json")
    torch.manual_seed(0)
    torch.save(open_clip.create_model(name).state_dict(), folder / "tiny.pt")
    weights = (f"encode.model={name}", f"encode.pretrained={folder / 'tiny.pt'}", *more_sets)
    read = ClipText(name, str(folder / "tiny.pt"))
    paths = [np.stack([read([WORDS[(i + shift) % 3]])[0] for shift in (0, 0, i % 2)]) for i in range(3)]
    videos = [Video(f"v{i}", f"file:///v{i}.mp4") for i in range(3)]
    run = Run(str(folder / "run"))
    plan, clips = plan_precomputed(videos, [path.astype(np.float32) for path in paths], "words")
    run.write_table("plan.parquet", plan)
    run.write_table("embeddings/0.parquet", clips)
    run.record(config=rp.make_config(sets=weights).model_dump(mode="json"))
    run.record(encoder={"name": "clip", "dim": 16, "fingerprint": f"{read.fingerprint}/fp32/l2"})
    write_accounts(run, [account(Videos(videos), Ledger(run, plan))], 0, lambda line: None)
    return run
