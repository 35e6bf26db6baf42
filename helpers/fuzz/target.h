/* What a target of the fuzzer has. */
#ifndef TARGET_H
#define TARGET_H

#include <stddef.h>
#include <stdint.h>

enum { SEED = 1 << 14 }; /* bytes of the longest input of driver.c */

/* Run the program with an input; libFuzzer's name and form. Findings end the process. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Write the seed of a number, up to SEED bytes; return its size, 0: there are no more. */
size_t fuzz_seed(unsigned number, uint8_t *data);

#endif
