#!/usr/bin/env bash
# webdataset 1.0.2, datasets 5.2.0 and Ray 2.60.0: of a file that has two names they read one from a tar.
#
# One expects: a tar that was packed from a folder has a sample for each file of the folder; which of its files share
#   their bytes on the disk, as after a deduplication by hard links, is the file system's affair.
# What happens: GNU tar and Python's tarfile keep the second name of a file as a member of the type "hard link" with no
#   bytes of its own. All three readers take regular files alone, without a word: two samples of three are left.
#   tarfile's extractfile follows the link, and so does tar itself.
# What raypipe does: a link in a tar is the file that it names, and a note counts links to what is no file in it.
# Beside it: `tar --hard-dereference` packs such a file twice.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet --disable-pip-version-check \
    webdataset==1.0.2 datasets==5.2.0 "ray[data]==2.60.0" pyarrow==26.0.1
cd "$folder"
mkdir set
printf one > set/a.txt
ln set/a.txt set/b.txt
printf three > set/c.txt
tar -cf gnu.tar -C set a.txt b.txt c.txt
tar -cf apart.tar --hard-dereference -C set a.txt b.txt c.txt
RAY_ENABLE_UV_RUN_RUNTIME_ENV=0 "$folder/env/bin/python" -W ignore - 2> "$folder/log" << 'EOF' || { cat "$folder/log" >&2; exit 1; }
import os
import tarfile

import datasets
import ray
import webdataset

with tarfile.open("python.tar", "w") as tar:
    for name in ("a.txt", "b.txt", "c.txt"):
        tar.add(f"set/{name}", name)

ray.init("local", num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
found = {}
for name in ("gnu.tar", "python.tar", "apart.tar"):
    path = os.path.abspath(name)
    with tarfile.open(path) as tar:
        found[name, "tarfile, extractfile"] = [tar.extractfile(member).read().decode() for member in tar]
    found[name, "webdataset"] = [each["txt"].decode() for each in webdataset.WebDataset(path, shardshuffle=False)]
    loaded = datasets.load_dataset("webdataset", data_files={"train": path}, split="train", cache_dir="cache")
    found[name, "datasets"] = list(loaded["txt"])
    found[name, "ray.data.read_webdataset"] = [row["txt"] for row in ray.data.read_webdataset(path).take_all()]
ray.shutdown()
print(f"webdataset {webdataset.__version__}, datasets {datasets.__version__}, Ray {ray.__version__}: a set of 3 files")
for (name, reader), texts in found.items():
    print(f"  {name:11} {reader:25} {len(texts)}: {' '.join(texts)}")
for (name, reader), texts in found.items():
    is_whole = name == "apart.tar" or reader.startswith("tarfile")
    expected = ["one", "one", "three"] if is_whole else ["one", "three"]
    assert texts == expected, f"{reader} reads {texts} of {name} now: this finding is out of date"
EOF
