/* daemon/common: frames and their budget, gathers, SHA-256, scopes. */
#include <sys/stat.h>
#include <unistd.h>

#include "daemon/common/frame.h"
#include "daemon/common/scope.h"
#include "daemon/common/sha256.h"
#include "tests/unit/unit.h"

/* --- frames */

static void give(th_frames *frames, const void *bytes, size_t size) {
  uint8_t *room = th_frames_room(frames, size);
  cr_assert_not_null(room);
  if (size) memcpy(room, bytes, size);
  th_frames_filled(frames, size);
}

static void length_of(uint32_t n, uint8_t *out) {
  for (int i = 0; i < 4; i++) out[i] = (uint8_t)(n >> 8 * i);
}

Test(frames, every_length) {
  static const uint32_t lengths[] = {
      0, 1, 2, 255, 256, 65535, 65536, TH_FRAME_BYTES_MAX - 1, TH_FRAME_BYTES_MAX, TH_FRAME_BYTES_MAX + 1, 1u << 24, 1u << 31, UINT32_MAX};
  for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
    th_frames f;
    th_frames_init(&f);
    uint8_t head[4];
    const uint8_t *bytes;
    size_t size;
    length_of(lengths[i], head);
    for (int k = 0; k < 3; k++) { /* a length that is not whole says nothing */
      give(&f, head + k, 1);
      EXPECT(OK, th_frames_next(&f, &bytes, &size));
      cr_assert(!bytes && !size);
    }
    give(&f, head + 3, 1);
    if (!lengths[i] || lengths[i] > TH_FRAME_BYTES_MAX) {
      EXPECT(INVALID_ARGUMENT, th_frames_next(&f, &bytes, &size));
      cr_assert(!bytes && !size);
      EXPECT(INVALID_ARGUMENT, th_frames_next(&f, &bytes, &size)); /* and stays so */
    } else {
      uint8_t *room = th_frames_room(&f, lengths[i]);
      cr_assert_not_null(room);
      memset(room, 0x5a, lengths[i]);
      th_frames_filled(&f, lengths[i] - 1);
      EXPECT(OK, th_frames_next(&f, &bytes, &size));
      cr_assert(!bytes && !size, "a frame that lacks a byte");
      th_frames_filled(&f, 1);
      EXPECT(OK, th_frames_next(&f, &bytes, &size));
      cr_assert_eq(size, lengths[i]);
      cr_assert(bytes[0] == 0x5a && bytes[size - 1] == 0x5a);
      EXPECT(OK, th_frames_next(&f, &bytes, &size));
      cr_assert(!bytes && !size);
    }
    th_frames_deinit(&f);
  }
}

Test(frames, a_stream_cut_anywhere) {
  uint64_t random = unit_seed("frames");
  enum { N = 400 };
  static uint8_t stream[N * 3000];
  static size_t sizes[N];
  size_t total = 0;
  for (int i = 0; i < N; i++) {
    sizes[i] = 1 + unit_random(&random, unit_random(&random, 8) ? 40 : 2900);
    length_of((uint32_t)sizes[i], stream + total);
    memset(stream + total + 4, i % 251, sizes[i]);
    total += 4 + sizes[i];
  }
  th_frames f;
  th_frames_init(&f);
  size_t sent = 0;
  int got = 0;
  while (got < N) {
    size_t n = unit_random(&random, 5000);
    if (n > total - sent) n = total - sent;
    give(&f, stream + sent, n);
    sent += n;
    const uint8_t *bytes;
    size_t size;
    for (;;) {
      EXPECT(OK, th_frames_next(&f, &bytes, &size));
      if (!bytes) break;
      cr_assert_eq(size, sizes[got], "frame %d", got);
      for (size_t k = 0; k < size; k++) cr_assert_eq(bytes[k], got % 251);
      got++;
      if (!unit_random(&random, 3)) break; /* not all that is there is taken at once */
    }
  }
  th_frames_deinit(&f);
}

static Thunder__Wire__Envelope error_envelope(Thunder__Wire__Error *e, char *text) {
  *e = (Thunder__Wire__Error)THUNDER__WIRE__ERROR__INIT;
  e->has_code = 1;
  e->code = 5;
  e->message = text;
  Thunder__Wire__Envelope envelope = THUNDER__WIRE__ENVELOPE__INIT;
  envelope.body_case = THUNDER__WIRE__ENVELOPE__BODY_ERROR;
  envelope.error = e;
  return envelope;
}

Test(frames, what_is_packed_is_decoded) {
  Thunder__Wire__Error error;
  Thunder__Wire__Envelope envelope = error_envelope(&error, "no such thing"), *again;
  uint8_t *packed;
  const uint8_t *bytes;
  size_t packed_size, size;
  th_frames f;
  th_frames_init(&f);
  EXPECT(OK, th_frame_pack(&envelope, &packed, &packed_size));
  give(&f, packed, packed_size);
  EXPECT(OK, th_frames_next(&f, &bytes, &size));
  cr_assert_eq(size, packed_size - 4);
  EXPECT(OK, th_envelope_decode(bytes, size, &again));
  cr_assert_eq(again->body_case, THUNDER__WIRE__ENVELOPE__BODY_ERROR);
  cr_assert_str_eq(th_body_name(again->body_case), "error");
  th_status s = th_error_to_status(again->error);
  cr_assert_eq(th_status_code(s), TH_CODE_NOT_FOUND);
  cr_assert_str_eq(th_status_message(s), "no such thing");
  th_status_free(s);
  th_envelope_free(again);
  th_envelope_free(NULL);
  th_frames_deinit(&f);
  free(packed);
}

Test(frames, one_too_large_is_not_packed) {
  char *text = malloc(TH_FRAME_BYTES_MAX + 1);
  memset(text, 'x', TH_FRAME_BYTES_MAX);
  text[TH_FRAME_BYTES_MAX] = 0;
  Thunder__Wire__Error error;
  Thunder__Wire__Envelope envelope = error_envelope(&error, text);
  uint8_t *packed;
  size_t size;
  EXPECT(RESOURCE_EXHAUSTED, th_frame_pack(&envelope, &packed, &size));
  cr_assert(!packed && !size);
  text[TH_FRAME_BYTES_MAX - 100] = 0;
  EXPECT(OK, th_frame_pack(&envelope, &packed, &size));
  cr_assert_leq(size, TH_FRAME_BYTES_MAX + 4);
  free(packed);
  free(text);
}

Test(frames, unreadable_envelopes) {
  uint64_t random = unit_seed("envelopes");
  Thunder__Wire__Error error;
  Thunder__Wire__Envelope envelope = error_envelope(&error, "no such thing"), *again;
  uint8_t *packed, bytes[256];
  size_t size, read = 0;
  EXPECT(OK, th_frame_pack(&envelope, &packed, &size));
  for (int i = 0; i < 20000; i++) {
    memcpy(bytes, packed + 4, size - 4);
    for (uint64_t k = unit_random(&random, 4) + 1; k; k--) bytes[unit_random(&random, size - 4)] = (uint8_t)unit_random(&random, 256);
    th_status s = th_envelope_decode(bytes, unit_random(&random, size - 3), &again);
    cr_assert(!s == !!again);
    cr_assert(!s || th_status_code(s) == TH_CODE_INVALID_ARGUMENT);
    read += !s;
    th_status_free(s);
    th_envelope_free(again);
  }
  cr_assert(read && read < 20000, "%zu were readable", read);
  free(packed);
}

/* A list of empty messages: two bytes each on the wire, a JobInfo and a pointer each in memory. The budget ends it. */
Test(frames, decoding_has_a_budget) {
  enum { N = 2 << 20 };
  int within = 0, beyond = 0;
  Thunder__Wire__Envelope envelope = THUNDER__WIRE__ENVELOPE__INIT, *again;
  Thunder__Wire__JobList jobs = THUNDER__WIRE__JOB_LIST__INIT;
  Thunder__Wire__JobInfo empty = THUNDER__WIRE__JOB_INFO__INIT, **list = malloc(N * sizeof *list);
  for (size_t i = 0; i < N; i++) list[i] = &empty;
  jobs.jobs = list;
  envelope.body_case = THUNDER__WIRE__ENVELOPE__BODY_JOB_LIST;
  envelope.job_list = &jobs;
  for (jobs.n_jobs = 10; jobs.n_jobs <= N; jobs.n_jobs *= 3) {
    uint8_t *packed;
    size_t size, used = jobs.n_jobs * (sizeof empty + sizeof *list);
    EXPECT(OK, th_frame_pack(&envelope, &packed, &size));
    size_t budget = size * 64 < 65536 ? 65536 : size * 64 > 256u << 20 ? 256u << 20 : size * 64;
    th_status s = th_envelope_decode(packed + 4, size - 4, &again);
    if (used > budget) cr_assert_eq(th_status_code(s), TH_CODE_INVALID_ARGUMENT, "%zu jobs take %zu bytes of %zu", jobs.n_jobs, used, budget);
    if (used < budget / 2)
      cr_assert_eq(th_status_code(s), TH_CODE_OK, "%zu jobs take %zu bytes of %zu", jobs.n_jobs, used,
                   budget); /* what decoding needs meanwhile counts too */
    if (!s) cr_assert_eq(again->job_list->n_jobs, jobs.n_jobs);
    within += !s;
    beyond += s != NULL;
    th_status_free(s);
    th_envelope_free(again);
    free(packed);
  }
  cr_assert(within && beyond, "%d, %d", within, beyond);
  free(list);
}

Test(frames, names_and_errors_of_strangers) {
  cr_assert_str_eq(th_body_name((Thunder__Wire__Envelope__BodyCase)0), "nothing");
  cr_assert_str_eq(th_body_name((Thunder__Wire__Envelope__BodyCase)9999), "nothing");
  Thunder__Wire__Error e = THUNDER__WIRE__ERROR__INIT;
  for (int code = -1; code < 20; code++) {
    e.code = code;
    th_status s = th_error_to_status(&e);
    cr_assert_eq(th_status_code(s), code > 0 && code <= 16 ? (th_code)code : TH_CODE_UNKNOWN);
    th_status_free(s);
  }
  e.message = "%s %n", e.detail = "line\nline";
  th_status s = th_error_to_status(&e);
  cr_assert_str_eq(th_status_message(s), "%s %n\nline\nline");
  th_status_free(s);
}

Test(frames, texts_become_utf8) {
  static const char *const pairs[][2] = {{"abc\n\t\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80", "abc\n\t\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80"},
                                         {"\xff", "?"},
                                         {"a\x80z", "a?z"},
                                         {"\xc3", "?"},
                                         {"\xe2\x82", "??"},
                                         {"\xc0\x80", "??"},
                                         {"\xe0\x80\x80", "???"},
                                         {"\xed\xa0\x80", "???"},
                                         {"\xf4\x90\x80\x80", "????"},
                                         {"\xf0\x80\x80\x80", "????"},
                                         {"\x1b[31m", "?[31m"},
                                         {"\xc3(", "?("},
                                         {"", ""}};
  for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
    char text[64];
    snprintf(text, sizeof text, "%s", pairs[i][0]);
    th_utf8_clean(text);
    cr_assert_str_eq(text, pairs[i][1], "pair %zu", i);
  }
}

/* --- gathers */

static th_status add(th_gather *g, uint64_t offset, const void *data, size_t size, int64_t total) {
  Thunder__Wire__Chunk c = THUNDER__WIRE__CHUNK__INIT;
  c.has_offset = 1;
  c.offset = offset;
  c.has_bytes = 1;
  c.bytes = (ProtobufCBinaryData){size, (uint8_t *)(uintptr_t)data};
  c.has_total = total >= 0;
  if (total >= 0) c.total = (uint64_t)total;
  return th_gather_add(g, &c);
}

Test(gather, chunks_become_the_whole) {
  uint64_t random = unit_seed("gather");
  enum { N = 5 << 20 };
  uint8_t *bytes = malloc(N);
  for (size_t i = 0; i < N; i++) bytes[i] = (uint8_t)unit_random(&random, 256);
  th_gather g;
  th_gather_init(&g, N);
  for (size_t at = 0; at < N;) {
    cr_assert_not(th_gather_done(&g));
    size_t n = 1 + unit_random(&random, TH_CHUNK_BYTES_MAX);
    if (n > N - at) n = N - at;
    EXPECT(OK, add(&g, at, bytes + at, n, at ? -1 : N));
    at += n;
  }
  cr_assert(th_gather_done(&g));
  cr_assert_eq(memcmp(g.bytes, bytes, N), 0);
  EXPECT(INVALID_ARGUMENT, add(&g, N, bytes, 1, -1)); /* past its end */
  th_gather_deinit(&g);
  free(bytes);
}

Test(gather, lies_are_refused_and_cost_nothing) {
  static uint8_t byte[TH_CHUNK_BYTES_MAX + 1];
  th_gather g;
  th_gather_init(&g, UINT64_MAX); /* announced, never sent: no memory for it */
  cr_assert_null(g.bytes);
  EXPECT(INVALID_ARGUMENT, add(&g, 1, byte, 1, -1));
  EXPECT(INVALID_ARGUMENT, add(&g, 0, byte, 1, 5));
  EXPECT(INVALID_ARGUMENT, add(&g, 0, byte, 0, -1));
  EXPECT(INVALID_ARGUMENT, add(&g, 0, byte, TH_CHUNK_BYTES_MAX + 1, -1));
  EXPECT(INVALID_ARGUMENT, add(&g, UINT64_MAX, byte, 1, -1));
  cr_assert_null(g.bytes);
  EXPECT(OK, add(&g, 0, byte, 10, -1));
  cr_assert_leq(g.capacity, TH_CHUNK_BYTES_MAX);
  EXPECT(INVALID_ARGUMENT, add(&g, 0, byte, 10, -1)); /* twice */
  EXPECT(INVALID_ARGUMENT, add(&g, 9, byte, 10, -1));
  cr_assert_eq(g.filled, 10);
  th_gather_deinit(&g);
  th_gather_init(&g, 10);
  EXPECT(INVALID_ARGUMENT, add(&g, 0, byte, 11, -1));
  EXPECT(OK, add(&g, 0, byte, 10, 10));
  cr_assert(th_gather_done(&g));
  th_gather_deinit(&g);
  th_gather_init(&g, 0); /* nothing is whole at once, and may be sent as one empty chunk */
  cr_assert(th_gather_done(&g));
  EXPECT(OK, add(&g, 0, NULL, 0, 0));
  EXPECT(INVALID_ARGUMENT, add(&g, 0, byte, 1, 0));
  th_gather_deinit(&g);
}

/* --- SHA-256: FIPS 180-4 examples and CAVP short messages */

Test(sha256, vectors) {
  static const struct {
    const char *text;
    size_t repeat;
    const char *hex;
  } vectors[] = {
      {"", 1, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},
      {"abc", 1, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"},
      {"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq", 1, "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"},
      {"abcdefghbcdefghicdefghijdefghijkefghijklfghijklmghijklmnhijklmnoijklmnopjklmnopqklmnopqrlmnopqrsmnopqrstnopqrstu", 1,
       "cf5b16a778af8380036ce59e7b0492370b249b11e8f07a51afac45037afee9d1"},
      {"a", 1000000, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0"},
      {"\xd3", 1, "28969cdfa74a12c82f3bad960b0b000aca2ac329deea5c2328ebc6f2ba9802c1"},
      {"\x74\xba\x25\x21", 1, "b16aa56be3880d18cd41e68384cf1ec8c17680c45a02b1575dc1518923ae8b0e"},
  };
  uint64_t random = unit_seed("sha256");
  for (size_t i = 0; i < sizeof vectors / sizeof *vectors; i++) {
    size_t n = strlen(vectors[i].text), size = n * vectors[i].repeat;
    uint8_t *bytes = malloc(size + 1), digest[32];
    char hex[65];
    for (size_t k = 0; k < vectors[i].repeat; k++) memcpy(bytes + k * n, vectors[i].text, n);
    th_sha256_of(bytes, size, digest);
    th_hex(digest, 32, hex);
    cr_assert_str_eq(hex, vectors[i].hex);
    for (int turn = 0; turn < 20; turn++) { /* in pieces */
      th_sha256 h;
      th_sha256_init(&h);
      for (size_t at = 0; at < size;) {
        size_t piece = unit_random(&random, unit_random(&random, 2) ? 130 : 70000);
        if (piece > size - at) piece = size - at;
        th_sha256_update(&h, bytes + at, piece);
        at += piece;
      }
      th_sha256_finish(&h, digest);
      th_hex(digest, 32, hex);
      cr_assert_str_eq(hex, vectors[i].hex);
    }
    free(bytes);
  }
}

Test(sha256, every_length_about_a_block_in_any_two_parts) {
  uint8_t bytes[200], whole[32], parts[32];
  for (size_t i = 0; i < sizeof bytes; i++) bytes[i] = (uint8_t)(i * 7);
  for (size_t size = 0; size <= sizeof bytes; size++) {
    th_sha256_of(bytes, size, whole);
    for (size_t cut = 0; cut <= size; cut++) {
      th_sha256 h;
      th_sha256_init(&h);
      th_sha256_update(&h, bytes, cut);
      th_sha256_update(&h, bytes + cut, size - cut);
      th_sha256_finish(&h, parts);
      cr_assert_eq(memcmp(whole, parts, 32), 0, "%zu of %zu", cut, size);
    }
  }
}

/* --- scope */

static void clean_environment(void) {
  static const char *const names[] = {"THUNDER_RUNTIME_DIR", "THUNDER_CACHE_DIR", "XDG_CACHE_HOME", "SLURM_JOB_ID", "THUNDER_BIN"};
  for (size_t i = 0; i < sizeof names / sizeof *names; i++) unsetenv(names[i]);
  setenv("HOME", "/home/somebody", 1);
}

Test(scope, each_part_of_it_makes_another, .init = clean_environment) {
  th_scope base, other;
  EXPECT(OK, th_scope_init(&base, NULL));
  char runtime[64];
  snprintf(runtime, sizeof runtime, "/tmp/thunder-%u", (unsigned)geteuid());
  cr_assert_str_eq(base.runtime, runtime);
  cr_assert_str_eq(base.cache, "/home/somebody/.cache/thunder");
  cr_assert_eq(strlen(base.directory), strlen(runtime) + 17);
  cr_assert(!strncmp(base.socket, base.directory, strlen(base.directory)) && !strcmp(base.socket + strlen(base.directory), "/socket"));
  EXPECT(OK, th_scope_init(&other, th_build_id()));
  cr_assert_str_eq(other.directory, base.directory);
  EXPECT(OK, th_scope_init(&other, "another build"));
  cr_assert_str_neq(other.directory, base.directory);
  setenv("SLURM_JOB_ID", "7", 1);
  EXPECT(OK, th_scope_init(&other, NULL));
  cr_assert_str_neq(other.directory, base.directory);
  unsetenv("SLURM_JOB_ID");
  setenv("XDG_CACHE_HOME", "/elsewhere", 1);
  EXPECT(OK, th_scope_init(&other, NULL));
  cr_assert_str_eq(other.cache, "/elsewhere/thunder");
  cr_assert_str_neq(other.directory, base.directory);
  setenv("THUNDER_CACHE_DIR", "/home/somebody/.cache/thunder", 1);
  EXPECT(OK, th_scope_init(&other, NULL));
  cr_assert_str_eq(other.directory, base.directory);
  setenv("THUNDER_RUNTIME_DIR", "/run/me", 1); /* where it is, not which it is */
  EXPECT(OK, th_scope_init(&other, NULL));
  cr_assert_str_eq(strrchr(other.directory, '/'), strrchr(base.directory, '/'));
}

Test(scope, what_cannot_be_a_scope, .init = clean_environment) {
  th_scope s;
  char text[6000];
  unsetenv("HOME");
  EXPECT(FAILED_PRECONDITION, th_scope_init(&s, NULL));
  setenv("THUNDER_CACHE_DIR", "relative", 1);
  EXPECT(FAILED_PRECONDITION, th_scope_init(&s, NULL));
  memset(text, 'x', sizeof text);
  text[0] = '/';
  for (size_t n = 4090; n < 4110; n++) { /* about the limit */
    text[n] = 0;
    setenv("THUNDER_CACHE_DIR", text, 1);
    th_status status = th_scope_init(&s, NULL);
    cr_assert_eq(th_status_code(status), n < TH_PATH_MAX ? TH_CODE_OK : TH_CODE_FAILED_PRECONDITION, "%zu bytes", n);
    th_status_free(status);
    text[n] = 'x';
  }
  setenv("THUNDER_CACHE_DIR", "/c", 1);
  setenv("THUNDER_RUNTIME_DIR", "relative", 1);
  EXPECT(FAILED_PRECONDITION, th_scope_init(&s, NULL));
  for (size_t n = 1; n < 5900; n += n < 200 ? 1 : 97) { /* a socket's path takes 107 bytes, 24 of them ours */
    text[n] = 0;
    setenv("THUNDER_RUNTIME_DIR", text, 1);
    th_status status = th_scope_init(&s, NULL);
    cr_assert_eq(th_status_code(status), n + 24 <= TH_SOCKET_PATH_MAX ? TH_CODE_OK : TH_CODE_FAILED_PRECONDITION, "%zu bytes", n);
    th_status_free(status);
    text[n] = 'x';
  }
}

static char place[64];
static void make_place(void) {
  clean_environment();
  snprintf(place, sizeof place, "/tmp/thunder-unit-XXXXXX");
  cr_assert_not_null(mkdtemp(place));
}
static void remove_place(void) {
  char command[128];
  snprintf(command, sizeof command, "rm -rf %s", place);
  cr_assert_eq(system(command), 0);
}

Test(scope, directories_are_mine_alone, .init = make_place, .fini = remove_place) {
  char path[128], link_path[128];
  th_scope s;
  struct stat st;
  snprintf(path, sizeof path, "%s/run", place);
  snprintf(link_path, sizeof link_path, "%s/link", place);
  setenv("THUNDER_RUNTIME_DIR", path, 1);
  EXPECT(OK, th_scope_init(&s, NULL));
  cr_assert_neq(stat(path, &st), 0, "th_scope_init makes nothing");
  EXPECT(OK, th_scope_make_directories(&s));
  EXPECT(OK, th_scope_make_directories(&s));
  cr_assert(!stat(s.directory, &st) && (st.st_mode & 07777) == 0700);
  static const mode_t bad[] = {0710, 0701, 0777, 0740};
  for (int i = 0; i < 4; i++) {
    chmod(s.directory, bad[i]);
    EXPECT(PERMISSION_DENIED, th_scope_make_directories(&s));
    chmod(s.directory, 0700);
    chmod(s.runtime, bad[i]);
    EXPECT(PERMISSION_DENIED, th_scope_make_directories(&s));
    chmod(s.runtime, 0700);
  }
  cr_assert_eq(symlink(path, link_path), 0); /* a link to a good one is none */
  setenv("THUNDER_RUNTIME_DIR", link_path, 1);
  EXPECT(OK, th_scope_init(&s, NULL));
  EXPECT(PERMISSION_DENIED, th_scope_make_directories(&s));
}

Test(scope, directories_with_their_parents, .init = make_place, .fini = remove_place) {
  char path[256], long_path[5000];
  struct stat st;
  snprintf(path, sizeof path, "%s/a/b//c/", place);
  EXPECT(OK, th_directory_make(path));
  EXPECT(OK, th_directory_make(path));
  cr_assert(!stat(path, &st) && S_ISDIR(st.st_mode) && (st.st_mode & 07777) == 0700);
  snprintf(path, sizeof path, "%s/file", place);
  fclose(fopen(path, "w"));
  EXPECT(FAILED_PRECONDITION, th_directory_make(path));
  strcat(path, "/under");
  EXPECT(FAILED_PRECONDITION, th_directory_make(path));
  memset(long_path, 'x', sizeof long_path - 1);
  long_path[0] = '/';
  long_path[sizeof long_path - 1] = 0;
  EXPECT(INVALID_ARGUMENT, th_directory_make(long_path));
}

Test(scope, programs_are_found_where_it_says, .init = make_place, .fini = remove_place) {
  char path[TH_PATH_MAX], program[128], old_path[4096];
  snprintf(old_path, sizeof old_path, "%s", getenv("PATH"));
  snprintf(program, sizeof program, "%s/no-such-thunder-program", place);
  EXPECT(NOT_FOUND, th_program_find("no-such-thunder-program", path, sizeof path));
  cr_assert_str_eq(path, "");
  fclose(fopen(program, "w"));
  setenv("THUNDER_BIN", place, 1);
  EXPECT(NOT_FOUND, th_program_find("no-such-thunder-program", path, sizeof path)); /* not executable */
  chmod(program, 0700);
  EXPECT(OK, th_program_find("no-such-thunder-program", path, sizeof path));
  cr_assert_str_eq(path, program);
  EXPECT(NOT_FOUND, th_program_find("no-such-thunder-program", path, 8)); /* too long for the caller */
  unsetenv("THUNDER_BIN");
  setenv("PATH", place, 1);
  EXPECT(OK, th_program_find("no-such-thunder-program", path, sizeof path));
  cr_assert_str_eq(path, program);
  setenv("PATH", old_path, 1);
  EXPECT(OK, th_program_find("frame_test", path, sizeof path)); /* beside this program */
}
