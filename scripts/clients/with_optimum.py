"""``python scripts/clients/with_optimum.py FOLDER``: optimum's ORTModelForSequenceClassification.

Needs optimum-onnx 0.1.0 and transformers 4.57 (see docs/development.md).
"""

import sys
from importlib.metadata import version
from pathlib import Path

from optimum.onnxruntime import ORTModelForSequenceClassification
from transformers import AutoTokenizer, pipeline

from stored import compare, read

folder = Path(sys.argv[1])
graph = "model_quantized.onnx" if (folder / "onnx/model_quantized.onnx").is_file() else "model.onnx"
cases = read(folder, graph)
model = ORTModelForSequenceClassification.from_pretrained(folder, subfolder="onnx", file_name=graph)
classify = pipeline("text-classification", model=model, tokenizer=AutoTokenizer.from_pretrained(folder))
# One text at a time, because int8 results depend on the rest of the batch.
predictions = [classify(case["text"], truncation=True)[0] for case in cases]
compare(f"optimum-onnx {version('optimum-onnx')} (transformers {version('transformers')}), {graph}", cases, predictions)
