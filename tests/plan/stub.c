/* Stands for the C and C++ libraries when a graph is linked: without versions, so that it runs with every glibc. */
#define STUB(name) void name(void) {}
STUB(__libc_start_main) STUB(__cxa_thread_atexit) STUB(__cxa_thread_atexit_impl) STUB(_exit) STUB(atoi) STUB(atol)
STUB(close) STUB(dlclose) STUB(dlerror) STUB(dlmopen) STUB(dlopen) STUB(dlsym) STUB(dprintf) STUB(fork) STUB(getenv)
STUB(getpid) STUB(pipe) STUB(pthread_create) STUB(pthread_join) STUB(read) STUB(strcat) STUB(strcmp) STUB(strlen)
STUB(strsep) STUB(strtol) STUB(strtoul) STUB(waitpid) STUB(write) STUB(__tls_get_addr)
