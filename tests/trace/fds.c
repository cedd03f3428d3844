/* A plugin that leaves a descriptor open, one that does not, and a program that opens its own at the wrong time. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#ifdef LEAKY
static int kept;
int lock_file(void) { return kept = open(LEAKY, O_CREAT | O_RDWR, 0600); }
void start(void) { lock_file(); }
#elif defined(CLEAN)
static int held;
void start(void) { held = open(CLEAN, O_CREAT | O_RDWR, 0600); }
__attribute__((destructor)) static void finish(void) { close(held); }
#else
static void cycle(const char *name)
{
    void *handle = dlopen(name, RTLD_NOW);
    void (*start)(void) = handle ? (void (*)(void))dlsym(handle, "start") : NULL;
    if (!start)
        _exit(3);
    start();
    if (dlclose(handle))
        _exit(4);
    /* The program's own, between two closes. */
    if (open("/dev/null", O_RDONLY) < 0)
        _exit(5);
}

int main(int count, char **words)
{
    for (int i = 0; i < 3; i++)
        for (int j = 1; j < count; j++)
            cycle(words[j]);
    puts("done");
    return 0;
}
#endif
