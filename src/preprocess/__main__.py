"""`python -m preprocess`, the same as `preprocess`; also the script path that `fabric run` wants."""

from preprocess.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
