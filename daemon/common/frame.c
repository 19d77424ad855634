#include "daemon/common/frame.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void th_frames_init(th_frames *frames) { *frames = (th_frames){0}; }

void th_frames_deinit(th_frames *frames) {
  free(frames->bytes);
  *frames = (th_frames){0};
}

uint8_t *th_frames_room(th_frames *frames, size_t wanted) {
  if (frames->begin == frames->end) frames->begin = frames->end = 0;
  if (frames->capacity - frames->end >= wanted) return frames->bytes + frames->end;
  size_t held = frames->end - frames->begin;
  if (held && frames->begin) memmove(frames->bytes, frames->bytes + frames->begin, held);
  frames->begin = 0;
  frames->end = held;
  if (frames->capacity - held >= wanted) return frames->bytes + held;
  size_t capacity = frames->capacity ? frames->capacity : 4096;
  while (capacity - held < wanted) capacity *= 2;
  uint8_t *bytes = realloc(frames->bytes, capacity);
  if (!bytes) return NULL;
  frames->bytes = bytes;
  frames->capacity = capacity;
  return bytes + held;
}

void th_frames_filled(th_frames *frames, size_t size) { frames->end += size; }

th_status th_frames_next(th_frames *frames, const uint8_t **out_bytes, size_t *out_size) {
  *out_bytes = NULL;
  *out_size = 0;
  size_t held = frames->end - frames->begin;
  if (held < 4) return TH_OK;
  const uint8_t *p = frames->bytes + frames->begin;
  uint32_t size = (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
  if (!size || size > TH_FRAME_BYTES_MAX)
    return TH_ERROR(INVALID_ARGUMENT, "a frame of %u bytes was announced, want 1 to %u: this is not Thunder's protocol", size,
                    TH_FRAME_BYTES_MAX);
  if (held - 4 < size) return TH_OK;
  *out_bytes = p + 4;
  *out_size = size;
  frames->begin += 4 + (size_t)size;
  return TH_OK;
}

typedef struct budget {
  size_t left;
} budget;

static void *budget_alloc(void *user, size_t size) {
  budget *b = user;
  if (size > b->left) return NULL;
  b->left -= size;
  return malloc(size ? size : 1);
}

static void budget_free(void *user, void *pointer) {
  (void)user;
  free(pointer);
}

th_status th_envelope_decode(const uint8_t *bytes, size_t size, Thunder__Wire__Envelope **out) {
  size_t left = size > (256u << 20) / 64 ? 256u << 20 : size * 64;
  budget b = {left < 65536 ? 65536 : left};
  ProtobufCAllocator allocator = {budget_alloc, budget_free, &b};
  *out = thunder__wire__envelope__unpack(&allocator, size, bytes);
  if (!*out) return TH_ERROR(INVALID_ARGUMENT, "a frame of %zu bytes is not a readable thunder.wire.Envelope", size);
  return TH_OK;
}

void th_envelope_free(Thunder__Wire__Envelope *envelope) {
  if (envelope) thunder__wire__envelope__free_unpacked(envelope, NULL);
}

th_status th_frame_pack(const Thunder__Wire__Envelope *envelope, uint8_t **out_bytes, size_t *out_size) {
  *out_bytes = NULL;
  *out_size = 0;
  size_t size = thunder__wire__envelope__get_packed_size(envelope);
  if (size > TH_FRAME_BYTES_MAX)
    return TH_ERROR(RESOURCE_EXHAUSTED, "a %s message takes %zu bytes, a frame takes %u", th_body_name(envelope->body_case), size,
                    TH_FRAME_BYTES_MAX);
  uint8_t *bytes = malloc(size + 4);
  if (!bytes) return TH_ERROR(RESOURCE_EXHAUSTED, "no memory for a frame of %zu bytes", size);
  for (int i = 0; i < 4; i++) bytes[i] = (uint8_t)(size >> 8 * i);
  thunder__wire__envelope__pack(envelope, bytes + 4);
  *out_bytes = bytes;
  *out_size = size + 4;
  return TH_OK;
}

const char *th_body_name(Thunder__Wire__Envelope__BodyCase body) {
  const ProtobufCMessageDescriptor *d = &thunder__wire__envelope__descriptor;
  const ProtobufCFieldDescriptor *field = body ? protobuf_c_message_descriptor_get_field(d, (unsigned)body) : NULL;
  return field ? field->name : "nothing";
}

void th_utf8_clean(char *text) {
  unsigned char *p = (unsigned char *)text;
  while (*p) {
    int n = *p < 0x80 ? 1 : *p >= 0xc2 && *p < 0xe0 ? 2 : *p >= 0xe0 && *p < 0xf0 ? 3 : *p >= 0xf0 && *p < 0xf5 ? 4 : 0;
    int ok = n > 0;
    for (int i = 1; i < n && ok; i++) ok = (p[i] & 0xc0) == 0x80;
    if (ok && ((*p == 0xe0 && p[1] < 0xa0) || (*p == 0xed && p[1] > 0x9f) || (*p == 0xf0 && p[1] < 0x90) || (*p == 0xf4 && p[1] > 0x8f))) ok = 0;
    if (ok && *p < 0x20 && *p != '\n' && *p != '\t') ok = 0;
    if (!ok) *p++ = '?';
    else p += n;
  }
}

th_status th_error_to_status(const Thunder__Wire__Error *error) {
  th_code code = error->code > 0 && error->code <= 16 ? (th_code)error->code : TH_CODE_UNKNOWN;
  const char *message = error->message ? error->message : "";
  if (error->detail && *error->detail) return th_status_create(code, __FILE__, __LINE__, "%s\n%s", message, error->detail);
  return th_status_create(code, __FILE__, __LINE__, "%s", message);
}

void th_gather_init(th_gather *gather, uint64_t total) { *gather = (th_gather){.total = total}; }

void th_gather_deinit(th_gather *gather) {
  free(gather->bytes);
  *gather = (th_gather){0};
}

th_status th_gather_add(th_gather *gather, const Thunder__Wire__Chunk *chunk) {
  size_t n = chunk->bytes.len;
  if (chunk->offset != gather->filled || (chunk->has_total && chunk->total != gather->total))
    return TH_ERROR(INVALID_ARGUMENT, "a chunk at offset %llu of %llu, want offset %llu of %llu", (unsigned long long)chunk->offset,
                    (unsigned long long)chunk->total, (unsigned long long)gather->filled, (unsigned long long)gather->total);
  if (n > TH_CHUNK_BYTES_MAX || n > gather->total - gather->filled || (!n && gather->total))
    return TH_ERROR(INVALID_ARGUMENT, "a chunk of %zu bytes at offset %llu of %llu, want 1 to %u and no more than the rest", n,
                    (unsigned long long)gather->filled, (unsigned long long)gather->total, TH_CHUNK_BYTES_MAX);
  if (gather->filled + n > gather->capacity) {
    uint64_t capacity = gather->capacity ? (uint64_t)gather->capacity * 2 : TH_CHUNK_BYTES_MAX;
    if (capacity > gather->total) capacity = gather->total;
    if (capacity < gather->filled + n) capacity = gather->filled + n;
    uint8_t *bytes = capacity > SIZE_MAX ? NULL : realloc(gather->bytes, (size_t)capacity);
    if (!bytes)
      return TH_ERROR(RESOURCE_EXHAUSTED, "no memory for %llu bytes of a request", (unsigned long long)capacity);
    gather->bytes = bytes;
    gather->capacity = (size_t)capacity;
  }
  if (n) memcpy(gather->bytes + gather->filled, chunk->bytes.data, n);
  gather->filled += n;
  return TH_OK;
}
