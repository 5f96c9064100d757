"""What is said of real videos."""

import json

from raypipe import pipeline
from raypipe.config import make_config
from raypipe.progress import Progress
from raypipe.runs.directory import Run


def test_descriptions_of_real_videos_name_their_tasks(chain_here, data_dir, tmp_path):
    """Captions are the tasks' names, and a cluster's first keyword is a word of the task that most of it shows."""
    folder = data_dir / "videos" / "robot_tasks"
    videos = sorted(folder.glob("*/*.mp4"))
    rows = [{"uri": str(path), "caption": path.parent.name.replace("_", " ")} for path in videos]
    (tmp_path / "videos.jsonl").write_text("\n".join(map(json.dumps, rows)))
    made = Run(str(tmp_path / "run"))
    config = make_config(flags={"encode": {"encoder": "descriptor"}, "cluster": {"n_clusters": 6}})
    pipeline.embed(tmp_path / "videos.jsonl", made, config, Progress())
    pipeline.cluster(made, config, Progress())
    captions = made.read_table("videos.parquet")["caption"].to_pylist()
    labels = made.read_table("clusters.parquet")["cluster"].to_pylist()
    told = made.read_json("descriptions.json")["keywords"]
    for cluster, words in told.items():
        inside = [caption for caption, label in zip(captions, labels, strict=True) if label == int(cluster)]
        task = max(set(inside), key=inside.count)
        assert words[0] in task.split(), f"cluster {cluster}: {words} for {task}"
