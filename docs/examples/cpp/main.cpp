// Classify a face with ONNX Runtime:  face senet.fp32.onnx face.ppm
//
// The graph takes uint8 RGB faces of any size and returns probabilities; greyscale conversion,
// resizing, normalisation, softmax and temperature are included. The metadata holds the classes.

#include <onnxruntime_cxx_api.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>
#include <numeric>
#include <stdexcept>
#include <string>
#include <vector>

struct Face {
  int64_t height = 0, width = 0;
  std::vector<uint8_t> rgb;  // height * width * 3, row by row
};

// Read a number of a PNM header; comments start with '#' and end with the line.
static int64_t number(std::istream& file) {
  while (file >> std::ws && file.peek() == '#')
    file.ignore(std::numeric_limits<std::streamsize>::max(), '\n');
  int64_t value = 0;
  if (!(file >> value) || value < 1 || value > 1 << 14)
    throw std::runtime_error("the image header is damaged, or a side is above 16384");
  return value;
}

// Read a binary .ppm (RGB) or .pgm (grey) of 8 bits.
static Face read_face(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::string kind;
  if (!(file >> kind) || (kind != "P6" && kind != "P5"))
    throw std::runtime_error(path.string() + " is missing or not a binary .ppm or .pgm");
  Face face;
  face.width = number(file);
  face.height = number(file);
  if (number(file) != 255) throw std::runtime_error(path.string() + " does not have 8 bits per channel");
  file.get();  // one whitespace before the pixels
  const size_t channels = kind == "P6" ? 3 : 1;
  std::vector<uint8_t> pixels(face.width * face.height * channels);
  if (!file.read(reinterpret_cast<char*>(pixels.data()), pixels.size()))
    throw std::runtime_error(path.string() + " is truncated");
  if (channels == 3) {
    face.rgb = std::move(pixels);
  } else {
    face.rgb.reserve(3 * pixels.size());
    for (uint8_t grey : pixels) face.rgb.insert(face.rgb.end(), 3, grey);
  }
  return face;
}

static void run(const std::filesystem::path& model, const std::filesystem::path& image) {
  Ort::Env env(ORT_LOGGING_LEVEL_ERROR, "face");
  env.DisableTelemetryEvents();  // the Windows builds report usage
  Ort::Session session(env, model.c_str(), Ort::SessionOptions{});

  Ort::AllocatorWithDefaultOptions allocator;
  const auto entry =
      session.GetModelMetadata().LookupCustomMetadataMapAllocated("emotion_lab", allocator);
  if (!entry) throw std::runtime_error("the model holds no metadata of emotion_lab");
  const auto metadata = nlohmann::json::parse(entry.get());
  const auto classes = metadata.at("classes").get<std::vector<std::string>>();

  Face face = read_face(image);
  const std::array<int64_t, 4> shape{1, face.height, face.width, 3};
  const auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
  const auto faces = Ort::Value::CreateTensor<uint8_t>(memory, face.rgb.data(), face.rgb.size(),
                                                       shape.data(), shape.size());
  const char* inputs[] = {"faces"};
  const char* outputs[] = {"probabilities"};
  const auto results = session.Run(Ort::RunOptions{}, inputs, &faces, 1, outputs, 1);
  const float* probabilities = results.front().GetTensorData<float>();

  std::vector<size_t> order(classes.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return probabilities[a] > probabilities[b]; });
  for (size_t i : order) std::printf("%s %.6f\n", classes[i].c_str(), probabilities[i]);
}

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fprintf(stderr, "usage: face <exported .onnx> <face.ppm or face.pgm>\n");
    return 2;
  }
  try {
    run(argv[1], argv[2]);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return 2;
  }
  return 0;
}
