"""Videos in a tar, read by byte range: the URI that names one, and that nothing of the tar is unpacked."""

import tarfile

import fsspec
import numpy as np
import pytest

from raypipe.decoders.pyav import PyAVDecoder
from raypipe.decoders.sandbox import Sandbox
from raypipe.decoders.streams import open_stream
from raypipe.errors import DecodeError
from raypipe.sources import read_versions
from raypipe.sources.videos import Video, Videos
from raypipe.storage import TarMember, canonical_uri, failure, file_of, shown, split_member

NAMES = ["a.mp4", "clips/hand over.mp4", "tänze/@1+2/x?y#z%20.mp4", "a b/@3+4/c.mp4"]


@pytest.fixture
def members(make_video, tmp_path):
    """Pack a video under several names, between other files, and return its path and the members."""
    video = make_video(n_frames=20)
    (tmp_path / "notes.txt").write_text("x" * 700)
    with tarfile.open(tmp_path / "my shard.tar", "w") as tar:
        for name in NAMES:
            tar.add(tmp_path / "notes.txt", f"{name}.txt")
            tar.add(video, name)
    archive = canonical_uri(str(tmp_path / "my shard.tar"))
    with tarfile.open(tmp_path / "my shard.tar") as tar:
        return video, [TarMember(archive, t.offset_data, t.size, t.name) for t in tar if not t.name.endswith(".txt")]


def test_a_uri_says_which_bytes_of_which_tar(members):
    for member in members[1]:
        assert split_member(member.uri) == member
        assert canonical_uri(member.uri) == member.uri
        assert file_of(member.uri) == member.archive
    assert members[1][1].uri.startswith("tar+file:///") and members[1][1].uri.endswith("/clips/hand%20over.mp4")
    for other in ("file:///a.tar", "tar+file:///a.tar", "tar+file:///a.tar/@1/x.mp4", "s3://b/tar+x/@1+2/y.mp4"):
        assert split_member(other) is None and file_of(other) == other


@pytest.mark.parametrize("archive", ["s3://bucket/00001.tar", "https://host/a.tar?sig=abcdefghij", "file:///a%23b.tar"])
def test_members_of_any_archive(archive):
    member = TarMember(archive, 512, 9, "x/y.mp4")
    assert split_member(member.uri) == member


def test_credentials_of_the_archive_are_hidden_and_the_member_is_not():
    uri = TarMember("https://me:pw123456@host/a.tar?sig=verysecret", 512, 9, "x/y.mp4").uri
    for name in ("s3://bucket/now or when?/a.mp4", "tar+gs://bucket/why?.tar/@512+9/x/y.mp4"):
        assert shown(name) == name, "a question mark is a letter in a bucket"
    assert shown(f"cannot read '{uri}', sorry") == "cannot read 'tar+https://host/a.tar?…/@512+9/x/y.mp4', sorry"
    told = str(failure("read", uri, ValueError("no answer to sig=verysecret by me:pw123456")))
    assert "verysecret" not in told and "pw123456" not in told


def test_a_member_decodes_as_its_file_does(members):
    video, found = members
    decoder, times_s = PyAVDecoder(), np.array([0.0, 0.7, 1.9])
    expected = decoder.frames(str(video), times_s, 32, "crop")
    for member in found:
        assert decoder.probe(member.uri) == decoder.probe(str(video))
        np.testing.assert_array_equal(decoder.frame_times(member.uri), decoder.frame_times(str(video)))
        np.testing.assert_array_equal(decoder.frames(member.uri, times_s, 32, "crop").pixels, expected.pixels)


def test_a_sandbox_takes_a_decoder_that_can_stream(members):
    with Sandbox("decord,pyav") as sandbox:
        assert sandbox.probe(members[1][0].uri).decoder == "pyav"


def test_only_the_members_own_bytes_are_fetched(members, monkeypatch):
    """Blocks are counted from where the member begins: none reaches into its neighbours."""
    video, found = members
    content = (video.parent / "my shard.tar").read_bytes()
    memory = fsspec.filesystem("memory")
    memory.pipe("/bucket/my shard.tar", content)
    asked = []
    fetch = memory.cat_file
    monkeypatch.setattr("raypipe.decoders.streams._BLOCK_BYTES", 4096)
    monkeypatch.setattr(
        type(memory),
        "cat_file",
        lambda _, path, start=None, end=None: asked.append((start, end)) or fetch(path, start, end),
    )
    member = found[1]._replace(archive="memory://bucket/my shard.tar")
    with open_stream(member.uri) as file:
        assert file.read() == video.read_bytes()
        file.seek(-10, 2)
        assert file.read() == video.read_bytes()[-10:]
    assert min(start for start, _ in asked) == member.offset
    assert max(end for _, end in asked) == member.offset + member.size
    assert sum(end - start for start, end in asked) == member.size, "each block is fetched once"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda path: path.unlink(), "No such file or directory"),
        (lambda path: path.write_bytes(path.read_bytes()[:9000]), "the tar ends before it does"),
    ],
)
def test_errors_name_the_tar_and_the_member(members, change, message):
    video, found = members
    change(video.parent / "my shard.tar")
    with pytest.raises(DecodeError, match=message) as raised:
        PyAVDecoder().probe(found[1].uri)
    assert "my%20shard.tar" in str(raised.value) and "clips/hand%20over.mp4" in str(raised.value)


def test_the_version_is_the_tars(members):
    found = members[1]
    tar = members[0].parent / "my shard.tar"
    expected = f"{tar.stat().st_size}-{tar.stat().st_mtime_ns}"
    assert read_versions(Videos([Video(m.name, m.uri) for m in found])).to_pylist() == [expected] * len(found)
