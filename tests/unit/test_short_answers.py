"""The page's sentences on the number of clusters, on what they hold, on what mixes and on what is odd."""

from dataclasses import replace

import numpy as np
import pytest
from report_runs import WRITTEN, frames_of, make_run

from raypipe.config import ReportConfig, make_config
from raypipe.report import write_report_files
from raypipe.report.facts import read_facts
from raypipe.report.figures.plots import VideoMap
from raypipe.report.page.confusion import render_confusions
from raypipe.report.page.page_figures import render_pictures
from raypipe.report.page.short_answers import name_content, say_cameras, say_mixture, say_number, say_odd
from raypipe.runs.directory import Run


def facts_of(folder, labels, k=2, **recorded):
    run = make_run(folder, [f"{i}.mp4" for i in range(len(labels))], labels, k=k)
    run.record(**recorded)
    return read_facts(run)


def test_it_is_said_what_mixes(tmp_path):
    mixed = facts_of(tmp_path / "mixed", ["thread", "stack", "square", "stack", "thread", "square"])
    assert say_mixture(mixed, "label") == (
        "What mixes: cluster 0 mixes thread (2) and square (1); cluster 1 mixes stack (2) and square (1); "
        "square is spread over cluster 0 (1) and cluster 1 (1)."
    )
    clean = facts_of(tmp_path / "clean", ["a", "b"] * 3)
    assert (
        say_mixture(clean, "label") == "Nothing mixes: each cluster has one label, and each label lies in one cluster."
    )
    many = say_mixture(facts_of(tmp_path / "many", [f"{i:02d}" for i in range(40)]), "label")
    assert "18 (1)" not in many and "and 14 more, and 38 (1)" in many


def test_labels_that_are_whole_texts_are_said_in_short(tmp_path):
    label = "opens the upper left drawer and " * 50
    facts = facts_of(tmp_path, [f"{i} {label}" for i in (1, 1, 2, 2)])
    said = say_mixture(facts, "label")
    assert said.count("1 opens the upper left drawer") == 3 and len(said) < 700
    table = render_confusions(facts)
    assert table.count(label.strip()) == 2, "pointed at, each row shows its label"


def test_numbers_stay_behind_labels_that_are_written_from_right_to_left(tmp_path):
    said = say_mixture(facts_of(tmp_path, ["ריק", "a", "ריק", "b"], k=1), "label")
    assert said == "What mixes: cluster 0 mixes \u2068ריק\u2069 (2), a (1) and b (1)."


def test_the_head_says_which_videos_are_odd(tmp_path):
    facts = facts_of(tmp_path, ["a", "b"] * 3)

    def judged(*verdicts):
        reasons = {"drop": "runs backwards", "keep": "hardly farther", "": ""}
        members = [
            replace(member, outlier=True, outlier_score=9.0 - i, reason=reasons[verdict], stands_out=verdict == "drop")
            for i, (member, verdict) in enumerate(zip(facts.members, verdicts, strict=False))
        ]
        return say_odd(replace(facts, members=tuple(members)))

    assert judged() == judged("") == "", "a run without outliers, and one whose outliers nobody has judged"
    assert judged("keep", "keep").startswith("No video stands out")
    assert judged("keep", "drop") == "Odd: 1.mp4 (runs backwards)."
    assert judged("drop", "drop", "keep") == "Odd: 0.mp4 (runs backwards) and 1.mp4 (runs backwards)."
    assert judged(*["drop"] * 5).endswith("2.mp4 (runs backwards) and 2 more.")


def test_a_cluster_is_named_by_its_labels(tmp_path):
    facts = facts_of(tmp_path, ["thread", "s" * 50, "square", "b", "thread", "c"])
    assert [name_content(cluster, facts) for cluster in facts.clusters] == ["thread, square", "b, c …"]


@pytest.mark.parametrize(
    ("recorded", "said"),
    [
        ({}, "That there are 2 clusters was asked for"),
        ({"config": {"cluster": {"method": "density"}}}, ""),
        ({"implementations": {"cluster": "the clusters of /runs/first"}}, ""),
    ],
)
def test_it_is_said_whether_the_number_was_asked_for(tmp_path, recorded, said):
    answer = say_number(facts_of(tmp_path, ["a", "b"] * 3, **recorded))
    assert answer.startswith(said) and bool(answer) == bool(said)


def test_a_sweep_answers_how_many_there_are(tmp_path):
    facts = facts_of(tmp_path, ["a", "b"] * 3)
    swept = type(facts)(**{**vars(facts), "sweep": {"reason": "4 clusters are recommended: it is the largest"}})
    assert say_number(swept) == "Of the number of clusters the sweep says: 4 clusters are recommended."
    of_paths = {"trajectory": {"pool": None}, "cluster": {"method": "softdtw", "n_clusters": 5}}
    of_means = {"trajectory": {"pool": "mean"}, "cluster": {"method": "softdtw", "n_clusters": 2}}
    for config, is_told in ((of_paths, True), (of_means, False)):
        info = {**facts.info, "config": config}
        other = type(facts)(**{**vars(swept), "info": info, "sweep": {**swept.sweep, "config": of_paths}})
        assert ("4 clusters are recommended" in say_number(other)) == is_told
        assert ("The sweep was of other trajectories" in say_number(other)) != is_told


def test_the_number_asked_for_counts_empty_clusters(tmp_path):
    facts = facts_of(tmp_path, ["a", "b"] * 3)
    emptied = type(facts)(**{**vars(facts), "metrics": {**facts.metrics, "sizes": [3, 3, 0]}})
    assert say_number(emptied).startswith("That there are 3 clusters was asked for")
    one = type(facts)(**{**vars(facts), "metrics": {**facts.metrics, "sizes": [6]}})
    assert say_number(one).startswith("That there is 1 cluster was asked for")


def test_no_sweep_is_proposed_of_fewer_videos_than_it_needs(tmp_path):
    assert "raypipe sweep" in say_number(facts_of(tmp_path / "four", ["a", "b"] * 2))
    assert say_number(facts_of(tmp_path / "three", ["a", "b", "a"])).endswith("not found.")


def test_the_page_knows_what_was_clustered(tmp_path):
    folder = tmp_path / "paths"
    paths = facts_of(folder, ["a", "b"] * 3, config={"cluster": {"method": "softdtw"}})
    means = facts_of(tmp_path / "means", ["a", "b"] * 3, config={"cluster": {"method": "kmeans"}})
    assert (paths.has_order, means.has_order) == (True, False)
    (folder / "model").mkdir(exist_ok=True)
    for n_dimensions in (2, 7):
        np.save(folder / "model/centers.npy", np.zeros((2, 4, n_dimensions)))
        facts = read_facts(Run(str(folder)))
        assert facts.n_dimensions == n_dimensions
        told = render_pictures(facts, {"trajectories": b""}, VideoMap(b"", (1, 1), {}, 1.0))
        assert ("Clusters were found in more dimensions" in told) == (n_dimensions > 2)


def test_it_is_said_where_clusters_are_apart_by_camera(tmp_path):
    """Else who has a dataset of two cameras takes them for two things that the robots do."""
    run = make_run(tmp_path / "run", [f"{i}.mp4" for i in range(6)], ["lift"] * 6, ["front", "wrist"] * 3, k=2)
    assert say_cameras(read_facts(run)) == "", "folders of videos may well hold what differs"
    run.write_json("dataset_faults.json", {"faults": []})
    assert say_cameras(read_facts(run)) == (
        f"apart: no cluster has videos of two. <code>raypipe cluster {tmp_path}/run --set trajectory.join=camera</code>"
        " groups episodes instead, whatever their cameras look like"
    )
    mixed = make_run(tmp_path / "mixed", [f"{i}.mp4" for i in range(6)], None, ["front"] * 3 + ["wrist"] * 3, k=2)
    mixed.write_json("dataset_faults.json", {"faults": []})
    assert say_cameras(read_facts(mixed)) == ""


def test_rows_of_joined_cameras_are_called_episodes(tmp_path):
    run = make_run(tmp_path, [f"{i}.mp4" for i in range(6)], groups=["front"] * 6, k=2)
    run.record(config=make_config(sets=["trajectory.join=camera"]).model_dump(mode="json"))
    write_report_files(run, frames_of, ReportConfig(sheet_videos=2, sheet_frames=3), WRITTEN)
    page = run.read_bytes("report.html").decode()
    assert "<h1>6 episodes in 2 clusters</h1>" in page
    assert "3 episodes (50%)" in page
    assert "Episodes that lie unusually far from what groups of other episodes do" in page
    assert "names, pictures and videos are those of front, and what is odd may be in another camera" in page
