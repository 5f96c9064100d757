#!/usr/bin/env bash
# matplotlib 3.11.2: a plot with a label far outside its window cannot be drawn, clipped though it is.
#
# Setting: what a robot did through a day, a label at the start of each hour, and a window on some seconds of it: the
# limits of the x axis are set, as by hand, by a loop over events, or by zooming in.
#
# Expected: labels outside the window are left out, above all those with clip_on=True, and the picture is that without
# them, as it always was (matplotlib 3.10.8).
#
# What happens: since 3.11 labels are drawn glyph by glyph where they lie, and one that is 16.8 million pixels or more
# off (2 ** 24, 34,000 widths of these axes) raises RuntimeError: "FT_Render_Glyph … failed with error 0x62:
# raster overflow", which says nothing of which label, or that it lies outside. Windows of 10 and of 2 s are drawn, one
# of 1 s is not. So is one on seconds since 1970 with a label left at 0.
# - clip_on=True does not help. The PNG and the window on the screen (Agg) alone are concerned: SVG and PDF are written.
# - annotate leaves out what lies outside by itself, and always works.
#
# What raypipe does: the numbers of clusters on its map stand within the map's extent, however small that is. A run of one
# video, whose place on the map was 4e-17, ended without a report.
# Beside it: ax.annotate(text, (x, y)) in place of ax.text(x, y, text).
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
unset PYTHONPATH
cat >"$work/window.py" <<'PYTHON'
import io
import sys

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

HOUR_S = 3600


def window(start_s, seconds, labels="text", form="png", **style):
    """Return a window on a day as a picture, (h, w, 3), or as a file of a form; or the error's message."""
    figure = Figure(figsize=(6.4, 4.8), dpi=100)
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for hour in range(24):
        if labels == "text":
            axes.text(hour * HOUR_S, 0.5, f"task {hour}", **style)
        elif labels == "annotate":
            axes.annotate(f"task {hour}", (hour * HOUR_S, 0.5), **style)
    axes.set_xlim(start_s, start_s + seconds)
    sink = io.BytesIO()
    try:
        figure.savefig(sink, format=form)
    except RuntimeError as error:
        return str(error).split(": ")[-1].strip()
    if form != "png":
        return sink.getvalue()[:5].decode()
    return np.asarray(figure.canvas.buffer_rgba())[:, :, :3].copy()


def check(what, seen, recorded):
    print(f"{what}: {seen}")
    if seen != recorded:
        print(f"CHANGED: {what}: recorded {recorded}, seen {seen}")
        sys.exit(2)


def compare(start_s, seconds, labels="text", **style):
    """Return whether a window is drawn as it is without labels, or the error's message."""
    drawn = window(start_s, seconds, labels, **style)
    return drawn if isinstance(drawn, str) else bool((drawn == window(start_s, seconds, None)).all())


is_new, overflow = sys.argv[1] == "new", "raster overflow"
error = overflow if is_new else True
noon = 12 * HOUR_S + 60  # A minute after a label: none lies in any of these windows.
print("matplotlib", mpl.__version__)
for seconds, recorded in ((60, True), (10, True), (2, True), (1, error), (0.1, error)):
    check(f"{seconds} s of a day, as without labels", compare(noon, seconds, clip_on=True), recorded)
check("10 s since 1970, labels of the first day", compare(1.79e9, 10, clip_on=True), error)
for form, begins in (("svg", "<?xml"), ("pdf", "%PDF-")):
    check(f"1 s as {form}", window(noon, 1, form=form, clip_on=True), begins)
check("1 s, annotate", compare(noon, 1, "annotate"), True)
PYTHON

for which in old=3.10.8 new=3.11.2; do
    venv="$work/${which%=*}"
    "${PYTHON:-python3}" -m venv "$venv"
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check "matplotlib==${which#*=}" numpy==2.4.6
    code=0
    "$venv/bin/python" "$work/window.py" "${which%=*}" 2>"$work/stderr" || code=$?
    if [ "$code" != 0 ]; then
        [ "$code" = 2 ] || tail -n 20 "$work/stderr" # not a changed behaviour, but an error
        exit "$code"
    fi
done
echo "as recorded"
