"""One module per format: `phoenix_npz` is the format `phoenix-npz`. See `preprocess.export` for what a format has."""
