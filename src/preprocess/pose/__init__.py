"""Models that detect poses: OpenPose, ViTPose and MediaPipe, each a backend (`backend.py`)."""
