"""``python scripts/clients/with_onnxruntime.py BAKED_DIR``: onnxruntime, tokenizers and numpy, nothing of hrkd-cli."""

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
    sys.exit("config.json: hrkd.truncate is head-tail, which this program does not know")
tokenizer.enable_truncation(config["hrkd"]["max_length"], direction="left" if truncate == "tail" else "right")
session = onnxruntime.InferenceSession(str(folder / "onnx" / graph), providers=["CPUExecutionProvider"])

cases = read(folder, graph)
found = []
for case in cases:
    text = tokenizer.encode(case["text"])
    every = {"input_ids": text.ids, "attention_mask": text.attention_mask, "token_type_ids": text.type_ids}
    logits = session.run(None, {i.name: np.array([every[i.name]], dtype=np.int64) for i in session.get_inputs()})[0][0]
    shares = np.exp(logits - logits.max())
    best = int(logits.argmax())
    found.append({"label": config["id2label"][str(best)], "score": float(shares[best] / shares.sum())})
compare(f"onnxruntime {onnxruntime.__version__} alone, {graph}", cases, found)
