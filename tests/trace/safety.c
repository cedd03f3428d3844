/* What can go wrong for a debugger that watches opens and closes; the first argument says what is done. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

int __cxa_thread_atexit_impl(void (*)(void *), void *, void *);

static const char *other;

static void handle(int number)
{
    (void)number;
}

static void cycle(void)
{
    void *handle = dlopen(other, RTLD_NOW);
    if (handle == NULL || dlclose(handle) != 0)
        _exit(3);
}

static void *cycles(void *count)
{
    for (long i = 0; i < (long)count; i++)
        cycle();
    return NULL;
}

/* A namespace comes and goes, with an entry of its own for ld.so. */
static void space(void)
{
    void *handle = dlmopen(LM_ID_NEWLM, other, RTLD_NOW);
    if (handle == NULL || dlclose(handle) != 0)
        _exit(4);
}

static void child(char **again)
{
    pid_t pid = fork();
    if (pid == 0) {
        cycle();
        if (again)
            execv(again[0], again);
        _exit(0);
    }
    int status;
    if (waitpid(pid, &status, 0) != pid || status != 0)
        _exit(5);
}

int main(int count, char **words)
{
    pthread_t threads[4];
    const char *what = count > 1 ? words[1] : "";
    other = count > 2 ? words[2] : "libother.so";
    signal(SIGUSR1, handle);
    cycle();
    if (!strcmp(what, "spaces"))
        for (int i = 0; i < 3; i++)
            space(), cycle();
    else if (!strcmp(what, "fork"))
        child(NULL), cycle();
    else if (!strcmp(what, "fork-exec"))
        child((char *[]){words[0], "nothing", (char *)other, NULL}), cycle();
    else if (!strcmp(what, "exec"))
        execv(words[0], (char *[]){words[0], "nothing", (char *)other, NULL});
    else if (!strcmp(what, "threads")) {
        for (int i = 0; i < 4; i++)
            if (pthread_create(&threads[i], NULL, cycles, (void *)20L))
                _exit(6);
        for (int i = 0; i < 4; i++)
            pthread_join(threads[i], NULL);
    } else if (!strcmp(what, "failures")) {
        for (int i = 0; i < 2; i++)
            if (dlopen("libmissing.so", RTLD_NOW))
                _exit(7);
    } else if (!strcmp(what, "vainly")) {
        /* The program itself: open once before, so that the third close finds it not open. */
        void *self = dlopen(NULL, RTLD_NOW);
        for (int i = 0; i < 3; i++)
            if ((dlclose(self) != 0) != (i == 2))
                _exit(8);
        dlopen(NULL, RTLD_NOW);
        static long nothing[512];
        dlclose(nothing);
    } else if (!strcmp(what, "owes")) {
        /* The destructor is in the library that was opened last, and keeps the one before. */
        void *kept = dlopen(other, RTLD_NOW), *owner = dlopen("libm.so.6", RTLD_NOW);
        __cxa_thread_atexit_impl((void (*)(void *))dlsym(owner, "cosh"), NULL, dlsym(kept, "other"));
        dlclose(kept);
    } else if (!strcmp(what, "binds")) {
        dlopen(other, RTLD_NOW | RTLD_GLOBAL);
        if (dlsym(RTLD_DEFAULT, "other") == NULL)
            _exit(9);
        cycle();
    } else if (!strcmp(what, "leave")) {
        /* Never closed, once here and twice there. */
        dlopen(other, RTLD_NOW);
        cycles((void *)2L);
        for (int i = 0; i < 2; i++)
            dlopen(other, RTLD_NOW);
    } else if (!strcmp(what, "busily"))
        for (;;)
            cycle();
    else if (!strcmp(what, "lazily"))
        for (;;)
            cycle(), usleep(100000);
    puts("done");
    return 0;
}
