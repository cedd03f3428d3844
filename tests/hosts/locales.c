/* Names that are not ASCII, or not UTF-8: of folders, a source file, libraries and a thread.

   The arguments are libraries; each is opened and closed, the last two stay, the very last one by a thread's destructor. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

int __cxa_thread_atexit_impl(void (*)(void *), void *, void *);

static pthread_barrier_t ready;

static void *owe(void *library)
{
    /* The kernel keeps 15 bytes: the first one of two. */
    pthread_setname_np(pthread_self(), "0123456789abcd\xc3");
    __cxa_thread_atexit_impl((void (*)(void *))dlsym(library, "destroy"), NULL, dlsym(library, "variable"));
    pthread_barrier_wait(&ready);
    pause();
    return NULL;
}

void stop_here(int number)
{
    (void)number;
}

int main(int count, char **names)
{
    pthread_t thread;
    void *last = NULL;
    for (int i = 1; i < count; i++) {
        last = dlopen(names[i], RTLD_NOW);
        if (last == NULL)
            return 3;
        if (i < count - 1)
            dlclose(last);
    }
    if (dlopen(names[1], RTLD_NOW) == NULL)
        return 4;
    pthread_barrier_init(&ready, NULL, 2);
    pthread_create(&thread, NULL, owe, last);
    pthread_barrier_wait(&ready);
    dlclose(last);
    stop_here(1);
    if (getenv("WAIT")) {
        puts("ready");
        fflush(stdout);
        pause();
    }
    _exit(0);
}
