/* Opens and closes as it is told on stdin, one command per line, and says "." when it is done. Handles are addresses.
 *
 * open MODE PATH | space PATH | close HANDLE | fork HANDLE PATH
 * call LIB_CALL INDEX | find LIB_FIND NAME | owe LIB_OWE THREAD | main NAME | exit THREAD
 *
 * LIB_X is the address of that function of a library: dlsym crashes on one that is no handle. Thread 0 is the main one.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define THREADS 8

/* By the name that every glibc has: headers since 2.38 make strtoul, atoi and atol want __isoc23_strtoul. */
unsigned long parse(const char *text, char **end, int base) __asm__("strtoul");

static struct worker {
    pthread_t thread;
    int orders[2], done[2], runs;
} workers[THREADS];

static void *work(void *argument)
{
    struct worker *self = argument;
    void (*owe)(void);
    while (read(self->orders[0], &owe, sizeof owe) == sizeof owe && owe) {
        owe();
        if (write(self->done[1], "", 1) != 1)
            _exit(5);
    }
    return NULL;
}

static void order(int number, void (*owe)(void))
{
    struct worker *worker = &workers[number];
    char byte;
    if (!worker->runs) {
        if (pipe(worker->orders) || pipe(worker->done) || pthread_create(&worker->thread, NULL, work, worker))
            _exit(6);
        worker->runs = 1;
    }
    if (write(worker->orders[1], &owe, sizeof owe) != sizeof owe)
        _exit(7);
    if (owe ? read(worker->done[0], &byte, 1) != 1 : pthread_join(worker->thread, NULL) != 0)
        _exit(8);
    if (!owe) {
        worker->runs = 0;
        close(worker->orders[0]), close(worker->orders[1]), close(worker->done[0]), close(worker->done[1]);
    }
}

static void tell(void *handle)
{
    if (handle)
        dprintf(1, "handle %p\n", handle);
    else
        dprintf(1, "error %s\n", dlerror());
}

/* Closes in a child, which shows what is left until its stdin, shared with the parent, gives it a byte. */
static void try_in_child(void *handle, const char *path)
{
    pid_t child = fork();
    if (child) {
        waitpid(child, NULL, 0);
        return;
    }
    int (*state)(void) = (int (*)(void))dlsym(handle, "lib_state");
    char byte;
    if (state)
        state();
    dprintf(1, "returned %d\n", dlclose(handle));
    dprintf(1, "child %d\n", (int)getpid());
    if (read(0, &byte, 1) != 1)
        _exit(9);
    void *again = state ? dlopen(path, RTLD_LAZY) : NULL;
    state = again ? (int (*)(void))dlsym(again, "lib_state") : NULL;
    if (state)
        dprintf(1, "state %d\n", state());
    _exit(0);
}

static void *as_address(const char *word)
{
    return (void *)parse(word, NULL, 16);
}

static void obey(char *line)
{
    char *word[3] = {"", "", ""};
    for (int i = 0; i < 3 && (word[i] = strsep(&line, " ")); i++)
        ;
    void *volatile found;
    if (!strcmp(word[0], "open"))
        tell(dlopen(word[2], (int)parse(word[1], NULL, 16)));
    else if (!strcmp(word[0], "space"))
        tell(dlmopen(LM_ID_NEWLM, word[1], RTLD_LAZY));
    else if (!strcmp(word[0], "close"))
        dprintf(1, "returned %d\n", dlclose(as_address(word[1])));
    else if (!strcmp(word[0], "call"))
        ((void (*)(long))as_address(word[1]))((long)parse(word[2], NULL, 10));
    else if (!strcmp(word[0], "find"))
        ((void (*)(const char *))as_address(word[1]))(word[2]);
    else if (!strcmp(word[0], "main"))
        found = dlsym(RTLD_DEFAULT, word[1]), (void)found;
    else if (!strcmp(word[0], "owe")) {
        void (*owe)(void) = (void (*)(void))as_address(word[1]);
        if (parse(word[2], NULL, 10))
            order((int)parse(word[2], NULL, 10), owe);
        else
            owe();
    } else if (!strcmp(word[0], "exit"))
        order((int)parse(word[1], NULL, 10), NULL);
    else if (!strcmp(word[0], "fork"))
        try_in_child(as_address(word[1]), word[2]);
    else
        dprintf(1, "what is %s?\n", word[0]);
    dprintf(1, ".\n");
}

int main(void)
{
    char line[512];
    size_t length = 0;
    dprintf(1, ".\n");
    /* Byte by byte: what follows a line can be meant for a child. */
    while (length < sizeof line && read(0, line + length, 1) == 1) {
        if (line[length] != '\n') {
            length++;
            continue;
        }
        line[length] = 0;
        length = 0;
        obey(line);
    }
    _exit(0);
}
