/* safetensors.c: fuzzes export/hf.c's reader of safetensors files. */

#include "tensors.h"

void fuzz_begin(void) {}

void fuzz_one(const uint8_t *data, size_t size) { fuzz_tensors(safetensors_parse, data, size); }
