/* Lets User Mode Linux older than 6.13 run on processors whose extended state is larger than it expects.
 *
 * Its buffer for that state ends before the registers of AMX, and the host refuses to set a part of the state.
 * Preloaded, this sets all of it: the part that is known, and the rest as the traced process has it. It sets nothing
 * where nothing has changed since the state was got, as after most system calls: that takes half of the time of one.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <elf.h>
#include <errno.h>
#include <stdarg.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/uio.h>

enum { STATE_SIZE_MAX = 1 << 16, PART_SIZE_MAX = 1 << 12, KEPT = 64 };

static long (*original)(enum __ptrace_request, ...);

/* What was got last of a process that has not run since; its place in the table is its number. */
static struct kept {
    int process;
    size_t size;
    char part[PART_SIZE_MAX];
} table[KEPT];

static long set(int process, const struct iovec *part)
{
    static char state[STATE_SIZE_MAX];
    struct iovec all = {state, sizeof state};

    if (original(PTRACE_GETREGSET, process, (void *)NT_X86_XSTATE, &all) != 0)
        return -1;
    memcpy(state, part->iov_base, part->iov_len < all.iov_len ? part->iov_len : all.iov_len);
    return original(PTRACE_SETREGSET, process, (void *)NT_X86_XSTATE, &all);
}

long ptrace(enum __ptrace_request request, ...)
{
    va_list list;

    if (!original && !(original = (long (*)(enum __ptrace_request, ...))dlsym(RTLD_NEXT, "ptrace"))) {
        errno = ENOSYS;
        return -1;
    }
    va_start(list, request);
    int process = va_arg(list, int);
    void *address = va_arg(list, void *);
    void *data = va_arg(list, void *);
    va_end(list);

    struct kept *kept = &table[(unsigned)process % KEPT];
    const struct iovec *part = data;
    if (request == PTRACE_GETREGSET && address == (void *)NT_X86_XSTATE) {
        long result = original(request, process, address, data);
        kept->process = result == 0 && part->iov_len <= PART_SIZE_MAX ? process : 0;
        if (kept->process)
            memcpy(kept->part, part->iov_base, kept->size = part->iov_len);
        return result;
    }
    if (request == PTRACE_SETREGSET && address == (void *)NT_X86_XSTATE) {
        if (kept->process == process && kept->size == part->iov_len
            && memcmp(kept->part, part->iov_base, part->iov_len) == 0)
            return 0;
        if (kept->process == process)
            kept->process = 0;
        return set(process, part);
    }
    if (request != PTRACE_GETREGS && request != PTRACE_SETREGS && kept->process == process)
        kept->process = 0;
    return original(request, process, address, data);
}
