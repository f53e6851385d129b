// Text classification with onnxruntime's C API: ./classify FOLDER [TEXT]...
//
// Without texts, it repeats the stored predictions. It reads config.json (labels, length), tokenizer.json (vocabulary,
// special tokens), onnx/model_quantized.onnx and, for the check, onnx/self_check.json.
//
// The tokenizer is BERT's: lower case, split into words and punctuation, then the longest matching pieces (WordPiece).
// Non-ASCII letters would need Unicode tables (ICU); the check skips and counts texts that have any.
#include <onnxruntime_c_api.h>

#include <cctype>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

using nlohmann::json;

static const OrtApi* api = OrtGetApiBase()->GetApi(ORT_API_VERSION);

static void check(OrtStatus* status) {
  if (status == nullptr) return;
  std::fprintf(stderr, "onnxruntime: %s\n", api->GetErrorMessage(status));
  std::exit(1);
}

static json read(const std::string& path) {
  std::ifstream file(path);
  if (!file) {
    std::fprintf(stderr, "%s: no such file\n", path.c_str());
    std::exit(1);
  }
  return json::parse(file);
}

struct Tokenizer {
  std::map<std::string, int64_t> ids;
  std::string unknown, prefix, first, last;
  bool lowercase = false;
  size_t longest_word = 100, max_length = 0;

  Tokenizer(const json& file, size_t length) : max_length(length) {
    const json& model = file["model"];
    if (model["type"] != "WordPiece") {
      std::fprintf(stderr, "tokenizer.json: this program supports WordPiece only\n");
      std::exit(1);
    }
    for (const auto& [token, id] : model["vocab"].items()) ids[token] = id;
    unknown = model["unk_token"];
    prefix = model["continuing_subword_prefix"];
    longest_word = model["max_input_chars_per_word"];
    lowercase = file["normalizer"].value("lowercase", true);
    // The special tokens before and after a text.
    const json& post_processor = file["post_processor"];
    if (post_processor["type"] == "TemplateProcessing") {
      first = post_processor["single"].front()["SpecialToken"]["id"];
      last = post_processor["single"].back()["SpecialToken"]["id"];
    } else {
      first = post_processor["cls"][0];
      last = post_processor["sep"][0];
    }
  }

  void add_word(const std::string& word, std::vector<int64_t>& out) const {
    std::vector<int64_t> pieces;
    if (word.size() > longest_word) return out.push_back(ids.at(unknown));
    for (size_t start = 0; start < word.size();) {
      size_t length = word.size() - start;
      auto found = ids.end();
      for (; length > 0; --length) {
        found = ids.find((start ? prefix : "") + word.substr(start, length));
        if (found != ids.end()) break;
      }
      if (found == ids.end()) return out.push_back(ids.at(unknown));
      pieces.push_back(found->second);
      start += length;
    }
    out.insert(out.end(), pieces.begin(), pieces.end());
  }

  std::vector<int64_t> encode(const std::string& text) const {
    std::vector<int64_t> out = {ids.at(first)};
    std::string word;
    for (char c : text + " ") {
      bool punctuation = std::ispunct(static_cast<unsigned char>(c));
      if (!punctuation && !std::isspace(static_cast<unsigned char>(c))) {
        word += lowercase ? static_cast<char>(std::tolower(static_cast<unsigned char>(c))) : c;
        continue;
      }
      if (!word.empty()) add_word(word, out);
      word.clear();
      if (punctuation) add_word(std::string(1, c), out);
    }
    if (out.size() > max_length - 1) out.resize(max_length - 1);
    out.push_back(ids.at(last));
    return out;
  }
};

struct Classifier {
  OrtEnv* env = nullptr;
  OrtSession* session = nullptr;
  OrtMemoryInfo* memory = nullptr;
  std::vector<std::string> inputs;

  explicit Classifier(const std::string& path) {
    OrtSessionOptions* options = nullptr;
    check(api->CreateEnv(ORT_LOGGING_LEVEL_ERROR, "classify", &env));
    check(api->CreateSessionOptions(&options));
    check(api->SetIntraOpNumThreads(options, 1));
    check(api->CreateSession(env, path.c_str(), options, &session));
    check(api->CreateCpuMemoryInfo(OrtArenaAllocator, OrtMemTypeDefault, &memory));
    OrtAllocator* allocator = nullptr;
    check(api->GetAllocatorWithDefaultOptions(&allocator));
    size_t count = 0;
    check(api->SessionGetInputCount(session, &count));
    for (size_t n = 0; n < count; ++n) {
      char* name = nullptr;
      check(api->SessionGetInputName(session, n, allocator, &name));
      inputs.emplace_back(name);
      check(api->AllocatorFree(allocator, name));
    }
    api->ReleaseSessionOptions(options);
  }

  // Logits of one text, without padding and with one segment.
  std::vector<float> logits(std::vector<int64_t> ids) const {
    std::vector<int64_t> ones(ids.size(), 1), zeros(ids.size(), 0), shape = {1, static_cast<int64_t>(ids.size())};
    std::vector<const char*> names;
    std::vector<OrtValue*> values;
    for (const std::string& name : inputs) {
      std::vector<int64_t>& data = name == "input_ids" ? ids : name == "attention_mask" ? ones : zeros;
      OrtValue* value = nullptr;
      check(api->CreateTensorWithDataAsOrtValue(memory, data.data(), data.size() * sizeof(int64_t), shape.data(),
                                                shape.size(), ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64, &value));
      names.push_back(name.c_str());
      values.push_back(value);
    }
    const char* output_name = "logits";
    OrtValue* output = nullptr;
    check(api->Run(session, nullptr, names.data(), values.data(), values.size(), &output_name, 1, &output));
    OrtTensorTypeAndShapeInfo* info = nullptr;
    size_t count = 0;
    float* data = nullptr;
    check(api->GetTensorTypeAndShape(output, &info));
    check(api->GetTensorShapeElementCount(info, &count));
    check(api->GetTensorMutableData(output, reinterpret_cast<void**>(&data)));
    std::vector<float> logits(data, data + count);
    api->ReleaseTensorTypeAndShapeInfo(info);
    for (OrtValue* value : values) api->ReleaseValue(value);
    api->ReleaseValue(output);
    return logits;
  }

  ~Classifier() {
    api->ReleaseMemoryInfo(memory);
    api->ReleaseSession(session);
    api->ReleaseEnv(env);
  }
};

int main(int argc, char** argv) {
  if (argc < 2) {
    std::fprintf(stderr, "usage: classify FOLDER [TEXT]...\n");
    return 2;
  }
  std::string folder = argv[1], graph = "model_quantized.onnx";
  json config = read(folder + "/config.json");
  if (config["hrkd"].value("truncate", "head") != "head") {
    std::fprintf(stderr, "config.json: hrkd.truncate: this program only keeps the first tokens of long texts\n");
    return 1;
  }
  Tokenizer tokenizer(read(folder + "/tokenizer.json"), config["hrkd"]["max_length"]);
  Classifier classifier(folder + "/onnx/" + graph);
  auto label = [&](const std::vector<float>& logits) -> std::string {
    size_t best = 0;
    for (size_t n = 1; n < logits.size(); ++n) best = logits[n] > logits[best] ? n : best;
    return config["id2label"][std::to_string(best)];
  };
  for (int n = 2; n < argc; ++n) {
    std::printf("%-10s %s\n", label(classifier.logits(tokenizer.encode(argv[n]))).c_str(), argv[n]);
  }
  if (argc > 2) return 0;

  json stored = read(folder + "/onnx/self_check.json"), entry = stored["files"][graph];
  int checked = 0, wrong = 0, skipped = 0;
  float worst = 0;
  for (size_t n = 0; n < stored["cases"].size(); ++n) {
    std::string text = stored["cases"][n]["text"];
    bool ascii = true;
    for (unsigned char c : text) ascii = ascii && c < 128;
    if (!ascii) {
      ++skipped;
      continue;
    }
    std::vector<float> logits = classifier.logits(tokenizer.encode(text));
    for (size_t k = 0; k < logits.size(); ++k) {
      worst = std::fmax(worst, std::fabs(logits[k] - entry["logits"][n][k].get<float>()));
    }
    wrong += !entry["labels"][n].is_null() && entry["labels"][n] != label(logits);
    ++checked;
    std::printf("  %-10s %s\n", label(logits).c_str(), text.substr(0, 60).c_str());
  }
  bool passed = checked > 0 && wrong == 0 && worst <= entry["tolerance"].get<float>();
  std::printf("onnxruntime %s, C API: %d texts, %d other labels, logits within %.1g, %d non-ASCII texts skipped - %s\n",
              OrtGetApiBase()->GetVersionString(), checked, wrong, worst, skipped, passed ? "passed" : "FAILED");
  return passed ? 0 : 1;
}
