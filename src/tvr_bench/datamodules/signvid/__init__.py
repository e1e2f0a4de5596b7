"""SignVid: the embedded, rendered data set (see `build`, `render` and `datamodule`)."""
