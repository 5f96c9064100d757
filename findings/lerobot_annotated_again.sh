#!/usr/bin/env bash
# lerobot 0.6.1: to annotate one episode again takes away the annotations of all others in its file.
#
# Setting: `lerobot-annotate` has written subtasks of all episodes into a dataset. One of them is wrong, and is annotated
# again with `--only_episodes='[2]'`. The model is a small server here that answers as one behind OpenAI's interface does.
#
# Expected: the other episodes keep their subtasks. So says the writer of "every episode in the file": those that are not
# annotated anew "are passed through", safe for partial reruns.
#
# What happens: the columns language_persistent and language_events are dropped from each file in which an episode was
# chosen, and written anew with what was staged of the chosen ones alone. All others in the file have empty lists, in
# place, without a backup. LeRobot fills a file up to 100 MB, so that in a usual dataset it is all of them. The log says
# that one episode was checked and one file written. No error, no warning.
# - So a dataset that is annotated in parts, ten episodes a run, ends with the last ten.
# - Episodes in files of which none was chosen keep theirs.
# - What was staged lies on in DATASET/.annotate_staging, unless it is deleted: a run of all episodes with all modules
#   off asks no model, and writes it back.
#
# What raypipe does: a run of a dataset of which some episodes have subtasks and others none says so in a line.
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
cat >again.py <<'PYTHON'
import importlib.metadata
import subprocess
import sys
from pathlib import Path

import numpy as np
from lerobot.datasets.lerobot_dataset import LeRobotDataset

PORT, PROGRAMS = sys.argv[1], Path(sys.executable).parent
N_EPISODES, N_FRAMES = 4, 30


def check(what, seen, recorded):
    print(f"{what}: {seen}")
    if seen != recorded:
        print(f"CHANGED: {what}: recorded {recorded}, seen {seen}")
        sys.exit(2)


def record(name, *, file_mb):
    features = {"observation.state": {"dtype": "float32", "shape": (2,), "names": ["shoulder", "elbow"]}}
    dataset = LeRobotDataset.create(
        f"lab/{name}", 10, features, root=name, use_videos=False, data_files_size_in_mb=file_mb
    )
    for episode in range(N_EPISODES):
        for number in range(N_FRAMES):
            state = np.array([episode, number], np.float32)
            dataset.add_frame({"observation.state": state, "task": "lift the red cup"})
        dataset.save_episode()
    dataset.finalize()
    return sorted(Path(name).glob("data/*/*.parquet"))


def annotate(name, *options, subtasks=True):
    """Run lerobot-annotate for subtasks alone, and return what it says in its warnings."""
    off = [f"--{module}.enabled=false" for module in ("interjections", "vqa", *(() if subtasks else ("plan",)))]
    plain = ["n_task_rephrasings=0", "emit_plan=false", "emit_memory=false", "subtask_describe_first=false"]
    model = ["auto_serve=false", f"api_base=http://127.0.0.1:{PORT}/v1", "model_id=m"]
    command = [PROGRAMS / "lerobot-annotate", f"--root={name}", *off, *options]
    command += [f"--plan.{each}" for each in plain] + [f"--vlm.{each}" for each in model]
    said = subprocess.run(command, capture_output=True, text=True)
    if said.returncode:
        print(said.stderr[-2000:])
        sys.exit(1)
    lines = [line for line in (said.stdout + said.stderr).splitlines() if "WARN" in line or "overw" in line.lower()]
    return [line for line in lines if "no plan emitted" not in line]  # None was asked for.


def count_subtasks(name):
    """Return how many subtasks LeRobot finds in the first frame of each episode."""
    dataset = LeRobotDataset(f"lab/{name}", root=name)
    return [len(dataset[episode * N_FRAMES]["language_persistent"]) for episode in range(N_EPISODES)]


print("lerobot", importlib.metadata.version("lerobot"))
check("files", len(record("one", file_mb=100)), 1)
annotate("one")
check("  subtasks of each episode", count_subtasks("one"), [2, 2, 2, 2])
warnings = annotate("one", "--only_episodes=[2]")
check("  after episode 2 alone was annotated again", count_subtasks("one"), [0, 0, 2, 0])
check("  warnings", warnings, [])
annotate("one", subtasks=False)
check("  after a run with all modules off", count_subtasks("one"), [2, 2, 2, 2])

check("files", len(record("parts", file_mb=100)), 1)
for part in ("[0, 1]", "[2, 3]"):
    annotate("parts", f"--only_episodes={part}")
check("  annotated in two parts", count_subtasks("parts"), [0, 0, 2, 2])

check("files", len(record("many", file_mb=0.001)), 4)
annotate("many")
annotate("many", "--only_episodes=[2]")
check("  after episode 2 alone was annotated again", count_subtasks("many"), [2, 2, 2, 2])
PYTHON
"$work/venv/bin/python" model.py >port &
server=$!
code=0
until [ -s port ]; do sleep 0.2; done
{ "$work/venv/bin/python" again.py "$(cat port)" && echo "as recorded"; } 2>"$work/stderr" || code=$?
if [ "$code" != 0 ] && [ "$code" != 2 ]; then # not a changed behaviour, but an error
    tail -n 20 "$work/stderr"
fi
exit "$code"
