"""MediaPipe Holistic: pose, face and hands of the most prominent person in an image, on a CPU or a GPU.

| module                 | what it has                                                                         |
|------------------------|-------------------------------------------------------------------------------------|
| `landmarker`           | `HolisticLandmarker`: from a batch of images to landmarks, on any device            |
| `holistic_pass`        | the steps of the pass, in numpy or torch                                            |
| `litert_landmarker`    | the pass on a CPU: networks by LiteRT, crops by OpenCV                              |
| `torch_landmarker`     | the pass in torch, in batches on a device                                           |
| `landmarks`            | what goes in and comes out                                                          |
| `regions`              | `Region`: rotated squares in images                                                 |
| `crop`                 | crops of regions, bit by bit as OpenCV makes them for MediaPipe                     |
| `crop_kernel`          | the same as one kernel in Triton, for GPUs                                          |
| `detection`, `heatmap` | the best detection of a person or a face; refinement of points by their heatmaps    |
| `face_refinement`      | lips, eyes and irises of a face, found in close-ups                                 |
| `arrays`               | numpy and torch behind the same functions                                           |
| `networks`             | the six networks: their inputs, and the outputs in use                              |
| `models`, `wheel`      | their files: where they are, and how missing ones are fetched                       |
| `tflite`               | the reader of `.tflite` files                                                       |
| `litert`               | a network run by LiteRT                                                             |
| `net`, `ops`           | a network as a torch module, and its operations                                     |
| `replay`               | the pass in torch compiled, or captured as a CUDA graph                             |
| `micro_batch`          | measurements that suggest a batch size on a GPU                                     |

MediaPipe's own graph is in `preprocess.mediapipe_graph`.
"""
