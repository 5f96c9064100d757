"""The whole table of containers, codecs and troubles."""

import pytest


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_each_frame_of_every_file_is_given_once_and_at_its_time():
    from bench.containers import format_row, keep_table, measure_files
    from bench.troubles import all_files

    rows = measure_files(all_files())
    keep_table(rows)
    wrong = [format_row(row) for row in rows if row["state"] in ("wrong", "fails") and "reason" not in row]
    assert not wrong, "\n".join(wrong)
