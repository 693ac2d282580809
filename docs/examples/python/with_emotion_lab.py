"""Classify a face with ``emotion_lab.inference.loader``; torch is not imported.

python with_emotion_lab.py senet.fp32.onnx face.png
"""

import sys

import cv2

from emotion_lab.core.errors import UserError
from emotion_lab.inference.loader import load

if len(sys.argv) != 3:
    sys.exit("usage: with_emotion_lab.py <exported file> <face image>")
try:
    model = load(sys.argv[1])  # .onnx, OpenVINO's .xml, .torchscript or .pt2
except UserError as error:  # the file is missing or damaged, or its runtime is not installed
    sys.exit(f"error: {error}")
image = cv2.imread(sys.argv[2])
if image is None:
    sys.exit(f"error: {sys.argv[2]} is missing or not an image.")
probabilities = model(cv2.cvtColor(image, cv2.COLOR_BGR2RGB))
for i in probabilities.argsort()[::-1]:
    print(f"{model.classes[i]} {probabilities[i]:.6f}")
