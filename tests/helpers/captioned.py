"""A small MSR-VTT, in the forms in which it is handed on: videos with captions, categories and splits."""

import json
from pathlib import Path

from videos import write_video

SENTENCES = ("a man plays the guitar", "someone is cooking pasta in a kitchen", "a red car drives down the road")
CATEGORY = (0, 17, 9)


def split_of(number: int) -> str:
    return "test" if number % 4 == 3 else "validate" if number % 4 == 2 else "train"


def captions_of(number: int, n: int) -> list[str]:
    """Return n captions of a video; two of them are the same, as in MSR-VTT."""
    return [f"{SENTENCES[number % 3]} {'again' if i % 5 == 1 else i}" for i in range(n)]


def write_videos(folder: Path, numbers) -> None:
    for number in numbers:
        write_video(folder / f"video{number}.mp4", n_frames=12 + number, seed=number % 3)


def write_datainfo(path: Path, numbers, n_captions: int = 20) -> Path:
    """Write the challenge's form: videos, and sentences in an order of their own."""
    videos = [
        {
            "category": CATEGORY[number % 3],
            "url": f"https://www.youtube.com/watch?v={number}",
            "video_id": f"video{number}",
            "start time": 137.72,
            "end time": 149.44,
            "split": split_of(number),
            "id": number,
        }
        for number in numbers
    ]
    told = [(i, number, text) for number in numbers for i, text in enumerate(captions_of(number, n_captions))]
    sentences = [
        {"caption": text, "video_id": f"video{number}", "sen_id": sen_id}
        for sen_id, (_, number, text) in enumerate(sorted(told))
    ]
    return _write(path, {"info": {"year": "2016", "version": "1.0"}, "videos": videos, "sentences": sentences})


def write_list(path: Path, numbers, n_captions: int = 20) -> Path:
    """Write the Hub's form: a list of videos, each with one caption or several."""
    records = [
        {
            "video_id": f"video{number}",
            "video": f"video{number}.mp4",
            "caption": captions_of(number, n_captions) if n_captions > 1 else captions_of(number, 1)[0],
            "source": "MSR-VTT",
            "category": CATEGORY[number % 3],
            "url": f"https://www.youtube.com/watch?v={number}",
            "start time": 137.72,
            "end time": 149.44,
            "id": number,
        }
        for number in numbers
    ]
    return _write(path, records)


def write_coco(path: Path, numbers, n_captions: int = 20) -> Path:
    """Write the form with images and annotations."""
    images = [{"id": f"video{number}"} for number in numbers]
    annotations = [
        {"image_id": f"video{number}", "caption": text, "id": i}
        for number in numbers
        for i, text in enumerate(captions_of(number, n_captions))
    ]
    return _write(path, {"info": {}, "images": images, "licenses": [], "annotations": annotations})


def _write(path: Path, content) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path
