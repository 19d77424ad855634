#define _GNU_SOURCE
#include "daemon/step/show.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

enum { ROOM = 1 << 20, LINE = 4300 };

static struct {
  const char *log_dir;
  int fd;
  bool prefix, is_socket, gone;
  char *waiting;
  size_t begin, end;
  unsigned long left_out;
} self = {.fd = 1};

void th_show_start(const char *log_dir) {
  struct stat s;
  self.log_dir = log_dir;
  self.waiting = malloc(ROOM);
  self.prefix = isatty(1);
  if (!self.waiting || fstat(1, &s)) self.gone = true;
  else if (S_ISSOCK(s.st_mode)) self.is_socket = true;
  else if (!S_ISREG(s.st_mode)) {
    /* Opened anew: O_NONBLOCK on the one we were given would be everybody's who shares it. */
    int fd = open("/proc/self/fd/1", O_WRONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    if (fd >= 0) self.fd = fd;
  }
}

int th_show_fd(void) { return self.gone || self.begin == self.end ? -1 : self.fd; }

void th_show_flush(void) {
  while (!self.gone && self.begin < self.end) {
    const char *from = self.waiting + self.begin;
    size_t size = self.end - self.begin;
    ssize_t n = self.is_socket ? send(self.fd, from, size, MSG_DONTWAIT | MSG_NOSIGNAL) : write(self.fd, from, size);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return;
    if (n <= 0) self.gone = true; /* nobody reads; the files have it all */
    else self.begin += (size_t)n;
  }
  self.begin = self.end = 0;
}

static bool put(const char *text, size_t size) {
  if (self.end + size > ROOM) {
    memmove(self.waiting, self.waiting + self.begin, self.end - self.begin);
    self.end -= self.begin;
    self.begin = 0;
  }
  if (self.end + size > ROOM) return false;
  memcpy(self.waiting + self.end, text, size);
  self.end += size;
  return true;
}

static void tell_left_out(void) {
  char text[LINE];
  int n = snprintf(text, sizeof text, "thunder-step: %lu lines were not shown here; all are in %.3000s\n", self.left_out, self.log_dir);
  if (put(text, (size_t)n)) self.left_out = 0;
}

void th_show_line(unsigned rank, const char *text, size_t size) {
  char out[LINE];
  int length = (int)(size < 4200 ? size : 4200);
  if (self.gone) return;
  int n = self.prefix ? snprintf(out, sizeof out, "[%u] %.*s\n", rank, length, text) : snprintf(out, sizeof out, "%.*s\n", length, text);
  if (self.left_out && self.end - self.begin < ROOM / 2) tell_left_out();
  if (self.left_out || !put(out, (size_t)n)) self.left_out++;
  th_show_flush();
}

void th_show_end(double quiet_seconds) {
  struct pollfd p = {.fd = self.fd, .events = POLLOUT};
  for (th_show_flush(); th_show_fd() >= 0; th_show_flush())
    if (poll(&p, 1, (int)(quiet_seconds * 1000)) <= 0) break;
  if (self.left_out && self.begin == self.end) {
    tell_left_out();
    th_show_flush();
  }
}
