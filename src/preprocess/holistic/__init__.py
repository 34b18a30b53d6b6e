"""MediaPipe Holistic: pose, face and hands of the most prominent person in an image."""
