"""Models that detect people and their joints in images.

| module         | what it has                                                                          |
|----------------|--------------------------------------------------------------------------------------|
| `backend`      | `PoseBackend`: what the pipeline needs of a model                                    |
| `mediapipe`    | `MediaPipe`: one person per image, in the DataLoader workers                         |
| `vitpose`      | `VitPose`: a detector of transformers and ViTPose                                    |
| `openpose`     | `OpenPose`: OpenPose's body network                                                  |
| `openpose_net` | the network and its weights                                                          |
| `decoding`     | people from the network's output, by way of `maps`, `peaks` and `limbs`              |
| `dwpose`       | `DwPose`: YOLOX and a network of 133 points, in ONNX files                           |
| `yolox`        | input and output of YOLOX, which detects people                                      |
| `simcc`        | input and output of RTMPose, RTMW and DWPose, which estimate a person's points       |
"""
