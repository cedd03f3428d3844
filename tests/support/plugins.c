/* Does with plugins what standard input says: open NAME MODE, call NAME FUNCTION, close NAME, thread NAME FUNCTION. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct plugin {
    char name[256];
    void *handle;
} plugins[16];

static struct plugin *plugin(const char *name)
{
    struct plugin *each = plugins;
    while (each->name[0] && strcmp(each->name, name) != 0)
        ++each;
    strcpy(each->name, name);
    return each;
}

static void fail(void)
{
    printf("%s\n", dlerror());
    exit(3);
}

static sem_t done;

static void *run(void *work)
{
    ((void (*)(void))work)();
    sem_post(&done);
    for (;;)
        pause();
}

#ifdef CALLS_START
/* Of a start-up library, which is bound lazily to what an opened library defines. */
void start(void);
#endif

int main(void)
{
    char line[600], name[256], what[256];
    setvbuf(stdout, NULL, _IONBF, 0);
    sem_init(&done, 0, 0);
    puts("ready");
    while (fgets(line, sizeof line, stdin)) {
        int words = sscanf(line, "%*s %255s %255s", name, what);
        struct plugin *found = plugin(words > 0 ? name : "");
        if (strncmp(line, "open", 4) == 0) {
            found->handle = dlopen(name, atoi(what));
            if (found->handle == NULL)
                fail();
        } else if (strncmp(line, "close", 5) == 0) {
            if (dlclose(found->handle) != 0)
                fail();
        } else if (strncmp(line, "start", 5) == 0) {
#ifdef CALLS_START
            start();
#endif
        } else {
            void *work = dlsym(found->handle, what);
            pthread_t thread;
            if (work == NULL)
                fail();
            if (strncmp(line, "call", 4) == 0) {
                ((void (*)(void))work)();
            } else {
                pthread_create(&thread, NULL, run, work);
                sem_wait(&done);
            }
        }
        puts("done");
    }
    return 0;
}
