"""MSR-VTT in its JSON forms: splits, categories, captions, and videos that are missing."""

import json

import fsspec
import numpy as np
import pytest
from captioned import SENTENCES, captions_of, split_of, write_coco, write_datainfo, write_list, write_videos
from commands import call_raypipe
from PIL import Image

from raypipe.analysis.caption_statistics import count_captions, lay_out_captions
from raypipe.errors import SourceError
from raypipe.sources import find_videos, is_precomputed


@pytest.fixture
def videos(tmp_path):
    """Put files with the names of eight videos below a folder; nothing opens them here."""
    for number in range(8):
        path = tmp_path / "videos" / ("test" if number % 4 == 3 else "all") / f"video{number}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path


def names_of(videos) -> list[str]:
    return [video.uri.rpartition("/")[2] for video in videos]


class TestForms:
    def test_the_challenges_two_files(self, videos):
        write_datainfo(videos / "train_val_videodatainfo.json", [n for n in range(8) if n % 4 != 3])
        write_datainfo(videos / "test_videodatainfo.json", [3, 7])
        found = find_videos(videos)
        assert names_of(found) == [f"video{number}.mp4" for number in (3, 7, 0, 1, 2, 4, 5, 6)]
        assert [video.group for video in found] == [split_of(number) for number in (3, 7, 0, 1, 2, 4, 5, 6)]
        assert [video.label for video in found[:3]] == ["music", "cooking", "music"]
        assert sorted(found.extra["captions"][0].as_py()) == sorted(captions_of(3, 20)), "equal ones too"
        assert len(found[0].caption.split(" | ")) == len(set(captions_of(3, 20))) == 17
        assert found.extra["url"][0].as_py().endswith("v=3")
        assert (found.notes, found.n_ignored) == ((), 2)

    @pytest.mark.parametrize("write", [write_datainfo, write_list, write_coco])
    def test_a_single_file(self, videos, write):
        path = write(videos / "annotation" / "MSRVTT_data.json", range(8))
        for source in (path, path.as_uri(), videos):
            found = find_videos(source)
            assert names_of(found) == [f"video{number}.mp4" for number in range(8)]
            assert sorted(found.extra["captions"][5].as_py()) == sorted(captions_of(5, 20))
        assert not is_precomputed(path)

    def test_a_file_is_named_from_within_its_folder(self, videos, monkeypatch):
        write_list(videos / "msrvtt_train_7k.json", range(8))
        monkeypatch.chdir(videos)
        found = find_videos("msrvtt_train_7k.json")
        assert names_of(found) == [f"video{number}.mp4" for number in range(8)]
        assert {video.group for video in found} == {"train"}

    @pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
    @pytest.mark.parametrize("between", [",", "\n"])
    def test_a_line_each_and_other_encodings(self, videos, encoding, between):
        records = [{"video_id": f"video{n}", "caption": "a d\u00f6g\u2028runs", "note": "x" * n} for n in range(8)]
        text = between.join(json.dumps(record, ensure_ascii=False) for record in records)
        path = videos / "msrvtt_all.json"
        path.write_text(text if between == "\n" else f"[{text}]", encoding)
        for source in (path, videos):
            assert [video.caption for video in find_videos(source)] == ["a d\u00f6g\u2028runs"] * 8
        path.rename(videos / "msrvtt_all.jsonl")
        assert [video.caption for video in find_videos(videos)] == ["a d\u00f6g\u2028runs"] * 8

    def test_a_manifest_of_such_a_name_is_none_of_them(self, videos):
        """It lists videos of a run, as a subset of the set, and lies beside them."""
        rows = [{"path": f"videos/all/video{n}.mp4", "id": str(n), "caption": "a dog"} for n in range(3)]
        (videos / "msrvtt_some.jsonl").write_text("\n".join(map(json.dumps, rows)))
        found = find_videos(videos)
        assert (len(found), found.n_ignored, found[0].caption) == (8, 1, None)
        assert find_videos(videos / "msrvtt_some.jsonl")[2].caption == "a dog"

    def test_videos_of_one_name_in_several_folders_stay_apart(self, videos):
        """As in lists of captions whose videos are named by their path; one alone is found wherever it lies."""
        for folder in ("ep 1", "ep2", "x/ep2"):
            (videos / folder).mkdir(parents=True)
            (videos / folder / "cam.mp4").touch()
        told = {"ep 1/cam.mp4": "one", "./ep2/cam.mp4": "two", "/elsewhere/video3.mp4": "three", "gone/cam.mp4": "four"}
        records = [{"video": name, "caption": caption} for name, caption in told.items()]
        (videos / "list.json").write_text(json.dumps(records))
        found = find_videos(videos / "list.json")
        places = [video.uri.removeprefix(f"{videos.as_uri()}/") for video in found]
        assert dict(zip(places, [video.caption for video in found], strict=True)) == {
            "ep%201/cam.mp4": "one", "ep2/cam.mp4": "two", "videos/test/video3.mp4": "three",
        }  # fmt: skip
        assert found.notes == ("missing videos: 1 of 4 (the first: gone/cam); by split: no split (1)",)

    def test_a_percent_sign_in_the_key_of_an_object_is_a_letter(self):
        store = fsspec.filesystem("memory")
        store.pipe("/percent/50%25.mp4", b"x")
        store.pipe("/percent/list.json", json.dumps([{"video": "50%25.mp4", "caption": "half"}]).encode())
        (found,) = find_videos("memory://percent/list.json")
        assert (found.uri, found.caption) == ("memory:///percent/50%25.mp4", "half")

    def test_half_a_character_is_a_question_mark(self, videos):
        """JSON holds what is left where a text was cut in the midst of a pair of surrogates, and Arrow does not."""
        cut = {"caption": ["a cat \ud83d", "a dog"], "category": "pets \ud83d", "split": "x\ud83d", "url": "u\ud83d"}
        (videos / "msrvtt.json").write_text(json.dumps([{"video_id": "video0", **cut}]))
        (found,) = find_videos(videos)
        assert (found.caption, found.label, found.group) == ("a cat ? | a dog", "pets ?", "x?")
        assert (found.extra["captions"], found.extra["url"]) == (["a cat ?", "a dog"], "u?")

    def test_the_hubs_lists_name_their_split_by_their_file(self, videos):
        write_list(videos / "msrvtt_train_7k.json", [0, 1, 2])
        write_list(videos / "msrvtt_train_9k.json", [0, 1, 2, 4, 5])
        write_list(videos / "msrvtt_test_1k.json", [3, 7], n_captions=1)
        found = find_videos(videos)
        assert [video.group for video in found] == ["test"] * 2 + ["train"] * 5
        assert found[0].caption == f"{SENTENCES[0]} 0"
        assert [len(each) for each in found.extra["captions"].to_pylist()] == [1, 1] + [20] * 5, "copies count once"
        assert find_videos(videos / "msrvtt_test_1k.json")[0].group == "test"

    def test_a_record_for_each_caption(self, videos):
        records = [{"file": f"videos/all/video{n}.mp4", "captions": [f"{n} {i}"]} for n in (0, 1) for i in range(3)]
        (videos / "msrvtt.json").write_text(json.dumps(records))
        assert [video.caption for video in find_videos(videos)] == ["0 0 | 0 1 | 0 2", "1 0 | 1 1 | 1 2"]

    @pytest.mark.parametrize(
        ("text", "label"), [("people\t0\ncars and more\t9\n", "people"), (None, "music"), ("", "0")]
    )
    def test_names_of_categories(self, videos, text, label):
        write_list(videos / "msrvtt_x.json", [0])
        if text is not None:
            (videos / "category.txt").write_text(text)
        assert find_videos(videos)[0].label == label

    def test_labels_of_records_without_categories(self, videos):
        told = [
            {"id": "video0", "label": "dropping a pen", "template": "Dropping [something]", "placeholders": ["a pen"]},
            {"id": "video1", "label": 7},
            {"id": "video2", "label": ""},
            {"id": "video4", "label": "kept", "category": 0},
        ]
        (videos / "train.json").write_text(json.dumps(told))  # The form of Something-Something
        found = find_videos(videos / "train.json")
        assert [(video.label, video.group) for video in found] == [
            ("dropping a pen", "train"),
            ("7", "train"),
            (None, "train"),
            ("music", "train"),
        ]
        assert found[0].extra["template"] == "Dropping [something]"
        assert [video.extra["label"] for video in found] == [None, None, None, "kept"]


class TestTrouble:
    def test_missing_videos_are_counted(self, videos):
        (videos / "videos/all/video1.mp4").unlink()
        (videos / "videos/test/video7.mp4").unlink()
        write_datainfo(videos / "train_val_videodatainfo.json", range(9))
        found = find_videos(videos)
        assert len(found) == 6
        assert found.notes == ("missing videos: 3 of 9 (the first: video1); by split: train (2), test (1)",)

    def test_all_missing(self, tmp_path):
        write_list(tmp_path / "in" / "msrvtt.json", [0, 1])
        with pytest.raises(SourceError, match=r"none of the 2 videos of .*msrvtt.json is there: looked for video0"):
            find_videos(tmp_path / "in")

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ('{"videos": [{"video_id": 3}]}', "record 0 names no video"),
            ('{"other": [{"a": 1}]}', "has neither videos and sentences, nor images and annotations"),
            ('[{"video_id": "a"}, 3]', "has neither videos and sentences"),
            ('[{"video_id": "a"}, {"video', "cannot read .*msrvtt.json: Unterminated string"),
        ],
    )
    def test_errors_are_one_line(self, tmp_path, content, message):
        (tmp_path / "msrvtt.json").write_text(content)
        for source in (tmp_path, tmp_path / "msrvtt.json"):
            with pytest.raises(SourceError, match=message) as raised:
                find_videos(source)
            assert "\n" not in str(raised.value)

    @pytest.mark.parametrize(
        "content", ["[[[1.0]]]", '{"trajectories": [[[1.0]]]}', '{"videos": [[1.0]]}', "[]", "\n [ [ [1]]]", "no JSON"]
    )
    def test_trajectories_are_told_apart(self, tmp_path, content):
        (tmp_path / "msrvtt.json").write_text(content)
        (tmp_path / "a.mp4").touch()
        assert is_precomputed(tmp_path / "msrvtt.json")
        assert names_of(find_videos(tmp_path)) == ["a.mp4"]


class TestStatistics:
    def test_by_group_and_for_all(self):
        captions = [["A cat's toy", "a cat"], [], ["the dog runs", "The DOG", "x_y"]]
        found = count_captions(["train", None, "train"], captions, [1.0, float("nan"), 2.0], ["a", None, "b"])
        train, none, everything = found
        assert (train.group, train.n_videos, train.n_captions, train.n_labels) == ("train", 2, 5, 2)
        assert train.words_per_caption == np.mean([3, 2, 3, 2, 2])
        assert train.vocabulary == len({"a", "cat's", "cat", "toy", "the", "dog", "runs", "x", "y"})
        assert train.mean_duration_s == 1.5
        assert (none.group, none.n_captions, none.words_per_caption, none.vocabulary) == ("(none)", 0, 0.0, 0)
        assert np.isnan(none.mean_duration_s)
        assert (everything.group, everything.n_videos, everything.vocabulary) == ("all", 3, train.vocabulary)
        widths = {len(line) for line in lay_out_captions(found)}
        assert len(widths) == 1

    def test_inspect_prints_them_and_draws_videos_with_their_captions(self, tmp_path):
        write_videos(tmp_path / "videos", range(4))
        write_datainfo(tmp_path / "train_val_videodatainfo.json", range(5))
        result = call_raypipe("inspect", tmp_path, "-o", tmp_path / "sample.png", "-n", "3", "--seed", "1")
        assert result.exit_code == 0, result.stderr
        lines = result.stdout.splitlines()
        assert "groups         train (2), validate (1), test (1)" in lines
        assert "labels         music (2), cooking (1), vehicles/autos (1)" in lines
        table = {line.split()[0]: line.split()[1:] for line in lines[lines.index("") :] if line}
        assert table["train"][:3] == ["2", "40", "20.00"] and table["all"][:3] == ["4", "80", "20.00"]
        assert "missing videos: 1 of 5 (the first: video4); by split: train (1)" in result.stderr
        with Image.open(tmp_path / "sample.png") as picture:
            drawn = np.asarray(picture.convert("RGB")).astype(int)
        red = (np.abs(drawn - (250, 80, 60)).max(axis=2) < 30).any(axis=0)
        assert len(np.flatnonzero(np.diff(red.astype(int)) == 1)) == 3, "three pictures beside each other"

    def test_a_picture_has_the_suffix_of_one(self, tmp_path):
        result = call_raypipe("inspect", tmp_path, "-o", tmp_path / "sample.pdf")
        assert result.exit_code == 2
        assert "sample.pdf: the picture is a PNG" in result.stderr
