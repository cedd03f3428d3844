/* Has threads that register TLS destructors and run them, as standard input says: start K, owe K LIBRARY OBJECT, run K,
 * end K, die K (without running any), with K the number of a thread; open and close LIBRARY by the main thread. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

int __cxa_thread_atexit_impl(void (*function)(void *), void *object, void *handle);

static struct worker {
    pthread_t thread;
    sem_t begin, done;
    char word[16];
    void *handle, *function;
    long object;
    int tid;
} workers[32];

static void *work(void *argument)
{
    struct worker *self = argument;
    void (*run)(void) = (void (*)(void))dlsym(RTLD_DEFAULT, "__call_tls_dtors");
    self->tid = gettid();
    for (;;) {
        sem_post(&self->done);
        sem_wait(&self->begin);
        if (!strcmp(self->word, "owe"))
            __cxa_thread_atexit_impl((void (*)(void *))self->function, (void *)self->object, self->handle);
        else if (!strcmp(self->word, "run"))
            run();
        else if (!strcmp(self->word, "end"))
            return NULL;
        else
            syscall(SYS_exit, 0);
    }
}

int main(void)
{
    char line[600], word[16], name[256];
    setvbuf(stdout, NULL, _IONBF, 0);
    puts("ready");
    while (fgets(line, sizeof line, stdin)) {
        unsigned number = 0;
        long object = 0;
        if (sscanf(line, "open %255s", name) == 1) {
            if (!dlopen(name, RTLD_NOW))
                exit(3);
        } else if (sscanf(line, "close %255s", name) == 1) {
            void *handle = dlopen(name, RTLD_NOW | RTLD_NOLOAD);
            dlclose(handle);
            dlclose(handle);
        } else if (sscanf(line, "%15s %u %255s %ld", word, &number, name, &object) >= 2 && number < 32) {
            struct worker *chosen = workers + number;
            if (!strcmp(word, "start")) {
                sem_init(&chosen->begin, 0, 0);
                sem_init(&chosen->done, 0, 0);
                pthread_create(&chosen->thread, NULL, work, chosen);
            } else {
                if (!strcmp(word, "owe")) {
                    void *library = dlopen(name, RTLD_NOW | RTLD_NOLOAD);
                    chosen->function = dlsym(library, "destroy");
                    chosen->handle = chosen->function;
                    chosen->object = object;
                    dlclose(library);
                }
                strcpy(chosen->word, word);
                sem_post(&chosen->begin);
            }
            if (!strcmp(word, "end"))
                pthread_join(chosen->thread, NULL);
            else if (!strcmp(word, "die"))
                while (tgkill(getpid(), chosen->tid, 0) == 0 || errno != ESRCH)
                    usleep(100);
            else
                sem_wait(&chosen->done);
        }
        puts("done");
    }
    return 0;
}
