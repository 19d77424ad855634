/* Results by digest: in memory (least recently used go first) and on disk. A file is written under a temporary name, synced
 * and renamed; its checksum is verified on read, and a mismatch is a miss. A failed store is counted, never an error.
 * Thread: the loop's. */
#ifndef THUNDER_DAEMON_THUNDERD_CACHE_H
#define THUNDER_DAEMON_THUNDERD_CACHE_H

#include <stdbool.h>

#include "daemon/common/frame.h"

typedef struct th_cache th_cache;

/* Bytes with holders: the cache is one, each answer under way another. */
typedef struct th_blob { uint32_t holders; size_t size; uint8_t *bytes; } th_blob;

th_blob *th_blob_make(uint8_t *bytes, size_t size); /* held once; takes over `bytes`, also when it returns NULL for want of memory */
th_blob *th_blob_hold(th_blob *blob);
void th_blob_drop(th_blob *blob); /* NULL is fine */

typedef struct th_cached {
  th_blob *blob; /* borrowed until the next call on the cache */
  uint8_t sha256[32];
  double seconds; /* its compile took */
  bool from_disk;
} th_cached;

th_status th_cache_open(const char *directory, uint64_t disk_max, uint64_t memory_max, th_cache **out);
void th_cache_close(th_cache *cache);
/* `counted`: a miss is one in the statistics. */
bool th_cache_get(th_cache *cache, const uint8_t digest[32], bool counted, th_cached *out);
void th_cache_put(th_cache *cache, const uint8_t digest[32], th_blob *blob, const uint8_t sha256[32], double seconds); /* holds the blob */
void th_cache_clear(th_cache *cache, bool memory_only);
void th_cache_fill(const th_cache *cache, Thunder__Wire__CacheStatReply *out); /* strings are borrowed */
uint64_t *th_cache_joined(th_cache *cache);

#endif
