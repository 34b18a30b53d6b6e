"""Corpora list items and nothing else. Each class is named in the configuration by its `class_path`.

| modules                                                      | contents                                        |
|--------------------------------------------------------------|-------------------------------------------------|
| `phoenix` `phoenix_2014` `how2sign` `openasl` `youtube_asl`  | corpora of sentences in sign languages          |
| `csl_daily`                                                  | another one                                     |
| `wlasl` `msasl`                                              | corpora of single signs                         |
| `videos` `images` `tar_images` `pairs` `clip4mc`             | other corpora                                   |
| `sentences`                                                  | what corpora of sign language are subclasses of |
| `rows` `csv_rows` `json_rows` `parquet_rows` `row` `values`  | reading lists row by row                        |
| `youtube` `captions`                                         | ids of videos in URLs; timed captions           |
| `text_lists`                                                 | text files: lines, a path a line, their hash    |
| `walk` `frame_files` `paths` `skipped`                       | folders and files                               |
| `listing` `file_items`                                       | keys, items, checks of a listing                |
"""
