/* Frames: a 4-byte little-endian length, then one serialized thunder.wire.Envelope (proto/daemon.proto).
 *
 * th_frames takes bytes as they arrive and hands out whole envelopes; th_frame_pack makes the bytes of one. Both
 * are free of sockets, so the daemon's loop, the blocking client and the workers' pipes share them. Every decode
 * has a byte budget: an envelope may not use more than 64 times its size (at most 256 MiB, at least 64 KiB).
 * Threads: thread-compatible. */
#ifndef THUNDER_DAEMON_COMMON_FRAME_H
#define THUNDER_DAEMON_COMMON_FRAME_H

#include <stddef.h>
#include <stdint.h>

#include "ir/base/status.h"
#include "proto/daemon.pb-c.h"

#define TH_PROTOCOL_VERSION 1u
#define TH_FRAME_BYTES_MAX (8u << 20) /* of one envelope */
#define TH_CHUNK_BYTES_MAX (1u << 20) /* of Chunk.bytes */
#define TH_DIGEST_BYTES 32

/* Bytes received and not yet decoded. */
typedef struct th_frames {
  uint8_t *bytes;
  size_t begin, end, capacity;
} th_frames;

void th_frames_init(th_frames *frames);
void th_frames_deinit(th_frames *frames);

/* Room for at least `wanted` more bytes: write to the returned pointer, then th_frames_filled. NULL: no memory. */
uint8_t *th_frames_room(th_frames *frames, size_t wanted);
void th_frames_filled(th_frames *frames, size_t size);

/* Takes the next whole frame: *out_bytes points into `frames`, valid until the next call on it; NULL and size 0 when
 * more bytes are needed. INVALID_ARGUMENT for a length of 0 or above TH_FRAME_BYTES_MAX: the stream is lost then. */
th_status th_frames_next(th_frames *frames, const uint8_t **out_bytes, size_t *out_size);

/* Decodes one envelope under the byte budget. Free with th_envelope_free. INVALID_ARGUMENT when unreadable. */
th_status th_envelope_decode(const uint8_t *bytes, size_t size, Thunder__Wire__Envelope **out);
void th_envelope_free(Thunder__Wire__Envelope *envelope); /* NULL is fine */

/* The frame of `envelope` in one malloc'ed block (length included). RESOURCE_EXHAUSTED when above the limit. */
th_status th_frame_pack(const Thunder__Wire__Envelope *envelope, uint8_t **out_bytes, size_t *out_size);

/* Name of a body for messages: "compile", "lookup"; "nothing" for an empty one. */
const char *th_body_name(Thunder__Wire__Envelope__BodyCase body);

/* A status made from an Error message; takes nothing. Code 0 becomes UNKNOWN. The detail's lines follow the text. */
th_status th_error_to_status(const Thunder__Wire__Error *error);

/* Replaces bytes that are not UTF-8, and control characters but newline and tab, by '?': for texts made from outside bytes. */
void th_utf8_clean(char *text);

/* Gathers the chunks of one byte string whose size is announced before. */
typedef struct th_gather {
  uint8_t *bytes; /* malloc'ed, `total` bytes; NULL while nothing came */
  uint64_t total, filled;
  size_t capacity;
} th_gather;

/* Sets the announced size; nothing is allocated yet: memory grows with what arrives. */
void th_gather_init(th_gather *gather, uint64_t total);
void th_gather_deinit(th_gather *gather);
/* Adds a chunk; INVALID_ARGUMENT when its offset, total or size do not fit. */
th_status th_gather_add(th_gather *gather, const Thunder__Wire__Chunk *chunk);
static inline int th_gather_done(const th_gather *gather) { return gather->filled == gather->total; }

#endif
