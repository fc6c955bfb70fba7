/* torchzip.c: fuzzes export/torchzip.c and export/unpickle.c, readers of PyTorch's zip files. */

#include "tensors.h"

void fuzz_begin(void) {}

void fuzz_one(const uint8_t *data, size_t size) { fuzz_tensors(torchzip_parse, data, size); }
