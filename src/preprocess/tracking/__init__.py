"""Models that find the objects a prompt names, and follow them through videos.

| module            | what it has                                                                       |
|-------------------|-----------------------------------------------------------------------------------|
| `backend`         | `TrackingBackend` and `VideoTracker`: what the pipeline needs of a model          |
| `prompt`          | the classes in a prompt                                                           |
| `options`         | options that the backends share                                                   |
| `grounded`        | `GroundedSam2`: GroundingDINO (`detection`) with SAM 2 or EdgeTAM (`sam2`)        |
| `meta_checkpoint` | Meta's files of SAM 2                                                             |
| `sam3`            | `Sam3`: SAM 3, with one session per video (`sam3_tracker`)                        |
| `stepping`        | the base class of trackers, which process one frame after another                 |
| `tracks`          | which masks are the same object, when objects start and end                       |
| `memory`          | what sessions of transformers keep of an object                                   |
| `recording`       | the tracked objects of a video, written to files while it is tracked              |
"""
