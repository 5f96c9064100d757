"""A FiftyOne dataset of the videos of `bench.page_beside`, and its app: run by the Python that has FiftyOne.

    python bench/page_fiftyone.py FOLDER PORT

The folder has `videos.npz` and a picture for each video. Samples and the embeddings' map stand side by side.
"""

import signal
import sys
from pathlib import Path

import fiftyone as fo
import fiftyone.brain as fob
import numpy as np


def main() -> None:
    """Make the dataset, open its app, print its version and address, and wait to be ended."""
    folder, port = Path(sys.argv[1]), int(sys.argv[2])
    videos = np.load(folder / "videos.npz")
    dataset = fo.Dataset("beside", persistent=False, overwrite=True)
    rows = zip(*(videos[name].tolist() for name in ("names", "labels", "groups", "clusters", "distances")), strict=True)
    dataset.add_samples(
        fo.Sample(
            filepath=str(folder / f"pictures/{i}.jpg"),
            video=name,
            label=fo.Classification(label=label),
            group=group,
            cluster=fo.Classification(label=str(cluster)),
            distance=distance,
        )
        for i, (name, label, group, cluster, distance) in enumerate(rows)
    )
    fob.compute_visualization(dataset, points=videos["paths"].mean(axis=1).astype(float), brain_key="places")
    samples, places = fo.Panel(type="Samples", pinned=True), fo.Panel(type="Embeddings")
    halves = [fo.Space(children=[each], active_child=each.component_id) for each in (samples, places)]
    spaces = fo.Space(children=halves, orientation="horizontal")
    session = fo.launch_app(dataset, spaces=spaces, remote=True, address="127.0.0.1", port=port)
    print(f"\nopen {fo.__version__} {session.url}datasets/beside", flush=True)
    signal.pause()


if __name__ == "__main__":
    main()
