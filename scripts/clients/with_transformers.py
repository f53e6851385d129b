"""``python scripts/clients/with_transformers.py FOLDER``: a transformers pipeline with the torch weights."""

import sys
from pathlib import Path

import transformers

from stored import compare, read

folder = Path(sys.argv[1])
cases = read(folder, "model.onnx")
classify = transformers.pipeline("text-classification", model=str(folder), truncation=True, device="cpu")
predictions = classify([case["text"] for case in cases])
compare(f"transformers {transformers.__version__} pipeline", cases, predictions)
