"""Corpora list items and nothing else. Each class is named in the configuration by its `class_path`.

| modules                                                      | contents                                        |
|--------------------------------------------------------------|-------------------------------------------------|
| `phoenix` `videos` `images` `tar_images` `pairs` `clip4mc`   | the corpora                                     |
| `rows` `csv_rows` `json_rows` `parquet_rows` `row` `values`  | reading lists row by row                        |
| `text_lists`                                                 | text files: lines, a path a line, their hash    |
| `walk` `frame_files` `paths` `skipped`                       | folders and files                               |
| `listing`                                                    | keys, items of faulty rows, checks of a listing |
"""
