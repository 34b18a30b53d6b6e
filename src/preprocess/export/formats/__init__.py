"""The formats, one per module: `phoenix_npz` is `--format phoenix-npz`. `preprocess.export` says what a format has."""
