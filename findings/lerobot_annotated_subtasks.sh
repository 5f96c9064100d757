#!/usr/bin/env bash
# lerobot 0.6.1: a dataset with numbered subtasks cannot be trained on once lerobot-annotate has named them anew.
#
# Setting: a dataset whose frames have a subtask_index, as LeRobot's tool for subtasks wrote it before there was
# lerobot-annotate. It is annotated with subtasks. The model is a small server here that answers as one behind OpenAI's
# interface does.
#
# Expected: the new subtasks stand beside the numbers or in their place, and the dataset loads and trains as before.
#
# What happens: the column is dropped from the data files, but meta/info.json goes on to name it among the features, and
# meta/stats.json to hold its statistics. LeRobotDataset opens the dataset without a word and gives None as each frame's
# subtask_index, which torch cannot put in a batch: with LeRobot's own lerobot_collate_fn the first batch raises TypeError,
# which names neither the column nor the dataset. Nothing is left of the numbers: there is no backup.
# - A dataset without subtask_index is as expected.
#
# What raypipe does: `raypipe inspect` names the column that the frames lack; the subtasks are those of the annotation.
# Beside it: take subtask_index out of the features in meta/info.json.
set -euo pipefail

work=$(mktemp -d)
trap 'kill "${server:-}" 2>/dev/null || true; rm -rf "$work"' EXIT
unset PYTHONPATH
"${PYTHON:-python3.12}" -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --disable-pip-version-check 'lerobot[dataset]==0.6.1' 'openai==1.109.1'

cd "$work"
export HF_LEROBOT_HOME="$work/home" HF_HOME="$work/hf" HF_HUB_OFFLINE=1
cat >model.py <<'PYTHON'
import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

SUBTASKS = [{"text": "reach for the cup", "start": 0, "end": 1}, {"text": "lift the cup", "start": 1, "end": 3}]


class Model(BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        message = {"role": "assistant", "content": json.dumps({"subtasks": SUBTASKS})}
        choice = {"index": 0, "finish_reason": "stop", "message": message}
        answer = {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}
        body = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Model)
print(server.server_port, flush=True)
server.serve_forever()
PYTHON
cat >subtasks.py <<'PYTHON'
import importlib.metadata
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from lerobot.datasets.lerobot_dataset import LeRobotDataset
from lerobot.utils.collate import lerobot_collate_fn

PORT, PROGRAMS = sys.argv[1], Path(sys.executable).parent
NUMBERED = "subtask_index"


def check(what, seen, recorded):
    print(f"{what}: {seen}")
    if seen != recorded:
        print(f"CHANGED: {what}: recorded {recorded}, seen {seen}")
        sys.exit(2)


def record(name, *, is_numbered):
    features = {"observation.state": {"dtype": "float32", "shape": (2,), "names": ["shoulder", "elbow"]}}
    if is_numbered:
        features[NUMBERED] = {"dtype": "int64", "shape": (1,), "names": None}
    dataset = LeRobotDataset.create(f"lab/{name}", 10, features, root=name, use_videos=False)
    for episode in range(2):
        for number in range(30):
            frame = {"observation.state": np.array([episode, number], np.float32), "task": "lift the red cup"}
            if is_numbered:
                frame[NUMBERED] = np.array([number // 15])
            dataset.add_frame(frame)
        dataset.save_episode()
    dataset.finalize()


def annotate(name):
    """Run lerobot-annotate for subtasks alone."""
    plain = ["n_task_rephrasings=0", "emit_plan=false", "emit_memory=false", "subtask_describe_first=false"]
    model = ["auto_serve=false", f"api_base=http://127.0.0.1:{PORT}/v1", "model_id=m"]
    command = [PROGRAMS / "lerobot-annotate", f"--root={name}", "--interjections.enabled=false", "--vqa.enabled=false"]
    command += [f"--plan.{each}" for each in plain] + [f"--vlm.{each}" for each in model]
    said = subprocess.run(command, capture_output=True, text=True)
    if said.returncode:
        print(said.stderr[-2000:])
        sys.exit(1)
    lines = (said.stdout + said.stderr).splitlines()
    check("  what it says of the column", [line for line in lines if NUMBERED in line], [])


def train_a_little(name):
    """Return the keys of a first batch, or what it raises."""
    loader = torch.utils.data.DataLoader(
        LeRobotDataset(f"lab/{name}", root=name), batch_size=4, collate_fn=lerobot_collate_fn
    )
    try:
        return "observation.state" in next(iter(loader))
    except TypeError as error:
        return f"TypeError, {'names it' if NUMBERED in str(error) or name in str(error) else 'of a NoneType'}"


print("lerobot", importlib.metadata.version("lerobot"))
for name in ("plain", "numbered"):
    print(f"{name}:")
    record(name, is_numbered=name == "numbered")
    check("  a batch before", train_a_little(name), True)
    annotate(name)
    dataset = LeRobotDataset(f"lab/{name}", root=name)
    check("  subtasks of a frame", len(dataset[20]["language_persistent"]), 2)
    if name == "plain":
        check("  a batch after", train_a_little(name), True)
        continue
    (path,) = Path(name).glob("data/*/*.parquet")
    check("  the files have the column", NUMBERED in pq.read_schema(path).names, False)
    check("  info.json names it", NUMBERED in json.loads(Path(name, "meta/info.json").read_text())["features"], True)
    check("  stats.json has it", NUMBERED in json.loads(Path(name, "meta/stats.json").read_text()), True)
    check("  a frame's number", dataset[20][NUMBERED], None)
    check("  a batch after", train_a_little(name), "TypeError, of a NoneType")
PYTHON
"$work/venv/bin/python" model.py >port &
server=$!
code=0
until [ -s port ]; do sleep 0.2; done
{ "$work/venv/bin/python" subtasks.py "$(cat port)" && echo "as recorded"; } 2>"$work/stderr" || code=$?
if [ "$code" != 0 ] && [ "$code" != 2 ]; then # not a changed behaviour, but an error
    tail -n 20 "$work/stderr"
fi
exit "$code"
