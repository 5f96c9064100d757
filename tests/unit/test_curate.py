"""Output folders of Cosmos Curate and NeMo Curator as trajectories: clips in order of time, and what is left out."""

import json
import uuid

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from curated import clip_id, write_curated

import raypipe as rp
from raypipe import pipeline
from raypipe.errors import SourceError
from raypipe.inspection import inspect_source
from raypipe.progress import Progress
from raypipe.runs.directory import Run
from raypipe.sources import find_videos, read_source

DIM = 4


def at(time_s: float) -> np.ndarray:
    """Return the embedding of what happens at a time: all of its numbers are the time."""
    return np.full(DIM, time_s, np.float32)


@pytest.fixture
def videos():
    """Return two videos of clips of 2 seconds; of the first the third clip was filtered out."""
    a = [(t, t + 2.0, None if t == 4 else at(t + 1), f"at {t}") for t in (0.0, 2.0, 4.0, 6.0)]
    b = [(t, t + 2.0, at(t + 1), "") for t in (0.0, 2.0, 10.0)]
    return {"/in/kitchen/a.mp4": a, "/in/b.mp4": b}


class TestReading:
    @pytest.mark.parametrize(
        "form",
        [
            {"embeddings": "ce1_embd_224p_parquet"},
            {"embeddings": "iv2_embd_parquet", "metas": "jsonl"},
            {"embeddings": "openai_embd_parquet", "cds": True},
            {"embeddings": "ce1_embd_parquet", "summary": False},  # NeMo Curator, and Cosmos before 1.3
        ],
    )
    def test_a_video_is_its_clips_in_order_of_time(self, tmp_path, videos, form):
        root = write_curated(tmp_path / "out", videos, **form)
        for source in (root, root / form["embeddings"], f"{root}/"):
            found, paths = read_source(source)
            assert [video.uri for video in found] == ["file:///in/b.mp4", "file:///in/kitchen/a.mp4"]
            assert [video.video_id for video in found] == [
                str(uuid.uuid5(uuid.NAMESPACE_URL, source)) for source in ("/in/b.mp4", "/in/kitchen/a.mp4")
            ], "the ids are Curate's own"
            assert [video.group for video in found] == [None, "kitchen"]
            assert [video.caption for video in found] == [None, "at 0.0 | at 2.0 | at 6.0"]
            b, a = paths.clips
            assert a.dtype == np.float32
            np.testing.assert_array_equal(a[:, 0], [1, 3, 7])
            np.testing.assert_array_equal(b[:, 0], [1, 3, 11])
            np.testing.assert_array_equal(paths.spans_s[1], [[0, 2], [2, 4], [6, 8]])

    def test_a_run_bridges_the_gap_of_a_filtered_clip_by_time(self, tmp_path, videos):
        """All numbers of a clip are its middle time: an interpolated path is a straight line over all of its gaps."""
        run = Run(str(tmp_path / "run"))
        said = []

        class Told(Progress):
            say = staticmethod(said.append)

        pipeline.embed(write_curated(tmp_path / "out", videos), run, rp.make_config(), Told())
        paths = rp.build_trajectories(run, n_steps=5)
        np.testing.assert_allclose(paths.values[:, :, 0], [np.linspace(1, 11, 5), np.linspace(1, 7, 5)], rtol=1e-6)
        assert f"clips from {tmp_path}/out/ce1_embd_224p_parquet: 6 (of 2 videos)" in said
        assert "clips that were filtered out, which leaves gaps: 1" in said
        rows = run.read_table("videos.parquet").to_pylist()
        assert [row["clips_left_out"] for row in rows] == [0, 1]
        plan = run.read_table("plan.parquet").to_pylist()
        assert [(row["origin_s"], row["span_s"]) for row in plan] == [(0, 12), (0, 8)]

    def test_of_several_embeddings_one_is_named(self, tmp_path, videos):
        root = write_curated(tmp_path, videos)
        write_curated(tmp_path, videos, embeddings="iv2_embd_parquet")
        with pytest.raises(SourceError, match=r"ce1_embd_224p_parquet, iv2_embd_parquet: name one of these folders"):
            read_source(root)
        assert len(read_source(root / "iv2_embd_parquet")[0]) == 2

    def test_cds_alone_has_no_times(self, tmp_path, videos):
        """Its rows are in order of time, as they are written."""
        root = write_curated(tmp_path, videos, embeddings="x", metas="none", cds=True)
        found, paths = read_source(root)
        assert [video.caption for video in found] == [None, "at 0.0 | at 2.0 | at 6.0"]
        np.testing.assert_array_equal(paths.clips[1][:, 0], [1, 3, 7])
        np.testing.assert_array_equal(paths.spans_s[1], [[0, 1], [1, 2], [2, 3]])
        assert "clips without a span, which lie in their video as they came: 6" in found.notes

    def test_what_cds_says_of_clips_may_be_structs(self, tmp_path, videos):
        root = write_curated(tmp_path, videos, embeddings="x", metas="none", cds=True)
        for path in (root / "cds_parquet").iterdir():
            table = pq.read_table(path)
            told = pa.array([json.loads(text) for text in table["$meta"].to_pylist()])
            pq.write_table(table.set_column(table.column_names.index("$meta"), "$meta", told), path)
        assert [video.caption for video in read_source(root)[0]] == [None, "at 0.0 | at 2.0 | at 6.0"]

    @pytest.mark.parametrize(
        "odd", [{"duration_span": [0, 10**400]}, {"source_video": "/in/b\udce4.mp4"}], ids=["span", "source"]
    )
    def test_a_record_that_says_something_impossible_is_left_out_alone(self, tmp_path, videos, odd):
        """Python writes the bytes of a name that is no UTF-8 as halves of surrogate pairs."""
        root = write_curated(tmp_path, videos)
        path = root / "metas/v0" / f"{clip_id('/in/b.mp4', 0.0, 2.0)}.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | odd))
        found, paths = read_source(root)
        assert [path[:, 0].tolist() for path in paths.clips] == [[3, 11], [1, 3, 7]]
        assert "records of the metadata without span_uuid, source_video or duration_span: 1" in found.notes

    def test_what_does_not_fit_is_counted(self, tmp_path, videos):
        root = write_curated(tmp_path, videos)
        (root / "metas/v0" / f"{clip_id('/in/b.mp4', 0.0, 2.0)}.json").unlink()
        (root / "metas/v0/broken.json").write_text("{")
        (root / "metas/v0/gone.json").symlink_to("nothing")
        (root / "metas/v0/other.json").write_text(json.dumps({"span_uuid": "x", "source_video": "/in/b.mp4"}))
        nameless = {"source_video": "/in/b.mp4", "duration_span": [4.0, 6.0], "windows": []}
        (root / "metas/v0/nameless.json").write_text(json.dumps(nameless))
        more = {"id": [clip_id("/in/b.mp4", 2.0, 4.0)], "embedding": [[0.0] * DIM]}
        pq.write_table(pa.table(more), root / "ce1_embd_224p_parquet/again.parquet")
        late = {"span_uuid": "late", "source_video": "/in/c.mp4", "duration_span": [0, 1], "windows": []}
        (root / "metas/v0/late.json").write_text(json.dumps(late))
        found, paths = read_source(root)
        assert [len(path) for path in paths.clips] == [2, 0, 3]
        assert found.notes[1:] == (
            "records of the metadata without span_uuid, source_video or duration_span: 4",
            "embeddings that are there twice and count once: 1",
            "clips that were filtered out, which leaves gaps: 1",
            "clips without an embedding, which leaves gaps: 1",
            "embeddings of no clip in the metadata: 1",
        )

    @pytest.mark.parametrize("kind", [pa.list_(pa.float64()), pa.null()])
    def test_a_video_whose_clips_were_all_filtered_out_fails_alone(self, tmp_path, videos, kind):
        """Its table of embeddings is empty, and if pandas has written it, its columns have no type either."""
        videos["/in/b.mp4"] = [(t, t + 2.0, None, "") for t in (0.0, 2.0)]
        root = write_curated(tmp_path / "out", videos)
        empty = root / "ce1_embd_224p_parquet" / f"{uuid.uuid5(uuid.NAMESPACE_URL, '/in/b.mp4')}_0.parquet"
        columns = {"id": pa.array([], pa.string()), "embedding": pa.array([], kind)}
        pq.write_table(pa.table(columns), empty)
        run = pipeline.embed(root, Run(str(tmp_path / "run")), rp.make_config(), Progress())
        rows = Run(str(tmp_path / "run")).read_table("videos.parquet").to_pylist()
        assert [(row["status"], row["clips_left_out"]) for row in rows] == [("failed", 2), ("ok", 1)], run
        assert rows[0]["error"] == "none of its 2 clips has an embedding and a duration_span"

    def test_a_clip_without_a_span_is_left_out_and_counts_with_its_video(self, tmp_path, videos):
        """Its embedding cannot be put in its place, and a video of such clips alone is found all the same."""
        videos["/in/c.mp4"] = [(0.0, 2.0, at(1), ""), (2.0, 4.0, at(3), "")]
        root = write_curated(tmp_path, videos)
        for source, start_s in (("/in/b.mp4", 2.0), ("/in/c.mp4", 0.0), ("/in/c.mp4", 2.0)):
            path = root / "metas/v0" / f"{clip_id(source, start_s, start_s + 2)}.json"
            record = json.loads(path.read_text())
            del record["duration_span"]
            path.write_text(json.dumps(record))
        found, paths = read_source(root)
        assert [video.extra["clips_left_out"] for video in found] == [1, 2, 1]
        assert [path[:, 0].tolist() for path in paths.clips] == [[1, 11], [], [1, 3, 7]]
        assert paths.reasons == {found[1].video_id: "none of its 2 clips has an embedding and a duration_span"}
        assert "records of the metadata without span_uuid, source_video or duration_span: 3" in found.notes

    @pytest.mark.parametrize("nothing", [None, []])
    def test_a_clip_whose_embedding_is_empty_leaves_a_gap(self, tmp_path, videos, nothing):
        root = write_curated(tmp_path, videos)
        path = root / "ce1_embd_224p_parquet" / f"{uuid.uuid5(uuid.NAMESPACE_URL, '/in/b.mp4')}_0.parquet"
        rows = pq.read_table(path).to_pylist()
        before = [len(clips) for clips in read_source(root)[1].clips]
        rows[0]["embedding"] = nothing
        pq.write_table(pa.Table.from_pylist(rows), path)
        found, paths = read_source(root)
        assert [len(clips) for clips in paths.clips] == [before[0] - 1, *before[1:]]
        assert "clips without an embedding, which leaves gaps: 1" in found.notes

    def test_over_fsspec(self, tmp_path, videos):
        root = write_curated(tmp_path / "out", videos)
        memory = fsspec.filesystem("memory")
        memory.put(str(root), "/curated/out", recursive=True)
        found, paths = read_source("memory://curated/out")
        local, same = read_source(root)
        assert list(found) == list(local)
        assert all(np.array_equal(*pair) for pair in zip(paths.clips, same.clips, strict=True))

    def test_no_pickle_is_opened(self, tmp_path, videos):
        """What the helper writes as pickles would end the process that loads it."""
        assert len(read_source(write_curated(tmp_path, videos))[0]) == 2
        assert list(tmp_path.glob("ce1_embd_224p/*.pickle"))


class TestErrors:
    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("clips.lance/x", "clips.lance is a Lance table, which is not read"),
            ("iv2_embd_lance/x", "iv2_embd_lance is a Lance table, which is not read"),
        ],
    )
    def test_lance_is_refused_by_name(self, tmp_path, name, message):
        (tmp_path / name).mkdir(parents=True)
        with pytest.raises(SourceError, match=message):
            read_source(tmp_path)
        if name.startswith("clips"):
            with pytest.raises(SourceError, match=message):
                read_source(tmp_path / "clips.lance")

    def test_pickles_alone_are_refused(self, tmp_path, videos):
        root = write_curated(tmp_path, videos)
        (root / "ce1_embd_224p_parquet").rename(tmp_path / "elsewhere")
        with pytest.raises(SourceError, match="ce1_embd_224p alone, as pickles, which can run code and are not opened"):
            read_source(root)

    @pytest.mark.parametrize(
        ("columns", "message"),
        [
            ({"id": ["a"], "vector": [[1.0]]}, "has no columns id and embedding, but id, vector"),
            ({"id": ["a", "b"], "embedding": [[1.0], [1.0, 2.0]]}, "embedding has lists of 1 numbers and of 2"),
            ({"id": ["a", "b"], "embedding": [[1.0], [1.0, 2.0, 3.0]]}, "embedding has lists of 1 numbers and of 3"),
            ({"id": ["a"], "embedding": ["text"]}, "z.parquet: embedding does not hold numbers"),
            ({"id": ["a"], "embedding": [[1.0]]}, "has embeddings of 1 numbers and of 4"),
            ({"id": ["a"], "embedding": [[1.0, 2.0, 3.0, np.nan]]}, "the embedding of clip a holds NaN or infinity"),
        ],
    )
    def test_wrong_tables(self, tmp_path, videos, columns, message):
        root = write_curated(tmp_path, videos)
        pq.write_table(pa.table(columns), root / "ce1_embd_224p_parquet/z.parquet")
        with pytest.raises(SourceError, match=message):
            read_source(root)

    def test_ids_that_are_no_texts(self, tmp_path, videos):
        root = write_curated(tmp_path, videos)
        path = root / "ce1_embd_224p_parquet/z.parquet"
        pq.write_table(pa.table({"id": [["a"], ["b"]], "embedding": [[1.0, 2.0], [3.0, 4.0]]}), path)
        with pytest.raises(SourceError, match=f"cannot read {path}: "):
            read_source(root)

    def test_a_truncated_table(self, tmp_path, videos):
        root = write_curated(tmp_path, videos)
        path = next((root / "ce1_embd_224p_parquet").iterdir())
        path.write_bytes(path.read_bytes()[:-40])
        with pytest.raises(SourceError, match=f"cannot read {path}: ") as raised:
            read_source(root)
        assert "\n" not in str(raised.value)

    def test_no_metadata(self, tmp_path, videos):
        root = write_curated(tmp_path, videos, metas="none")
        with pytest.raises(
            SourceError, match=r"nothing says which videos the clips of .* come from.*cds_parquet/\*.parquet$"
        ):
            read_source(root)
        (root / "lance" / "v0").mkdir(parents=True)  # by --upload-clip-info-in-lance
        with pytest.raises(SourceError, match=r"its folder lance is not read: write its rows to metas_jsonl/v0/"):
            read_source(root)

    def test_it_holds_no_videos_to_find(self, tmp_path, videos):
        root = write_curated(tmp_path, videos)
        with pytest.raises(SourceError, match="holds trajectories, not videos: it must be the only source"):
            find_videos(root)

    def test_it_holds_no_videos_to_inspect(self, tmp_path, videos):
        root = write_curated(tmp_path, videos)
        with pytest.raises(SourceError, match="holds trajectories, and there is no video to inspect"):
            inspect_source(str(root), rp.make_config(), Progress())
