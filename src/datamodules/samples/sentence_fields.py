"""What sign-language corpora know about a sentence, in samples of every kind: one set of names, whatever the corpus."""

import pyarrow as pa

from datamodules.samples.fields import Field

SENTENCE_FIELDS = (
    Field("sentence_id", pa.string(), "name of the sentence or sign in its corpus", of_corpus=True),
    Field("text", pa.string(), "in a spoken language: the translation, or what is said; empty: none", of_corpus=True),
    Field("glosses", pa.string(), "the signs, separated by blanks; an isolated sign is one gloss", of_corpus=True),
    Field("signer", pa.string(), "who signs, as the corpus names them", of_corpus=True),
    Field("language", pa.string(), "sign language, in ISO 639-3: `ase` is American, `gsg` German", of_corpus=True),
)
