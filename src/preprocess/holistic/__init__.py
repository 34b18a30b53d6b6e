"""MediaPipe Holistic in torch: pose, face and hands of the most prominent person in an image.

| module        | what it has                                                                           |
|---------------|---------------------------------------------------------------------------------------|
| `landmarker`  | `HolisticLandmarker`: the whole pass, from a batch of images to landmarks             |
| `regions`     | `Region`: rotated squares in images                                                   |
| `crop`        | crops of regions, bit by bit as OpenCV makes them for MediaPipe                       |
| `detection`   | the best detection of a person or a face                                              |
| `heatmap`     | refinement of points by their heatmaps                                                |
| `net`, `ops`  | a `.tflite` graph as a torch module, and its operations                               |
| `tflite`      | the reader of `.tflite` files                                                         |
| `models`      | the six model files in mediapipe's wheel                                              |
| `replay`      | the pass compiled, or captured as a CUDA graph                                        |
| `micro_batch` | measurements that suggest a batch size                                                |

MediaPipe's own graph is in `preprocess.mediapipe_graph`.
"""
