"""Posters: frames laid out by their place on the map, as one picture or for deep zoom."""
