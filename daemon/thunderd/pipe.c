/* The daemon's own socket: frames (daemon/common/frame.h) between processes of one uid. */
#define _GNU_SOURCE
#include <stdlib.h>
#include <sys/socket.h>

#include "daemon/thunderd/server.h"
#include "ir/base/log.h"

typedef struct pipe_connection { connection c; uv_pipe_t pipe; th_frames frames; } pipe_connection;
typedef struct write_request { uv_write_t request; connection *c; uint8_t *frame; } write_request;

static void closed(uv_handle_t *handle) {
  pipe_connection *p = handle->data;
  connection_deinit(&p->c);
  th_frames_deinit(&p->frames);
  free(p);
}

static void pipe_close(connection *c) { uv_close((uv_handle_t *)&((pipe_connection *)c)->pipe, closed); }

static void written(uv_write_t *request, int status) {
  write_request *r = (write_request *)request;
  connection *c = r->c;
  free(r->frame);
  free(r);
  connection_sent(c, status >= 0);
}

static void pipe_send(connection *c, uint8_t *frame, size_t size) {
  write_request *r = calloc(1, sizeof *r);
  uv_buf_t buffer = uv_buf_init((char *)frame, (unsigned)size);
  if (!r) {
    free(frame);
    connection_sent(c, false);
    return;
  }
  r->c = c;
  r->frame = frame;
  if (uv_write(&r->request, (uv_stream_t *)&((pipe_connection *)c)->pipe, &buffer, 1, written)) written(&r->request, -1);
}

static void hand_in(pipe_connection *p) {
  connection *c = &p->c;
  while (!c->closing && !c->ends && !c->paused) {
    const uint8_t *bytes;
    size_t size;
    th_status status = th_frames_next(&p->frames, &bytes, &size);
    if (status) connection_unreadable(c, status);
    else if (!bytes) return;
    else connection_received(c, bytes, size);
  }
}

static void give_room(uv_handle_t *handle, size_t size, uv_buf_t *buffer) {
  pipe_connection *p = handle->data;
  buffer->base = (char *)th_frames_room(&p->frames, size);
  buffer->len = buffer->base ? size : 0;
}

static void received(uv_stream_t *stream, ssize_t n, const uv_buf_t *buffer) {
  pipe_connection *p = stream->data;
  (void)buffer;
  if (n < 0) {
    connection_close(&p->c);
    return;
  }
  th_frames_filled(&p->frames, (size_t)n);
  hand_in(p);
}

static void pipe_read(connection *c, bool on) {
  pipe_connection *p = (pipe_connection *)c;
  if (!on) {
    uv_read_stop((uv_stream_t *)&p->pipe);
    return;
  }
  uv_read_start((uv_stream_t *)&p->pipe, give_room, received);
  hand_in(p); /* what had come already */
}

static const transport over_pipe = {.send = pipe_send, .read = pipe_read, .close = pipe_close};

void pipe_accept(uv_stream_t *listener, int status) {
  server *s = listener->data;
  pipe_connection *p = status ? NULL : calloc(1, sizeof *p);
  if (!p) return;
  connection_init(&p->c, s, &over_pipe);
  th_frames_init(&p->frames);
  uv_pipe_init(s->loop, &p->pipe, 0);
  p->pipe.data = p;
  if (uv_accept(listener, (uv_stream_t *)&p->pipe)) {
    connection_close(&p->c);
    return;
  }
  uv_os_fd_t fd;
  struct ucred peer = {0};
  socklen_t size = sizeof peer;
  if (uv_fileno((uv_handle_t *)&p->pipe, &fd) || getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) || peer.uid != s->scope.uid) {
    TH_LOG(WARNING, "a connection of uid %u was refused", (unsigned)peer.uid);
    s->n_refused++;
    connection_close(&p->c);
    return;
  }
  uv_read_start((uv_stream_t *)&p->pipe, give_room, received);
}
