"""Videos to clips: which frames, cut into which units of work, decoded and encoded. No room here knows Ray."""
