"""One extractor each; named in a configuration by its `class_path`, and imported by nothing else."""
