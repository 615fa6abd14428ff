/* Stands in for libggml-sycl.so, the GPU library of the Ollama build that PyPI has.
 *
 * It reports no device, so that Ollama falls back to the CPU. That build also asks for 999 layers on the GPU always,
 * which selects fused operations that have no CPU kernel: the model loader is therefore interposed, and asks for 0.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stddef.h>
#include <stdint.h>

int ggml_backend_sycl_get_device_count(void) { return 0; }

void *ggml_backend_sycl_init(int device) {
  (void)device;
  return NULL;
}

void *ggml_backend_sycl_buffer_type(int device) {
  (void)device;
  return NULL;
}

/* llama_model_params as llama.cpp passes it, by value: 72 bytes. */
struct model_params {
  void *devices;
  void *overrides;
  int32_t n_gpu_layers;
  int32_t split_mode;
  int32_t main_gpu;
  int32_t padding;
  uint64_t rest[5];
};

typedef void *(*loader)(const char *, struct model_params);

void *llama_model_load_from_file(const char *path, struct model_params params) {
  loader real = (loader)dlsym(RTLD_NEXT, "llama_model_load_from_file");
  params.n_gpu_layers = 0;
  return real(path, params);
}
