/* Refuses the permission to use AMX tiles, so that llama.cpp takes its AVX-512 kernels.
 *
 * For virtual machines that advertise AMX and fault at its first instruction:
 *   gcc -shared -fPIC -o without_amx.so without_amx.c -ldl
 *   LD_PRELOAD=./without_amx.so python llama_worker.py ...
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdarg.h>
#include <sys/syscall.h>

#define ARCH_REQ_XCOMP_PERM 0x1023

long syscall(long number, ...) {
    static long (*real)(long, ...);
    long a[6];
    va_list list;
    va_start(list, number);
    for (int i = 0; i < 6; i++) a[i] = va_arg(list, long);
    va_end(list);
    if (number == SYS_arch_prctl && a[0] == ARCH_REQ_XCOMP_PERM) {
        errno = EINVAL;
        return -1;
    }
    if (!real) real = (long (*)(long, ...))dlsym(RTLD_NEXT, "syscall");
    return real(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}
