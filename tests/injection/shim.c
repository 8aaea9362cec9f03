/* Makes one system call of a process fail, or kills the process there: gcc -shared -fPIC -o shim.so shim.c -ldl
 *
 * INJECT_DIR    only calls on files below this folder count
 * INJECT_AT     the number of the call, from 1; 0 counts only
 * INJECT_HOW    kill (before the call), after (it is made, then the process is killed), or an errno
 * INJECT_COUNT  a file that gets one byte for each call
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdlib.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

static int below(const char *path) {
    const char *dir = getenv("INJECT_DIR");
    return dir && path && strncmp(path, dir, strlen(dir)) == 0;
}

static int of(int fd) {
    char link[64], path[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return below(path);
}

/* 0: go on; 1: fail with errno set; 2: kill afterwards */
static int reached(void) {
    const char *count = getenv("INJECT_COUNT"), *at = getenv("INJECT_AT"), *how = getenv("INJECT_HOW");
    if (!count) return 0;
    int saved = errno;
    int file = syscall(SYS_openat, AT_FDCWD, count, O_WRONLY | O_CREAT | O_APPEND, 0600);
    syscall(SYS_write, file, "x", 1);
    long number = syscall(SYS_lseek, file, 0, SEEK_END);
    syscall(SYS_close, file);
    errno = saved;
    if (!at || !how || number != atol(at)) return 0;
    if (strcmp(how, "kill") == 0) raise(SIGKILL);
    if (strcmp(how, "after") == 0) return 2;
    errno = atoi(how);
    return 1;
}

#define REAL(name) real = real ? real : dlsym(RTLD_NEXT, #name)
#define AROUND(counts, call)                        \
    int way = (counts) ? reached() : 0;             \
    if (way == 1) return -1;                        \
    long result = (call);                           \
    if (way == 2) raise(SIGKILL);                   \
    return result

ssize_t write(int fd, const void *data, size_t size) {
    static ssize_t (*real)(int, const void *, size_t);
    REAL(write);
    AROUND(of(fd), real(fd, data, size));
}

int fsync(int fd) {
    static int (*real)(int);
    REAL(fsync);
    AROUND(of(fd), real(fd));
}

int rename(const char *from, const char *to) {
    static int (*real)(const char *, const char *);
    REAL(rename);
    AROUND(below(from), real(from, to));
}

int link(const char *from, const char *to) {
    static int (*real)(const char *, const char *);
    REAL(link);
    AROUND(below(from), real(from, to));
}

int linkat(int a, const char *from, int b, const char *to, int flags) {
    static int (*real)(int, const char *, int, const char *, int);
    REAL(linkat);
    AROUND(below(from), real(a, from, b, to, flags));
}

int unlink(const char *path) {
    static int (*real)(const char *);
    REAL(unlink);
    AROUND(below(path), real(path));
}
