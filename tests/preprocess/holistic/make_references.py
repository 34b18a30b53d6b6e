"""Makes `references.npz`: outputs of the models in mediapipe's wheel, computed by TensorFlow Lite's interpreter.

It does not go with mediapipe, so it has an environment of its own; MODULES is mediapipe/modules of the wheel:

    python3 -m venv /tmp/litert && /tmp/litert/bin/pip install ai-edge-litert
    PYTHONPATH=tests /tmp/litert/bin/python tests/preprocess/holistic/make_references.py MODULES

Made with ai-edge-litert 2.3.0, without XNNPACK, which computes in another order.
"""

import sys
from pathlib import Path

import numpy as np
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from support.net_inputs import INPUTS, OUTPUTS, kept, net_input

_PLAIN = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES

if __name__ == "__main__":
    outputs = {}
    for name in INPUTS:
        (path,) = Path(sys.argv[1]).glob(f"*/{name}.tflite")
        interpreter = Interpreter(str(path), experimental_op_resolver_type=_PLAIN)
        interpreter.allocate_tensors()
        for number, image in enumerate(net_input(name)):
            interpreter.set_tensor(interpreter.get_input_details()[0]["index"], image[None])
            interpreter.invoke()
            found = interpreter.get_output_details()
            for place in OUTPUTS.get(name, range(len(found))):
                value = interpreter.get_tensor(found[place]["index"])
                outputs[f"{name}.{place}.{number}"] = kept(value)
                outputs[f"{name}.{place}.shape"] = np.array(value.shape)
                outputs[f"{name}.{place}.{number}.range"] = np.array([value.min(), value.max()])
    np.savez_compressed(Path(__file__).with_name("references.npz"), **outputs)
