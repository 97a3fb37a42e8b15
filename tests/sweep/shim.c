/* Loaded before libc: counts, fails or records what a process does to files below one directory and to the network.
 *
 * Nothing happens until `sweep_arm`. A fault strikes the K-th call `op` on a file whose name, as it is below the
 * directory, matches a pattern; sockets bear the name "socket", and what else of the machine counts if that is asked
 * for a name that begins with "machine/". After `sweep_share` the calls of all processes that are started count
 * together. A log tells each call, in the order in which it took effect if that was asked for:
 *
 *     op TAB inode TAB offset TAB length TAB result TAB path TAB second path TAB bytes that follow NEWLINE bytes
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum fault { NONE, FAIL, SHORT, DELAY, KILL, TORN };
enum { TELL = 1, DATA = 2, MACHINE = 4 };

/* What is to happen, and what has: of this process, or of all that share a file. */
struct plan {
    char root[PATH_MAX], op[32], path[PATH_MAX], log[PATH_MAX];
    size_t root_length;
    int kind, number, what;
    long count;
    atomic_long seen;
    atomic_int armed, fired;
};
static struct plan own, *plan = &own;
static int paused;
static pthread_mutex_t in_order = PTHREAD_MUTEX_INITIALIZER;

#define ARMED (plan->armed && !paused)
#define LOCKED (plan->what & DATA)
#define REAL(type, name, ...)                                                                                         \
    static type (*real)(__VA_ARGS__);                                                                                 \
    if (!real) real = (type(*)(__VA_ARGS__))dlsym(RTLD_NEXT, name)

/* From now on this process and those that are started with this file as SWEEP_PLAN have one plan. */
int sweep_share(const char *file)
{
    int fd = (int)syscall(SYS_openat, AT_FDCWD, file, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0) return -1;
    void *at = syscall(SYS_ftruncate, fd, sizeof own) < 0
        ? MAP_FAILED : mmap(NULL, sizeof own, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    syscall(SYS_close, fd);
    if (at == MAP_FAILED) return -1;
    plan = at;
    return 0;
}

__attribute__((constructor)) static void begin(void)
{
    const char *file = getenv("SWEEP_PLAN");
    if (file && access(file, F_OK) == 0) sweep_share(file);
}

/* Everything below `directory` (no symbolic link in it) and every socket from now on. `count` 0: no fault. */
void sweep_arm(const char *directory, const char *op, const char *pattern, long count, int kind, int number,
               const char *log, int what)
{
    plan->armed = 0;
    plan->root_length = (size_t)snprintf(plan->root, sizeof plan->root, "%s/", directory);
    snprintf(plan->op, sizeof plan->op, "%s", op);
    snprintf(plan->path, sizeof plan->path, "%s", pattern);
    snprintf(plan->log, sizeof plan->log, "%s", log);
    plan->count = count, plan->kind = kind, plan->number = number, plan->what = what;
    plan->seen = 0;
    plan->fired = 0;
    plan->armed = 1;
}

void sweep_disarm(void) { plan->armed = 0; }

/* While `on`, what this process does counts for nothing. */
void sweep_pause(int on) { paused = on; }

int sweep_fired(void) { return plan->fired; }

static void tell(const char *op, unsigned long inode, long long offset, size_t length, long result, const char *path,
                 const char *second, const void *data, size_t data_length)
{
    char line[2 * PATH_MAX + 256];
    if (!(plan->what & (TELL | DATA)) || !plan->log[0]) return;
    if (!LOCKED) data_length = 0;
    int n = snprintf(line, sizeof line, "%s\t%lu\t%lld\t%zu\t%ld\t%s\t%s\t%zu\n", op, inode, offset, length, result,
                     path, second, data_length);
    struct iovec pieces[] = {{line, (size_t)n}, {(void *)(uintptr_t)data, data_length}};
    /* In one piece, whoever else writes. */
    int fd = (int)syscall(SYS_openat, AT_FDCWD, plan->log, O_WRONLY | O_APPEND | O_CLOEXEC);
    if (fd < 0 || syscall(SYS_writev, fd, pieces, 2) != n + (long)data_length) abort();
    syscall(SYS_close, fd);
}

/* A line of the caller's own in the log. */
void sweep_note(const char *text)
{
    pthread_mutex_lock(&in_order);
    if (ARMED) tell("note", 0, 0, 0, 0, text, "", "", 0);
    pthread_mutex_unlock(&in_order);
}

static unsigned long inode_of(int fd)
{
    struct stat st;
    return fd >= 0 && fstat(fd, &st) == 0 ? st.st_ino : 0;
}

/* The name of what is not below the directory, but counts: FUSE, loop devices, and what the kernel says of them. */
static int name_of_machine(const char *path, char *name)
{
    if (!(plan->what & MACHINE)) return 0;
    if (strcmp(path, "/dev/fuse") == 0 || strcmp(path, "/dev/loop-control") == 0)
        return snprintf(name, PATH_MAX, "machine%s", path), 1;
    if (fnmatch("/dev/loop[0-9]*", path, 0) == 0) return strcpy(name, "machine/dev/loop"), 1;
    if (fnmatch("/proc/*/mountinfo", path, 0) == 0) return strcpy(name, "machine/mountinfo"), 1;
    if (fnmatch("/sys/*block/loop*/backing_file", path, 0) == 0) return strcpy(name, "machine/backing_file"), 1;
    return 0;
}

/* The name of an open file below the directory, or "socket"; 0 for all others. */
static int name_of(int fd, char *name)
{
    char link[64], path[PATH_MAX];
    if (!ARMED || fd < 0) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    long n = syscall(SYS_readlink, link, path, sizeof path - 1);
    if (n <= 0) return 0;
    path[n] = 0;
    if (strncmp(path, "socket:", 7) == 0) return strcpy(name, "socket"), 1;
    if (strncmp(path, plan->root, plan->root_length - 1) != 0) return name_of_machine(path, name);
    if (path[plan->root_length - 1] == 0) return strcpy(name, "."), 1;
    if (path[plan->root_length - 1] != '/') return 0;
    return strcpy(name, path + plan->root_length), 1;
}

static int name_at(int directory, const char *path, char *name)
{
    if (!ARMED || !path) return 0;
    if (path[0] == '/' || directory == AT_FDCWD) {
        if (strncmp(path, plan->root, plan->root_length - 1) != 0) return name_of_machine(path, name);
        if (path[plan->root_length - 1] == 0) return strcpy(name, "."), 1;
        if (path[plan->root_length - 1] != '/') return 0;
        return snprintf(name, PATH_MAX, "%s", path + plan->root_length), 1;
    }
    char parent[PATH_MAX - 300];
    if (!name_of(directory, parent)) return 0;
    return snprintf(name, PATH_MAX, "%s/%s", parent, path), 1;
}

/* Whether this is the call that fails, and how. A process that is to be killed ends here. */
static enum fault strike(const char *op, const char *name)
{
    if (plan->count == 0 || strcmp(op, plan->op) != 0 || fnmatch(plan->path, name, 0) != 0) return NONE;
    if (atomic_fetch_add(&plan->seen, 1) + 1 != plan->count) return NONE;
    plan->fired = 1;
    if (plan->kind == KILL) syscall(SYS_exit_group, 99);
    if (plan->kind == DELAY) usleep(300000);
    if (plan->kind == FAIL) errno = plan->number;
    return (enum fault)plan->kind;
}

static size_t shortened(enum fault fault, size_t length, off_t offset)
{
    size_t half = length > 1 ? length / 2 : length;
    /* A process that is killed in the middle of a write has written whole pages. */
    size_t past = fault == TORN ? (size_t)(offset + (off_t)half) % 4096 : 0;
    return fault == TORN ? (half > past ? half - past : 0) : fault == SHORT ? half : length;
}

static void end_torn(enum fault fault)
{
    if (fault == TORN) syscall(SYS_exit_group, 99);
}

static void enter(void) { if (LOCKED) pthread_mutex_lock(&in_order); }
static void leave(void)
{
    int number = errno;
    if (LOCKED) pthread_mutex_unlock(&in_order);
    errno = number;
}

/* ---- names */

static int open_at(int directory, const char *path, int flags, mode_t mode)
{
    char name[PATH_MAX];
    int ours = name_at(directory, path, name);
    const char *op = flags & O_CREAT ? "create" : "open";
    if (ours && strike(op, name) == FAIL) return -1;
    if (ours) enter();
    int was = ours && faccessat(directory, path, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
    int fd = (int)syscall(SYS_openat, directory, path, flags, mode);
    if (ours) {
        int number = errno;
        op = !(flags & O_CREAT) ? "open" : was ? "opened" : "create";
        tell(flags & O_TRUNC && was ? "emptied" : op, inode_of(fd), 0, 0, fd, name, "", "", 0);
        leave();
        errno = number;
    }
    return fd;
}

static mode_t mode_of(int flags, va_list words)
{
    return flags & (O_CREAT | (O_TMPFILE & ~O_DIRECTORY)) ? va_arg(words, mode_t) : 0;
}

#define OPEN(name)                                                                                                    \
    int name(const char *path, int flags, ...)                                                                        \
    {                                                                                                                 \
        va_list words;                                                                                                \
        va_start(words, flags);                                                                                       \
        mode_t mode = mode_of(flags, words);                                                                          \
        va_end(words);                                                                                                \
        return open_at(AT_FDCWD, path, flags, mode);                                                                  \
    }
#define OPENAT(name)                                                                                                  \
    int name(int directory, const char *path, int flags, ...)                                                         \
    {                                                                                                                 \
        va_list words;                                                                                                \
        va_start(words, flags);                                                                                       \
        mode_t mode = mode_of(flags, words);                                                                          \
        va_end(words);                                                                                                \
        return open_at(directory, path, flags, mode);                                                                 \
    }
OPEN(open)
OPEN(open64)
OPENAT(openat)
OPENAT(openat64)

/* One or two names: rename, link, unlink, mkdir, rmdir. */
static int named(const char *op, int from, const char *path, int to, const char *second, long (*call)(void *), void *with)
{
    char one[PATH_MAX] = "", two[PATH_MAX] = "";
    int ours = name_at(from, path, one);
    if (second) ours |= name_at(to, second, two);
    if (!ours) return (int)call(with);
    if (strike(op, second ? two : one) == FAIL) return -1;
    enter();
    int result = (int)call(with);
    int number = errno;
    tell(op, 0, 0, 0, result, one, two, "", 0);
    leave();
    errno = number;
    return result;
}

struct names { int from, to, flags; const char *path, *second; mode_t mode; };
static long do_rename(void *v) { struct names *n = v; return syscall(SYS_renameat2, n->from, n->path, n->to, n->second, n->flags); }
static long do_link(void *v) { struct names *n = v; return syscall(SYS_linkat, n->from, n->path, n->to, n->second, n->flags); }
static long do_unlink(void *v) { struct names *n = v; return syscall(SYS_unlinkat, n->from, n->path, n->flags); }
static long do_mkdir(void *v) { struct names *n = v; return syscall(SYS_mkdirat, n->from, n->path, n->mode); }

int renameat2(int from, const char *path, int to, const char *second, unsigned flags)
{
    struct names n = {from, to, (int)flags, path, second, 0};
    return named("rename", from, path, to, second, do_rename, &n);
}
int renameat(int from, const char *path, int to, const char *second) { return renameat2(from, path, to, second, 0); }
int rename(const char *path, const char *second) { return renameat2(AT_FDCWD, path, AT_FDCWD, second, 0); }

int linkat(int from, const char *path, int to, const char *second, int flags)
{
    struct names n = {from, to, flags, path, second, 0};
    return named("link", from, path, to, second, do_link, &n);
}
int link(const char *path, const char *second) { return linkat(AT_FDCWD, path, AT_FDCWD, second, 0); }

int unlinkat(int from, const char *path, int flags)
{
    struct names n = {from, 0, flags, path, 0, 0};
    return named(flags & AT_REMOVEDIR ? "rmdir" : "unlink", from, path, 0, 0, do_unlink, &n);
}
int unlink(const char *path) { return unlinkat(AT_FDCWD, path, 0); }
int rmdir(const char *path) { return unlinkat(AT_FDCWD, path, AT_REMOVEDIR); }

int mkdirat(int from, const char *path, mode_t mode)
{
    struct names n = {from, 0, 0, path, 0, mode};
    return named("mkdir", from, path, 0, 0, do_mkdir, &n);
}
int mkdir(const char *path, mode_t mode) { return mkdirat(AT_FDCWD, path, mode); }

/* ---- bytes */

/* A request, and an answer, is one read and one write. */
static const char *const FUSE = "machine/dev/fuse";

/* A connection that was reset is none any more. */
static long failed(int fd)
{
    int number = errno;
    if (number == ECONNRESET) syscall(SYS_shutdown, fd, SHUT_RDWR);
    errno = number;
    return -1;
}

static long get(const char *op, int fd, size_t length, long (*call)(void *, size_t), void *with)
{
    char name[PATH_MAX];
    if (!name_of(fd, name)) return call(with, length);
    if (strcmp(name, FUSE) == 0) op = "request";
    enum fault fault = strike(op, name);
    if (fault == FAIL) return failed(fd);
    long result = call(with, shortened(fault, length, 0));
    end_torn(fault);
    int number = errno;
    if (!(LOCKED)) tell(op, 0, 0, length, result, name, "", "", 0);
    errno = number;
    return result;
}

static long store(const char *op, int fd, const void *bytes, size_t length, off_t offset, long (*call)(void *, size_t),
                  void *with)
{
    char name[PATH_MAX];
    if (!name_of(fd, name)) return call(with, length);
    enum fault fault = strike(op, name);
    if (fault == FAIL) return failed(fd);
    if (strcmp(name, "socket") == 0) {
        long result = call(with, shortened(fault, length, 0));
        int number = errno;
        if (!(LOCKED)) tell(op, 0, 0, length, result, name, "", "", 0);
        errno = number;
        return result;
    }
    enter();
    if (offset < 0) offset = syscall(SYS_lseek, fd, 0, fcntl(fd, F_GETFL) & O_APPEND ? SEEK_END : SEEK_CUR);
    long result = call(with, shortened(fault, length, offset));
    end_torn(fault);
    int number = errno;
    tell(op, inode_of(fd), offset, length, result, name, "", bytes, result > 0 ? (size_t)result : 0);
    leave();
    errno = number;
    return result;
}

struct io { int fd, flags; void *buffer; const void *bytes; off_t offset; struct sockaddr *peer; socklen_t *peer_length; };
static long do_read(void *v, size_t n) { struct io *i = v; return syscall(SYS_read, i->fd, i->buffer, n); }
static long do_write(void *v, size_t n) { struct io *i = v; return syscall(SYS_write, i->fd, i->bytes, n); }
static long do_pread(void *v, size_t n) { struct io *i = v; return syscall(SYS_pread64, i->fd, i->buffer, n, i->offset); }
static long do_pwrite(void *v, size_t n) { struct io *i = v; return syscall(SYS_pwrite64, i->fd, i->bytes, n, i->offset); }
static long do_recv(void *v, size_t n)
{
    struct io *i = v;
    return syscall(SYS_recvfrom, i->fd, i->buffer, n, i->flags, i->peer, i->peer_length);
}
static long do_send(void *v, size_t n) { struct io *i = v; return syscall(SYS_sendto, i->fd, i->bytes, n, i->flags, NULL, 0); }

ssize_t read(int fd, void *buffer, size_t n)
{
    struct io i = {.fd = fd, .buffer = buffer};
    return get("read", fd, n, do_read, &i);
}
ssize_t write(int fd, const void *bytes, size_t n)
{
    struct io i = {.fd = fd, .bytes = bytes};
    return store("write", fd, bytes, n, -1, do_write, &i);
}
ssize_t pread(int fd, void *buffer, size_t n, off_t offset)
{
    struct io i = {.fd = fd, .buffer = buffer, .offset = offset};
    return get("read", fd, n, do_pread, &i);
}
ssize_t pread64(int fd, void *buffer, size_t n, off_t offset) { return pread(fd, buffer, n, offset); }
ssize_t pwrite(int fd, const void *bytes, size_t n, off_t offset)
{
    struct io i = {.fd = fd, .bytes = bytes, .offset = offset};
    return store("write", fd, bytes, n, offset, do_pwrite, &i);
}
ssize_t pwrite64(int fd, const void *bytes, size_t n, off_t offset) { return pwrite(fd, bytes, n, offset); }
ssize_t recvfrom(int fd, void *buffer, size_t n, int flags, struct sockaddr *peer, socklen_t *peer_length)
{
    struct io i = {.fd = fd, .buffer = buffer, .flags = flags, .peer = peer, .peer_length = peer_length};
    return flags & MSG_PEEK ? do_recv(&i, n) : get("recv", fd, n, do_recv, &i);
}
ssize_t recv(int fd, void *buffer, size_t n, int flags) { return recvfrom(fd, buffer, n, flags, NULL, NULL); }
ssize_t send(int fd, const void *bytes, size_t n, int flags)
{
    struct io i = {.fd = fd, .bytes = bytes, .flags = flags};
    return store("send", fd, bytes, n, 0, do_send, &i);
}

/* Pieces: the first that has bytes stands for all; who asked goes on with the others as after a short write. */
static const struct iovec *first_of(const struct iovec *pieces, int count)
{
    while (count > 1 && pieces->iov_len == 0) pieces++, count--;
    return pieces;
}
ssize_t writev(int fd, const struct iovec *pieces, int count)
{
    char name[PATH_MAX];
    if (count < 1 || !name_of(fd, name)) return syscall(SYS_writev, fd, pieces, count);
    if (strcmp(name, FUSE) == 0) {
        if (strike("answer", name) == FAIL) return -1;
        tell("answer", 0, 0, 0, 0, name, "", "", 0);
        return syscall(SYS_writev, fd, pieces, count);
    }
    const struct iovec *one = first_of(pieces, count);
    return write(fd, one->iov_base, one->iov_len);
}
ssize_t readv(int fd, const struct iovec *pieces, int count)
{
    char name[PATH_MAX];
    if (count < 1 || !name_of(fd, name)) return syscall(SYS_readv, fd, pieces, count);
    const struct iovec *one = first_of(pieces, count);
    return read(fd, one->iov_base, one->iov_len);
}

int connect(int fd, const struct sockaddr *address, socklen_t length)
{
    int ours = ARMED && address->sa_family == AF_INET;
    if (ours && strike("connect", "socket") == FAIL) return -1;
    int result = (int)syscall(SYS_connect, fd, address, length);
    int number = errno;
    if (ours && !(LOCKED)) tell("connect", 0, 0, 0, result, "socket", "", "", 0);
    errno = number;
    return result;
}

/* ---- what is done to a whole file */

static int changed(const char *op, int fd, off_t offset, off_t length, long (*call)(void *), void *with)
{
    char name[PATH_MAX];
    if (!name_of(fd, name)) return (int)call(with);
    if (strike(op, name) == FAIL) return -1;
    enter();
    int result = (int)call(with);
    int number = errno;
    tell(op, inode_of(fd), offset, (size_t)length, result, name, "", "", 0);
    leave();
    errno = number;
    return result;
}

struct change { int fd, flags; off_t offset, length; };
static long do_fsync(void *v) { return syscall(SYS_fsync, ((struct change *)v)->fd); }
static long do_fdatasync(void *v) { return syscall(SYS_fdatasync, ((struct change *)v)->fd); }
static long do_ftruncate(void *v) { struct change *c = v; return syscall(SYS_ftruncate, c->fd, c->length); }
static long do_fallocate(void *v) { struct change *c = v; return syscall(SYS_fallocate, c->fd, c->flags, c->offset, c->length); }

int fsync(int fd)
{
    struct change c = {.fd = fd};
    return changed("sync", fd, 0, 0, do_fsync, &c);
}
int fdatasync(int fd)
{
    struct change c = {.fd = fd};
    return changed("sync", fd, 0, 0, do_fdatasync, &c);
}
int ftruncate(int fd, off_t length)
{
    struct change c = {.fd = fd, .length = length};
    return changed("truncate", fd, 0, length, do_ftruncate, &c);
}
int ftruncate64(int fd, off_t length) { return ftruncate(fd, length); }
int truncate(const char *path, off_t length)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0) return -1;
    int result = ftruncate(fd, length), number = errno;
    close(fd);
    errno = number;
    return result;
}
int truncate64(const char *path, off_t length) { return truncate(path, length); }
int fallocate(int fd, int flags, off_t offset, off_t length)
{
    struct change c = {.fd = fd, .flags = flags, .offset = offset, .length = length};
    return changed(flags & FALLOC_FL_PUNCH_HOLE ? "punch" : "allocate", fd, offset, length, do_fallocate, &c);
}
int fallocate64(int fd, int flags, off_t offset, off_t length) { return fallocate(fd, flags, offset, length); }

/* Bytes that go from file to file inside the kernel: who asked must do without, as on other file systems. */
ssize_t copy_file_range(int from, off64_t *offset, int to, off64_t *to_offset, size_t n, unsigned flags)
{
    char name[PATH_MAX];
    if (!name_of(to, name)) return syscall(SYS_copy_file_range, from, offset, to, to_offset, n, flags);
    if (strike("copy", name) == FAIL) return -1;
    if (!(LOCKED)) tell("copy", 0, 0, n, -1, name, "", "", 0);
    errno = EXDEV;
    return -1;
}
ssize_t sendfile(int to, int from, off_t *offset, size_t n)
{
    char name[PATH_MAX];
    if (!name_of(to, name)) return syscall(SYS_sendfile, to, from, offset, n);
    errno = EINVAL;
    return -1;
}
ssize_t sendfile64(int to, int from, off_t *offset, size_t n) { return sendfile(to, from, offset, n); }

/* ---- devices, mounts and processes, where these count */

int ioctl(int fd, unsigned long request, ...)
{
    char name[PATH_MAX];
    va_list words;
    va_start(words, request);
    void *argument = va_arg(words, void *);
    va_end(words);
    int ours = ARMED && plan->what & MACHINE && name_of(fd, name) && strncmp(name, "machine/", 8) == 0;
    if (ours && strike("ioctl", name) == FAIL) return -1;
    int result = (int)syscall(SYS_ioctl, fd, request, argument);
    int number = errno;
    if (ours) tell("ioctl", 0, 0, 0, result, name, "", "", 0);
    errno = number;
    return result;
}

/* The others by the names of places and programs. */
static int counted(const char *op, const char *name)
{
    if (!ARMED || !(plan->what & MACHINE)) return 0;
    if (strike(op, name) == FAIL) return -1;
    tell(op, 0, 0, 0, 0, name, "", "", 0);
    return 0;
}
int mount(const char *source, const char *target, const char *kind, unsigned long flags, const void *options)
{
    char name[PATH_MAX];
    if (name_at(AT_FDCWD, target, name) && counted("mount", name) < 0) return -1;
    return (int)syscall(SYS_mount, source, target, kind, flags, options);
}
int umount2(const char *target, int flags)
{
    char name[PATH_MAX];
    if (name_at(AT_FDCWD, target, name) && counted("umount", name) < 0) return -1;
    return (int)syscall(SYS_umount2, target, flags);
}
int umount(const char *target) { return umount2(target, 0); }
int flock(int fd, int operation)
{
    char name[PATH_MAX];
    if (name_of(fd, name) && counted("lock", name) < 0) return -1;
    return (int)syscall(SYS_flock, fd, operation);
}
int pipe2(int ends[2], int flags)
{
    return counted("pipe", "machine/pipe") < 0 ? -1 : (int)syscall(SYS_pipe2, ends, flags);
}
pid_t fork(void)
{
    REAL(pid_t, "fork", void);
    return counted("fork", "machine/process") < 0 ? -1 : real();
}
/* Of the places where a program may be, only the one where it is counts. */
int execve(const char *path, char *const words[], char *const environment[])
{
    const char *slash = strrchr(path, '/');
    char name[PATH_MAX];
    snprintf(name, sizeof name, "machine/%s", slash ? slash + 1 : path);
    if (ARMED && syscall(SYS_faccessat, AT_FDCWD, path, X_OK) == 0 && counted("exec", name) < 0) return -1;
    return (int)syscall(SYS_execve, path, words, environment);
}

/* ---- asynchronous writes, in the shape of libaio, of which `cache/aio.py` takes these four by name */

struct iocb { uint64_t data; uint32_t key, rw_flags; int16_t opcode, priority; int32_t fd; uint64_t buffer, length; int64_t offset; uint64_t reserved; uint32_t flags, event_fd; };
struct event { uint64_t data, iocb; int64_t result, result2; };
static uint64_t failing;

int io_setup(int depth, void **context) { return syscall(SYS_io_setup, depth, context) < 0 ? -errno : 0; }
int io_destroy(void *context) { return syscall(SYS_io_destroy, context) < 0 ? -errno : 0; }
int io_submit(void *context, long count, struct iocb **calls)
{
    char name[PATH_MAX];
    struct iocb *call = calls[0];
    int ours = name_of(call->fd, name);
    enum fault fault = ours ? strike("aio", name) : NONE;
    /* Interrupted and without room it is refused, failed it fails when it is done. */
    if (fault == FAIL && plan->number == EINTR) return -EAGAIN;
    if (fault == FAIL) failing = (uint64_t)(uintptr_t)call;
    uint64_t length = call->length;
    if (fault == SHORT || fault == TORN) call->length = length / 2 & ~4095ull;
    if (ours) enter();
    long result = syscall(SYS_io_submit, context, count, calls);
    int number = errno;
    if (ours) {
        tell("aio", inode_of(call->fd), call->offset, length, result, name, "", (void *)(uintptr_t)call->buffer,
             result > 0 ? call->length : 0);
        leave();
    }
    end_torn(fault);
    return result < 0 ? -number : (int)result;
}
int io_getevents(void *context, long least, long most, struct event *events, void *timeout)
{
    long count = syscall(SYS_io_getevents, context, least, most, events, timeout);
    for (long i = 0; i < count; i++)
        if (failing && events[i].iocb == failing) events[i].result = -plan->number, failing = 0;
    return count < 0 ? -errno : (int)count;
}
