"""Video files: what they show (`video`), what is kept of it (`cache`), what is written in it."""
