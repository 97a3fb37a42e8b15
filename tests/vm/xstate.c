/* Lets User Mode Linux older than 6.13 run on processors whose extended state is larger than it expects.
 *
 * Its buffer for that state ends before the registers of AMX, and the host refuses to set a part of the state.
 * Preloaded, this sets all of it: the part that is known, and the rest as the traced process has it.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <elf.h>
#include <errno.h>
#include <stdarg.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/uio.h>

enum { STATE_SIZE_MAX = 1 << 16 };

long ptrace(enum __ptrace_request request, ...)
{
    static long (*original)(enum __ptrace_request, ...);
    static char state[STATE_SIZE_MAX];
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
    if (request != PTRACE_SETREGSET || address != (void *)NT_X86_XSTATE)
        return original(request, process, address, data);

    const struct iovec *part = data;
    struct iovec all = {state, sizeof state};
    if (original(PTRACE_GETREGSET, process, address, &all) != 0)
        return -1;
    memcpy(state, part->iov_base, part->iov_len < all.iov_len ? part->iov_len : all.iov_len);
    return original(request, process, address, &all);
}
