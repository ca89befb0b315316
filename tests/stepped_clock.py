"""A clock that a test moves, in the processes it starts and not in the machine: ``LD_PRELOAD`` of a few lines of C."""

import struct
import subprocess
from pathlib import Path

from tests.servers import need

SOURCE = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>
static const double *offset;
static const double none = 0;
static double shift(void) {
  if (!offset) {
    const char *path = getenv("CLOCK_OFFSET_FILE");
    int fd = path ? open(path, O_RDONLY) : -1;
    void *mapped = fd < 0 ? MAP_FAILED : mmap(0, sizeof(double), PROT_READ, MAP_SHARED, fd, 0);
    if (fd >= 0) close(fd);
    offset = mapped == MAP_FAILED ? &none : mapped;
  }
  return *offset;
}
int clock_gettime(clockid_t id, struct timespec *now) {
  static int (*real)(clockid_t, struct timespec *);
  if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
  int code = real(id, now);
  if (!code && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE)) now->tv_sec += (time_t)shift();
  return code;
}
int gettimeofday(struct timeval *now, void *zone) {
  struct timespec spec;
  (void)zone;
  clock_gettime(CLOCK_REALTIME, &spec);
  now->tv_sec = spec.tv_sec;
  now->tv_usec = spec.tv_nsec / 1000;
  return 0;
}
time_t time(time_t *out) {
  struct timespec spec;
  clock_gettime(CLOCK_REALTIME, &spec);
  if (out) *out = spec.tv_sec;
  return spec.tv_sec;
}
"""


class SteppedClock:
    """The clock of the processes that get its environment.

    Parameters
    ----------
    folder
        Where library and offset are kept.
    """

    def __init__(self, folder: Path) -> None:
        source, library, self.offset = folder / "clock.c", folder / "clock.so", folder / "offset"
        source.write_text(SOURCE)
        subprocess.run([need("cc"), "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True)
        self.offset.write_bytes(struct.pack("d", 0.0))
        self.environment = {"LD_PRELOAD": str(library), "CLOCK_OFFSET_FILE": str(self.offset)}

    def set(self, seconds: float) -> None:
        """Let the clock go wrong by whole seconds from now on."""
        with self.offset.open("r+b") as file:
            file.write(struct.pack("d", seconds))
