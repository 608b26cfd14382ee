/* Moves the wall clock of the process that preloads it, as the file says that VOXGATE_CLOCK names. It holds two
 * signed 64-bit integers that the test writes at any time:
 *  - by how many microseconds the clock is moved,
 *  - the moment at which it stands still, in microseconds since the epoch; 0: it runs. A clock that stands goes on by a
 *    microsecond with each look at it, as no two things happen at once; a machine that stalls does not move it.
 *
 * Only CLOCK_REALTIME and what is made of it: intervals are measured with CLOCK_MONOTONIC, and a server whose
 * monotonic clock jumps is testing something else.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static volatile int64_t *clock_us;
static _Atomic int64_t looks;

__attribute__((constructor)) static void map_clock(void) {
    const char *path = getenv("VOXGATE_CLOCK");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0) return;
    void *page = mmap(NULL, 2 * sizeof(int64_t), PROT_READ, MAP_SHARED, file, 0);
    close(file);
    if (page != MAP_FAILED) clock_us = page;
}

static int64_t moved_us(void) {
    if (clock_us && clock_us[1]) return clock_us[1] + clock_us[0] + looks++;
    struct timespec now;
    syscall(SYS_clock_gettime, CLOCK_REALTIME, &now);
    return (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000 + (clock_us ? clock_us[0] : 0);
}

int clock_gettime(clockid_t clock, struct timespec *out) {
    if (clock != CLOCK_REALTIME && clock != CLOCK_REALTIME_COARSE) return syscall(SYS_clock_gettime, clock, out);
    int64_t now = moved_us();
    out->tv_sec = now / 1000000;
    out->tv_nsec = now % 1000000 * 1000;
    return 0;
}

int gettimeofday(struct timeval *restrict out, void *restrict zone) {
    (void)zone;
    int64_t now = moved_us();
    out->tv_sec = now / 1000000;
    out->tv_usec = now % 1000000;
    return 0;
}

time_t time(time_t *out) {
    time_t now = moved_us() / 1000000;
    if (out) *out = now;
    return now;
}
