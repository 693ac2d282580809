"""One file a format; see :class:`emotion_lab.exporting.base.Format`."""
