/* SHA-256 (FIPS 180-4). Thread-compatible. */
#ifndef THUNDER_DAEMON_COMMON_SHA256_H
#define THUNDER_DAEMON_COMMON_SHA256_H

#include <stddef.h>
#include <stdint.h>

typedef struct th_sha256 {
  uint32_t state[8];
  uint64_t length; /* bytes so far */
  uint8_t block[64];
} th_sha256;

void th_sha256_init(th_sha256 *hash);
void th_sha256_update(th_sha256 *hash, const void *bytes, size_t size);
void th_sha256_finish(th_sha256 *hash, uint8_t out[32]);
void th_sha256_of(const void *bytes, size_t size, uint8_t out[32]);

/* Lower-case hex of `size` bytes into `out` (2 * size + 1). */
void th_hex(const uint8_t *bytes, size_t size, char *out);

#endif
