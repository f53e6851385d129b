"""``python scripts/clients/with_onnxruntime.py FOLDER``: onnxruntime, tokenizers and numpy, without hrkd-cli."""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from tokenizers import Tokenizer

from stored import compare, read

folder = Path(sys.argv[1])
graph = "model_quantized.onnx" if (folder / "onnx/model_quantized.onnx").is_file() else "model.onnx"
config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
if (truncate := config["hrkd"].get("truncate", "head")) == "head-tail":
    sys.exit("config.json: hrkd.truncate is head-tail, which this program does not support")
tokenizer.enable_truncation(config["hrkd"]["max_length"], direction="left" if truncate == "tail" else "right")
session = onnxruntime.InferenceSession(str(folder / "onnx" / graph), providers=["CPUExecutionProvider"])

cases = read(folder, graph)
predictions = []
for case in cases:
    encoding = tokenizer.encode(case["text"])
    arrays = {
        "input_ids": encoding.ids,
        "attention_mask": encoding.attention_mask,
        "token_type_ids": encoding.type_ids,
    }
    inputs = {i.name: np.array([arrays[i.name]], dtype=np.int64) for i in session.get_inputs()}
    logits = session.run(None, inputs)[0][0]
    exponentials = np.exp(logits - logits.max())
    best = int(logits.argmax())
    score = float(exponentials[best] / exponentials.sum())
    predictions.append({"label": config["id2label"][str(best)], "score": score})
compare(f"onnxruntime {onnxruntime.__version__} alone, {graph}", cases, predictions)
