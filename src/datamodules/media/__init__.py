"""Bytes to uint8 frames, and what is known of a file.

| modules                                                          | contents                                         |
|------------------------------------------------------------------|--------------------------------------------------|
| `video` `decoding` `backends` `sampling` `facts` `resize`        | frames of videos: which, by which decoder        |
| `container` `decoder` `packets` `scan` `picture_order`           | PyAV: opening a file, and the order and times of |
| `bitstream` `display_matrix` `first_bytes`                       | its frames                                       |
| `image` `jpeg` `metadata` `stored` `content` `suffixes`          | still images                                     |
| `animation`                                                      | animated GIF, PNG and WebP                       |
| `limits`                                                         | what one file may take                           |
"""
