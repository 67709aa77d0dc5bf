/* Make one system call of a program fail, or die at it, or cut the power there: a library for LD_PRELOAD.

   Only calls on files below the folder FAIL_BELOW count; all others go through.
   FAIL_LOG   a file that gets a line `name path` before each call that counts
   FAIL_CALL  the name of the call that fails, or `any`
   FAIL_AT    which of them fails, from 1
   FAIL_WITH  how: an errno as a number; `short` (a write takes half); `kill` (SIGKILL instead of the call);
              `cut` (the file system below FAIL_BELOW loses everything that is not durable, then SIGKILL)
   FAIL_ON    set to fail every such call from FAIL_AT on, as a disk does that stays full */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define EXT4_IOC_SHUTDOWN 0x8004587D /* XFS has the same; 2 is without writing the log */
#define SHORT (-1)

static int n_calls; /* those that FAIL_CALL names */

static void die(void) {
    kill(getpid(), SIGKILL);
    for (;;) pause();
}

static void cut_power(const char *folder) {
    unsigned how = 2;
    int fd = open(folder, O_RDONLY | O_DIRECTORY);
    if (fd < 0 || ioctl(fd, EXT4_IOC_SHUTDOWN, &how) != 0) _exit(99);
    die();
}

static void write_log(const char *call, const char *path) {
    char line[5000];
    const char *log = getenv("FAIL_LOG");
    int fd = log == NULL ? -1 : open(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    if (fd < 0) return;
    int length = snprintf(line, sizeof line, "%s %s\n", call, path);
    syscall(SYS_write, fd, line, (size_t)length); /* in one piece: threads log at the same time */
    close(fd);
}

/* 0 to let the call through, else the errno it fails with, or SHORT. */
static int fault(const char *call, const char *path) {
    const char *folder = getenv("FAIL_BELOW"), *which = getenv("FAIL_CALL");
    if (folder == NULL || strncmp(path, folder, strlen(folder)) != 0) return 0;
    write_log(call, path);
    if (which == NULL || (strcmp(which, call) != 0 && strcmp(which, "any") != 0)) return 0;
    int n = __atomic_add_fetch(&n_calls, 1, __ATOMIC_SEQ_CST), at = atoi(getenv("FAIL_AT"));
    if (n < at || (n > at && getenv("FAIL_ON") == NULL)) return 0;
    const char *how = getenv("FAIL_WITH");
    if (strcmp(how, "kill") == 0) die();
    if (strcmp(how, "cut") == 0) cut_power(folder);
    return strcmp(how, "short") == 0 ? SHORT : atoi(how);
}

static int fault_of(const char *call, int fd) {
    char link[64], path[4096];
    int saved = errno;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    errno = saved;
    if (length < 0) return 0;
    path[length] = 0;
    return fault(call, path);
}

#define FAIL_IF(error)      \
    do {                    \
        int e = (error);    \
        if (e > 0) {        \
            errno = e;      \
            return -1;      \
        }                   \
    } while (0)

int fsync(int fd) {
    FAIL_IF(fault_of("fsync", fd));
    return REAL(fsync)(fd);
}

int fdatasync(int fd) {
    FAIL_IF(fault_of("fdatasync", fd));
    return REAL(fdatasync)(fd);
}

int flock(int fd, int kind) {
    FAIL_IF(fault_of("flock", fd));
    return syscall(SYS_flock, fd, kind);
}

int msync(void *start, size_t length, int flags) { /* which file it is of is not known: all count */
    const char *folder = getenv("FAIL_BELOW");
    FAIL_IF(fault("msync", folder == NULL ? "" : folder));
    return REAL(msync)(start, length, flags);
}

int ftruncate64(int fd, off64_t length) {
    FAIL_IF(fault_of("ftruncate", fd));
    return REAL(ftruncate64)(fd, length);
}

int ftruncate(int fd, off_t length) { return ftruncate64(fd, length); }

int fallocate64(int fd, int mode, off64_t offset, off64_t length) { /* blocks after the end of a file */
    FAIL_IF(fault_of("reserve", fd));
    return REAL(fallocate64)(fd, mode, offset, length);
}

int posix_fallocate64(int fd, off64_t offset, off64_t length) { /* returns the errno */
    int error = fault_of("fallocate", fd);
    return error > 0 ? error : REAL(posix_fallocate64)(fd, offset, length);
}

int posix_fallocate(int fd, off_t offset, off_t length) { return posix_fallocate64(fd, offset, length); }

void *mmap64(void *start, size_t length, int protection, int flags, int fd, off64_t offset) {
    int error = fd < 0 ? 0 : fault_of("mmap", fd);
    if (error > 0) {
        errno = error;
        return MAP_FAILED;
    }
    return REAL(mmap64)(start, length, protection, flags, fd, offset);
}

void *mmap(void *start, size_t length, int protection, int flags, int fd, off_t offset) {
    return mmap64(start, length, protection, flags, fd, offset);
}

int madvise(void *start, size_t length, int advice) { /* only the program asks for this advice */
    const char *folder = getenv("FAIL_BELOW");
    if (advice == 23) FAIL_IF(fault("madvise", folder == NULL ? "" : folder)); /* MADV_POPULATE_WRITE */
    return REAL(madvise)(start, length, advice);
}

ssize_t write(int fd, const void *data, size_t length) {
    int error = fault_of("write", fd);
    FAIL_IF(error);
    return syscall(SYS_write, fd, data, error == SHORT ? length / 2 : length);
}

ssize_t pwrite64(int fd, const void *data, size_t length, off64_t offset) {
    int error = fault_of("pwrite", fd);
    FAIL_IF(error);
    return REAL(pwrite64)(fd, data, error == SHORT ? length / 2 : length, offset);
}

ssize_t pwrite(int fd, const void *data, size_t length, off_t offset) { return pwrite64(fd, data, length, offset); }

int rename(const char *from, const char *to) {
    FAIL_IF(fault("rename", to));
    return REAL(rename)(from, to);
}

int unlink(const char *path) {
    FAIL_IF(fault("unlink", path));
    return REAL(unlink)(path);
}

int open64(const char *path, int flags, ...) {
    mode_t mode = 0;
    if (flags & O_CREAT) {
        va_list rest;
        va_start(rest, flags);
        mode = va_arg(rest, mode_t);
        va_end(rest);
    }
    if ((flags & O_ACCMODE) != O_RDONLY) FAIL_IF(fault("open", path));
    return openat(AT_FDCWD, path, flags, mode);
}

int open(const char *path, int flags, ...) {
    mode_t mode = 0;
    if (flags & O_CREAT) {
        va_list rest;
        va_start(rest, flags);
        mode = va_arg(rest, mode_t);
        va_end(rest);
    }
    return open64(path, flags, mode);
}

int mkdir(const char *path, mode_t mode) {
    FAIL_IF(fault("mkdir", path));
    return REAL(mkdir)(path, mode);
}

int rmdir(const char *path) {
    FAIL_IF(fault("rmdir", path));
    return REAL(rmdir)(path);
}
