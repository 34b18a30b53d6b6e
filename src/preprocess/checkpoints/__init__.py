"""Model folders, weight files and names on the Hugging Face hub: one way to find, check, identify and load them.

| module         | what it has                                                                              |
|----------------|------------------------------------------------------------------------------------------|
| `checkpoint`   | `Checkpoint`: what a backend needs of a model, in whatever form it is stored             |
| `model_folder` | `ModelFolder`: a model of transformers with its processor, as the hub has it             |
| `weights_file` | a single file of weights, as other projects publish it                                   |
| `onnx_network` | a network of images in an ONNX file, run by onnxruntime                                  |
| `parts`        | the parts that a model folder must have                                                  |
| `safety`       | refuses folders whose files could do harm when they are opened                           |
| `pickles`      | loads files that `torch.save` wrote, without running code that they contain              |
| `digest`       | digests of files and folders, for fingerprints                                           |
| `dtypes`       | the names of dtypes in options                                                           |

Everything raises `ConfigError` with the option that named the model. Nothing here runs code of a checkpoint, unless the
user allows it with an option (`trust_remote_code`).
"""
