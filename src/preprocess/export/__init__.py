"""Exports: the committed samples of a run, in formats that other code reads.

A format is a module, here (`formats/phoenix_npz.py` is the format `phoenix-npz`) or anywhere else
(`--format my_package.my_format`):

    '''Keypoints as my code loads them.'''  # the first line of the docstring is shown by `preprocess export --help`

    SAMPLES = KeypointSamples  # the class of the samples that it is made of; left out: any

    def export(source: Source[KeypointSample], dest: Path, centred: bool = False) -> list[Path]:
        '''Write `{split}.my` for each split.

        Args:
            source: the run.
            dest: folder to write to.
            centred: whether …  # becomes the option `--centred`, which `--format my_package.my_format --help` shows
        '''

It returns the files that it has written. All formats have in common that they

- stream: however long the run, at most one sample or one row group is in memory;
- have a file for every split of the plan, with the committed samples only. A run that is not complete or has failed
  items can be exported; `Source.statistics` says what became of the planned items;
- write files that appear whole or not at all, and replace nothing (`destination.py`).

| room            | what                                                                     |
|-----------------|--------------------------------------------------------------------------|
| format.py       | which formats there are, their options, and running one                  |
| source.py       | the samples of a run                                                     |
| destination.py  | files and folders that appear whole or not at all                        |
| statistics.py   | what became of the items of a split                                      |
| split_files.py  | files for each split, with its statistics                                |
| image_tree.py   | a folder whose files are named like the images of the corpus             |
| seqinfo.py      | the description of a sequence in MOTChallenge and MOTS                   |
| json_text.py    | JSON documents, and lists that are too long for memory                   |
"""
